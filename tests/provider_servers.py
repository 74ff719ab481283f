"""Servers on real sockets that speak Anthropic's and Gemini's APIs, as strictly as those do.

Both refuse what the real ones refuse, so that a test that gets an answer has
shown that its request was well formed. Each listens on a free loopback port
and ends with the `with` block that started it.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from servers import Received

JSONObject = dict[str, Any]


class Refusal(Exception):
    """That a request is not what the API takes."""

    def __init__(self, status: int, code: str, said: str) -> None:
        super().__init__(said)
        self.status, self.code, self.said = status, code, said


class PatientServer(ThreadingHTTPServer):
    """Takes many connections at once; where the library's five are waiting, others are reset."""

    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that go away in the middle are what some tests are about.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class ProviderServer:
    """Answers requests one after another on each connection, and remembers them."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received("POST", self.path, headers, body, 0)
                outer.requests.append(received)
                status, answer = outer.answer(received)
                self.send_response(status)
                for name, value in outer.make_headers().items():
                    self.send_header(name, value)
                if isinstance(answer, dict):
                    self.reply_whole(json.dumps(answer).encode())
                else:
                    self.reply_in_events(answer)

            def reply_whole(self, content: bytes) -> None:
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def reply_in_events(self, events: Sequence[JSONObject]) -> None:
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for event in events:
                    written = write_event(event)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(written), written))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = PatientServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    @property
    def bodies(self) -> list[JSONObject]:
        """What was asked, in order."""
        return [json.loads(received.body) for received in self.requests]

    def answer(self, received: Received) -> tuple[int, JSONObject | list[JSONObject]]:
        """Returns a status, and a body or the events of a stream."""
        try:
            return 200, self.serve(received, json.loads(received.body))
        except Refusal as refusal:
            return refusal.status, self.write_refusal(refusal)

    def serve(self, received: Received, body: JSONObject) -> JSONObject | list[JSONObject]:
        raise NotImplementedError

    def write_refusal(self, refusal: Refusal) -> JSONObject:
        raise NotImplementedError

    def make_headers(self) -> Mapping[str, str]:
        return {}

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def write_event(event: JSONObject) -> bytes:
    """Writes a server-sent event; one that has a type is also named so, as Anthropic does."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def invent(schema: JSONObject) -> Any:
    """Returns a value that follows a simple schema."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: invent(inner) for name, inner in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [invent(schema.get("items", {}))]
    return {"integer": 7, "number": 0.5, "boolean": True}.get(str(schema.get("type")), "Oslo ☃")


def check_keys(where: str, value: JSONObject, known: str) -> None:
    for key in value:
        if key not in known.split():
            raise Refusal(400, "invalid", f"{where}{key}: Extra inputs are not permitted")


class AnthropicServer(ProviderServer):
    """`POST /v1/messages`.

    It says back the last text; asks for every tool when one of them must be
    used or the text says "tools"; follows a schema; thinks when the text says
    "think"; declines when it says "forbidden"; is cut when it says "long".
    """

    def make_headers(self) -> Mapping[str, str]:
        return {"request-id": f"req_{len(self.requests)}"}

    def write_refusal(self, refusal: Refusal) -> JSONObject:
        return {"type": "error", "error": {"type": refusal.code, "message": refusal.said}}

    def serve(self, received: Received, body: JSONObject) -> JSONObject | list[JSONObject]:
        if received.path != "/v1/messages":
            raise Refusal(404, "not_found_error", "Not found")
        if received.headers.get("authorization") != "Bearer key":
            raise Refusal(401, "authentication_error", "invalid bearer token")
        self.check(body, received.headers.get("anthropic-version", ""))
        if body["model"] == "claude-missing":
            raise Refusal(404, "not_found_error", "model: claude-missing")
        message = self.make_message(body)
        return list(to_events(message)) if body.get("stream") else message

    def check(self, body: JSONObject, version: str) -> None:
        known = (
            "model max_tokens messages system metadata stop_sequences stream thinking tools "
            "tool_choice output_config service_tier"
        )
        try:
            if version == "2023-06-01":
                known += " temperature top_p top_k"
            elif version != "2026-10-21":
                raise Refusal(400, "", f"anthropic-version: {version!r} is not a valid version")
            check_keys("", body, known)
            assert body["max_tokens"] > 0
            for block in body.get("system", []):
                check_block(block, "text")
            check_messages(body["messages"])
            for tool in body.get("tools", []):
                check_keys("tools.", tool, "name description input_schema strict")
                assert tool["input_schema"]["type"] == "object"
                if tool.get("strict"):
                    check_strict(tool["input_schema"])
            choice = body.get("tool_choice", {"type": "auto"})
            check_keys("tool_choice.", choice, "type name disable_parallel_tool_use")
            wanted = body.get("output_config", {}).get("format")
            if wanted:
                assert wanted["type"] == "json_schema"
                check_strict(wanted["schema"])
        except (AssertionError, KeyError, TypeError) as error:
            raise Refusal(400, "invalid_request_error", f"malformed: {error!r}") from error
        except Refusal as refusal:
            refusal.code = "invalid_request_error"
            raise

    def make_message(self, body: JSONObject) -> JSONObject:
        said = find_last_text(body["messages"])
        blocks: list[JSONObject] = []
        reason = "end_turn"
        if "think" in said:
            blocks.append({"type": "thinking", "thinking": "Hm ☃.", "signature": "sig=="})
        choice = body.get("tool_choice", {"type": "auto"})
        wanted = body.get("output_config", {}).get("format")
        tools = body.get("tools", [])
        if tools and (choice["type"] in ("any", "tool") or "tools" in said):
            if choice["type"] == "auto":
                blocks.append({"type": "text", "text": "Let me look."})
            if choice["type"] == "tool":
                tools = [tool for tool in tools if tool["name"] == choice["name"]]
            if choice.get("disable_parallel_tool_use"):
                tools = tools[:1]
            for number, tool in enumerate(tools):
                value = invent(tool["input_schema"])
                call = {"type": "tool_use", "id": f"toolu_{len(self.requests)}_{number}"}
                blocks.append({**call, "name": tool["name"], "input": value})
            reason = "tool_use"
        elif "forbidden" in said:
            reason = "refusal"
        else:
            text = json.dumps(invent(wanted["schema"])) if wanted else f"You said: {said}"
            if "long" in said:
                text, reason = text[:12], "max_tokens"
            blocks.append({"type": "text", "text": text})
        details = {"type": "refusal", "category": None, "explanation": "I had rather not."}
        return {
            "id": f"msg_{len(self.requests)}",
            "type": "message",
            "role": "assistant",
            "model": body["model"] + "-dated",
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": None,
            "stop_details": details if reason == "refusal" else None,
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 20,
                "cache_read_input_tokens": 300,
                "output_tokens": 50,
                "output_tokens_details": {"thinking_tokens": 40},
            },
        }


def find_last_text(messages: Sequence[JSONObject]) -> str:
    texts = [
        block["text"]
        for message in messages
        for block in message["content"]
        if block["type"] == "text"
    ]
    return texts[-1] if texts else ""


BLOCKS = {
    "text": "type text",
    "image": "type source",
    "tool_use": "type id name input",
    "tool_result": "type tool_use_id content is_error",
    "thinking": "type thinking signature",
}


def check_block(block: JSONObject, *kinds: str) -> None:
    assert block["type"] in kinds, f"a block of type {block['type']} here"
    check_keys(f"{block['type']}.", block, BLOCKS[block["type"]])
    if block["type"] == "text" and not block["text"].strip():
        raise Refusal(400, "", "messages: text content blocks must contain non-whitespace text")
    if block["type"] == "image":
        source = block["source"]
        assert source["type"] in ("url", "base64")
        assert source["type"] == "url" or source["media_type"] in (
            "image/jpeg",
            "image/png",
            "image/gif",
            "image/webp",
        )
    if block["type"] == "tool_use":
        assert isinstance(block["input"], dict)
    if block["type"] == "tool_result":
        for inner in block["content"]:
            check_block(inner, "text", "image")


def check_messages(messages: Sequence[JSONObject]) -> None:
    assert messages, "no messages"
    assert messages[-1]["role"] == "user", "the conversation must end with a user message"
    open_calls: list[str] = []
    for place, message in enumerate(messages):
        check_keys(f"messages.{place}.", message, "role content")
        assert message["role"] == ("user", "assistant")[place % 2 ^ (messages[0]["role"] != "user")]
        assert message["content"], "an empty message"
        kinds = [block["type"] for block in message["content"]]
        mine = message["role"] == "assistant"
        allowed = ("text", "tool_use", "thinking") if mine else ("text", "image", "tool_result")
        for block in message["content"]:
            check_block(block, *allowed)
        if mine:
            assert "thinking" not in kinds[1:], "thinking comes first"
            open_calls = [
                block["id"] for block in message["content"] if block["type"] == "tool_use"
            ]
        else:
            results = kinds.count("tool_result")
            assert kinds[:results] == ["tool_result"] * results, "tool results come first"
            answered = [block["tool_use_id"] for block in message["content"][:results]]
            assert sorted(answered) == sorted(open_calls), "each call has one result"


def check_strict(schema: Any) -> None:
    """Refuses what strict schemas may not have."""
    if isinstance(schema, list):
        for inner in schema:
            check_strict(inner)
    elif isinstance(schema, dict):
        for keyword in ("minimum", "maximum", "maxLength", "pattern", "maxItems"):
            if keyword in schema and not isinstance(schema[keyword], dict):
                raise Refusal(400, "", f"output_config.format.schema: {keyword!r} is not supported")
        if schema.get("type") == "object":
            assert schema.get("additionalProperties") is False, "additionalProperties must be false"
        for inner in schema.values():
            check_strict(inner)


def to_events(message: JSONObject) -> Iterator[JSONObject]:
    """Yields the events in which Anthropic streams a message."""
    usage = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "stop_details": None}
    yield {"type": "message_start", "message": {**start, "usage": {**usage, "output_tokens": 1}}}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        empty, deltas = take_apart(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending = ("stop_reason", "stop_sequence", "stop_details")
    yield {
        "type": "message_delta",
        "delta": {name: message[name] for name in ending},
        "usage": {"output_tokens": usage["output_tokens"], "input_tokens": None},
    }
    yield {"type": "message_stop"}


def take_apart(block: JSONObject) -> tuple[JSONObject, list[JSONObject]]:
    if block["type"] == "text":
        pieces = re.findall(r"\S+\s*|\s+", block["text"])
        return {**block, "text": ""}, [{"type": "text_delta", "text": text} for text in pieces]
    if block["type"] == "tool_use":
        written = json.dumps(block["input"])
        halves = [written[: len(written) // 2], written[len(written) // 2 :]]
        deltas = [{"type": "input_json_delta", "partial_json": half} for half in ["", *halves]]
        return {**block, "input": {}}, deltas
    return {"type": "thinking", "thinking": "", "signature": ""}, [
        {"type": "thinking_delta", "thinking": block["thinking"]},
        {"type": "signature_delta", "signature": block["signature"]},
    ]


class GeminiServer(ProviderServer):
    """`generateContent`, `streamGenerateContent` and `batchEmbedContents` of the Gemini API.

    It says back the last text, and otherwise heeds the words that `AnthropicServer` heeds;
    "blocked" is refused before it reaches the model.
    """

    def write_refusal(self, refusal: Refusal) -> JSONObject:
        error = {"code": refusal.status, "message": refusal.said, "status": refusal.code}
        return {"error": error}

    def serve(self, received: Received, body: JSONObject) -> JSONObject | list[JSONObject]:
        place = re.fullmatch(r"/(v1|v1beta)/models/([^:]+):(\w+)", urlsplit(received.path).path)
        if place is None:
            raise Refusal(404, "NOT_FOUND", "Not found")
        if received.headers.get("x-goog-api-key") != "key":
            raise Refusal(
                400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."
            )
        _, model, verb = place.groups()
        if model == "gemini-missing":
            raise Refusal(404, "NOT_FOUND", "models/gemini-missing is not found for API version v1")
        if verb == "batchEmbedContents":
            return self.embed(body)
        try:
            check_contents(body, strict=not model.startswith(("gemini-1", "gemini-2")))
        except (AssertionError, KeyError, TypeError) as error:
            raise Refusal(400, "INVALID_ARGUMENT", f"malformed: {error!r}") from error
        except Refusal as refusal:
            refusal.code = "INVALID_ARGUMENT"
            raise
        answer = self.make_answer(body, model)
        if verb == "generateContent":
            return answer
        assert (verb, urlsplit(received.path).query) == ("streamGenerateContent", "alt=sse")
        return list(to_chunks(answer))

    def embed(self, body: JSONObject) -> JSONObject:
        vectors = []
        for request in body["requests"]:
            check_keys("requests.", request, "model content outputDimensionality taskType title")
            (part,) = request["content"]["parts"]
            count = request.get("outputDimensionality", 4)
            vectors.append({"values": [float(len(part["text"]))] + [0.25] * (count - 1)})
        return {"embeddings": vectors, "usageMetadata": {"promptTokenCount": 3 * len(vectors)}}

    def make_answer(self, body: JSONObject, model: str) -> JSONObject:
        said = find_last_said(body["contents"])
        settings = body.get("generationConfig", {})
        facts = {"modelVersion": model + "-001", "responseId": f"resp-{len(self.requests)}"}
        usage = {
            "promptTokenCount": 30,
            "cachedContentTokenCount": 20,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 40,
            "totalTokenCount": 75,
        }
        if "blocked" in said:
            return {**facts, "promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage}
        parts: list[JSONObject] = []
        reason = "STOP"
        if "think" in said:
            parts.append({"text": "Hm ☃.", "thought": True})
        tools = [tool for part in body.get("tools", []) for tool in part["functionDeclarations"]]
        calling = body.get("toolConfig", {}).get("functionCallingConfig", {"mode": "AUTO"})
        if tools and (calling["mode"] == "ANY" or ("tools" in said and calling["mode"] != "NONE")):
            names = calling.get("allowedFunctionNames")
            chosen = [tool for tool in tools if not names or tool["name"] in names]
            for number, tool in enumerate(chosen):
                call: JSONObject = {
                    "name": tool["name"],
                    "args": invent(tool["parametersJsonSchema"]),
                }
                if not model.startswith("gemini-2"):
                    call["id"] = f"fc-{len(self.requests)}-{number}"
                signed = {} if number else {"thoughtSignature": "c2ln+/8="}
                parts.append({"functionCall": call, **signed})
        elif "forbidden" in said:
            reason = "SAFETY"
        elif "muddle" in said:
            reason = "MALFORMED_FUNCTION_CALL"
        else:
            schema = settings.get("responseJsonSchema")
            text = json.dumps(invent(schema)) if schema else f"You said: {said}"
            if settings.get("responseMimeType") == "application/json" and not schema:
                text = json.dumps({"said": said})
            if "long" in said:
                text, reason = text[:12], "MAX_TOKENS"
            parts.append({"text": text})
        candidate: JSONObject = {"finishReason": reason}
        if parts:
            candidate["content"] = {"role": "model", "parts": parts}
        if settings.get("responseLogprobs"):
            token = {"token": "You", "tokenId": 1, "logProbability": -0.5}
            candidate["logprobsResult"] = {
                "chosenCandidates": [token],
                "topCandidates": [{"candidates": [token]}],
            }
        count = settings.get("candidateCount", 1)
        candidates = [{**candidate, "index": index} for index in range(count)]
        return {**facts, "candidates": candidates, "usageMetadata": usage}


def find_last_said(contents: Sequence[JSONObject]) -> str:
    texts = [part["text"] for content in contents for part in content["parts"] if "text" in part]
    return texts[-1] if texts else ""


PARTS = {
    "text": "text thoughtSignature",
    "inlineData": "inlineData",
    "fileData": "fileData",
    "functionCall": "functionCall thoughtSignature",
    "functionResponse": "functionResponse",
}


def check_contents(body: JSONObject, *, strict: bool) -> None:
    known = "contents systemInstruction generationConfig tools toolConfig safetySettings"
    check_keys("", body, known)
    settings = (
        "temperature topP topK candidateCount maxOutputTokens stopSequences responseLogprobs "
        "logprobs presencePenalty frequencyPenalty seed responseMimeType responseJsonSchema "
        "thinkingConfig"
    )
    check_keys("generationConfig.", body.get("generationConfig", {}), settings)
    contents = body["contents"]
    assert contents, "contents is not specified"
    assert contents[0]["role"] == "user", "the conversation must begin with a user role"
    assert contents[-1]["role"] == "user", "the conversation must end with a user role"
    open_calls: list[tuple[str, str]] = []
    for place, content in enumerate(contents):
        assert content["role"] in ("user", "model")
        assert not place or content["role"] != contents[place - 1]["role"], "roles do not alternate"
        assert content["parts"], "parts must not be empty"
        for part in content["parts"]:
            kind = next(name for name in PARTS if name in part)
            check_keys("parts.", part, PARTS[kind])
        answered = [
            (part["functionResponse"]["id"], part["functionResponse"]["name"])
            for part in content["parts"]
            if "functionResponse" in part
        ]
        if content["role"] == "user":
            assert sorted(answered) == sorted(open_calls), "responses do not match the calls"
        calls = [part for part in content["parts"] if "functionCall" in part]
        open_calls = [(part["functionCall"]["id"], part["functionCall"]["name"]) for part in calls]
        if strict and calls and "thoughtSignature" not in calls[0]:
            raise Refusal(400, "", "Function call is missing a thought_signature")


def to_chunks(answer: JSONObject) -> Iterator[JSONObject]:
    """Yields the chunks in which Gemini streams an answer."""
    facts = {name: value for name, value in answer.items() if name != "candidates"}
    if "candidates" not in answer:
        yield facts
        return
    for candidate in answer["candidates"]:
        for part in candidate.get("content", {}).get("parts", []):
            for piece in split_part(part):
                content = {"role": "model", "parts": [piece]}
                yield {**facts, "candidates": [{"index": candidate["index"], "content": content}]}
    endings = [
        {name: value for name, value in candidate.items() if name != "content"}
        for candidate in answer["candidates"]
    ]
    yield {**facts, "candidates": endings}


def split_part(part: JSONObject) -> list[JSONObject]:
    if "text" not in part:
        return [part]
    return [{**part, "text": text} for text in re.findall(r"\S+\s*|\s+", part["text"])]
