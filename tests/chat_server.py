"""A real HTTP server that speaks OpenAI's chat API and answers as a test's function says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from provider_servers import PatientServer, write_event

JSONObject = dict[str, Any]

Answer = Callable[[JSONObject], "JSONObject | str | int"]
"""Is given a request's body; returns a message, its text alone, or an HTTP status."""


class ChatServer:
    """Answers chat requests, and remembers their bodies in the order in which they came.

    Args:
        answer: What the model says; called on the thread of the connection, so it may wait.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[JSONObject] = []
        self.counts_tokens = True
        """Whether answers say how many tokens they took."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.bodies.append(body)
                said = outer.answer(body)
                if isinstance(said, int):
                    self.reply(said, {"error": {"message": f"status {said} on demand"}})
                elif body.get("stream"):
                    self.reply_in_events(body, make_message(said))
                else:
                    self.reply(200, outer.count(wrap_message(body["model"], make_message(said))))

            def reply(self, status: int, answer: JSONObject) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def reply_in_events(self, body: JSONObject, message: JSONObject) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                for event in list_events(body["model"], message):
                    self.wfile.write(write_event(outer.count(event)))
                    self.wfile.flush()
                self.wfile.write(b"data: [DONE]\n\n")
                self.close_connection = True

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = PatientServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def count(self, answer: JSONObject) -> JSONObject:
        """Takes the tokens out of an answer where none are counted."""
        if not self.counts_tokens:
            answer.pop("usage", None)
        return answer

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def make_message(said: JSONObject | str) -> JSONObject:
    """Returns a message; a text alone becomes its content."""
    return {"role": "assistant", **({"content": said} if isinstance(said, str) else said)}


def call_tools(*calls: tuple[str, Mapping[str, Any] | str]) -> JSONObject:
    """Returns a message that calls tools: names, and arguments as they are or as a text."""
    written = [
        {
            "id": f"call_{place}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": given if isinstance(given, str) else json.dumps(given),
            },
        }
        for place, (name, given) in enumerate(calls)
    ]
    return {"content": None, "tool_calls": written}


def wrap_message(model: str, message: JSONObject) -> JSONObject:
    """Returns an answer as OpenAI's API gives it."""
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }


def list_events(model: str, message: JSONObject) -> Iterator[JSONObject]:
    """Yields the events of a streamed answer, a word at a time."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": model}

    def event(delta: JSONObject, reason: str | None = None) -> JSONObject:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    for place, call in enumerate(message.get("tool_calls") or ()):
        yield event({"role": "assistant", "tool_calls": [{**call, "index": place}]})
    for word in (message["content"] or "").split(" "):
        yield event({"content": f"{word} "})
    yield event({}, "tool_calls" if message.get("tool_calls") else "stop")
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    yield {**head, "choices": [], "usage": usage}


@contextmanager
def serve_chat(answer: Answer) -> Iterator[ChatServer]:
    """A `ChatServer` for the length of a block."""
    server = ChatServer(answer)
    try:
        yield server
    finally:
        server.close()
