"""From what Gemini's API answers to OpenAI's shape: pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tinytroupe.llm.errors import ContentFiltered, MalformedResponse
from tinytroupe.llm.rules.classify import classify_failure
from tinytroupe.llm.transports.answers import (
    load_object,
    make_choice,
    make_tool_call,
    make_usage,
    write_chat,
)

FINISH_REASONS: Mapping[str, str] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
            "ESCALATION",
            "PUP_LIMITED_DISABLED",
            "MODEL_ARMOR",
        ),
        "content_filter",
    ),
}
"""Gemini's `finishReason` → OpenAI's `finish_reason`."""


def translate_embeddings(content: bytes, model: str) -> bytes:
    """Says the vectors of `batchEmbedContents` in OpenAI's shape.

    Raises:
        MalformedResponse: There are none.
    """
    body = load_object(content)
    rows = [
        {"object": "embedding", "index": index, "embedding": row.get("values")}
        for index, row in enumerate(body.get("embeddings") or ())
    ]
    count = (body.get("usageMetadata") or {}).get("promptTokenCount")
    usage = {"prompt_tokens": count, "total_tokens": count} if count else None
    return orjson.dumps({"object": "list", "model": model, "data": rows, "usage": usage})


def translate_answer(content: bytes, created: int) -> tuple[bytes, str]:
    """Says an answer of `generateContent` in OpenAI's shape; returns also the answer's name.

    Args:
        content: The body that came.
        created: When it came, in seconds since 1970.

    Raises:
        MalformedResponse: It is no answer, or the model went wrong and says so.
        ContentFiltered: The prompt was refused.
        LLMAPIError: It is an error object.
    """
    body = load_object(content)
    if "error" in body:
        raise classify_failure(None, {}, content, created)
    try:
        return _translate(body, created), str(body.get("responseId") or "")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise MalformedResponse(
            f"the answer has not the shape of Gemini's: {error!r}",
            body=content[:1000].decode("utf-8", "replace"),
        ) from error


def _translate(body: dict[str, Any], created: int) -> bytes:
    candidates = body.get("candidates") or ()
    if not candidates:
        feedback = body.get("promptFeedback") or {}
        reason = feedback.get("blockReason")
        if reason:
            said = feedback.get("blockReasonMessage") or reason
            raise ContentFiltered(f"Gemini refused the prompt ({said})", status=200, code=reason)
        raise MalformedResponse("the answer has no candidates")
    answer_id = str(body.get("responseId") or hashlib.sha256(orjson.dumps(body)).hexdigest()[:16])
    return write_chat(
        [_translate_candidate(candidate, answer_id) for candidate in candidates],
        _translate_usage(body.get("usageMetadata")),
        answer_id=answer_id,
        model=str(body.get("modelVersion") or ""),
        created=created,
    )


def _translate_candidate(candidate: Mapping[str, Any], answer_id: str) -> dict[str, Any]:
    index, reason = candidate.get("index") or 0, candidate.get("finishReason")
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    extra: dict[str, Any] = {}
    for part in (candidate.get("content") or {}).get("parts") or ():
        signed = _carry_signature(part.get("thoughtSignature"))
        if "functionCall" in part:
            call = part["functionCall"]
            # Older models give their calls no names; results have to refer to something.
            call_id = call.get("id") or f"call_{answer_id}_{index}_{len(calls)}"
            calls.append(make_tool_call(call_id, call["name"], call.get("args") or {}, signed))
            continue
        if "text" in part and not part.get("thought"):
            texts.append(part["text"])
        if signed:
            extra["extra_content"] = signed
    if reason not in FINISH_REASONS and not (reason is None and texts):
        said = candidate.get("finishMessage") or ""
        raise MalformedResponse(f"the model gave no answer: {reason} {said}".rstrip())
    finish_reason = FINISH_REASONS.get(reason or "STOP")
    if calls and finish_reason == "stop":
        finish_reason = "tool_calls"
    choice = make_choice(texts, calls, finish_reason, extra, index)
    if candidate.get("logprobsResult"):
        choice["logprobs"] = _translate_logprobs(candidate["logprobsResult"])
    return choice


def _carry_signature(signature: str | None) -> dict[str, Any] | None:
    # Where Google's own OpenAI-compatible API puts it.
    return {"google": {"thought_signature": signature}} if signature else None


def _translate_logprobs(result: Mapping[str, Any]) -> dict[str, Any]:
    tops = result.get("topCandidates") or ()
    content = []
    for place, chosen in enumerate(result.get("chosenCandidates") or ()):
        others = tops[place].get("candidates") or () if place < len(tops) else ()
        row = _translate_token(chosen)
        content.append({**row, "top_logprobs": [_translate_token(other) for other in others]})
    return {"content": content}


def _translate_token(token: Mapping[str, Any]) -> dict[str, Any]:
    text = token.get("token") or ""
    return {
        "token": text,
        "logprob": token.get("logProbability"),
        "bytes": list(text.encode()),
    }


def _translate_usage(usage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not usage:
        return None
    thought = usage.get("thoughtsTokenCount") or 0
    return make_usage(
        (usage.get("promptTokenCount") or 0) + (usage.get("toolUsePromptTokenCount") or 0),
        (usage.get("candidatesTokenCount") or 0) + thought,
        cached=usage.get("cachedContentTokenCount") or 0,
        reasoning=thought,
    )


class AnswerBuilder:
    """Puts the chunks of a stream together into the answer that would have come unstreamed."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._candidates: dict[int, dict[str, Any]] = {}

    def add(self, chunk: dict[str, Any]) -> str:
        """Takes one chunk in; returns the text that it adds to the first candidate.

        Raises:
            MalformedResponse: It is no piece of an answer.
        """
        try:
            for name, value in chunk.items():
                if name != "candidates":
                    self._facts[name] = value
            candidates: Sequence[dict[str, Any]] = chunk.get("candidates") or ()
            return "".join([self._add_candidate(candidate) for candidate in candidates])
        except (KeyError, TypeError, AttributeError) as error:
            raise MalformedResponse(f"a piece of the stream cannot be read: {error!r}") from error

    def _add_candidate(self, piece: dict[str, Any]) -> str:
        index = piece.get("index") or 0
        whole = self._candidates.setdefault(index, {"content": {"role": "model", "parts": []}})
        parts = (piece.get("content") or {}).get("parts") or ()
        whole["content"]["parts"].extend(parts)
        whole.update({name: value for name, value in piece.items() if name != "content"})
        if index != 0:
            return ""
        return "".join([part.get("text") or "" for part in parts if not part.get("thought")])

    def finish(self) -> bytes:
        """Returns the whole answer.

        Raises:
            MalformedResponse: The stream ended before the answer did.
        """
        candidates = [self._candidates[index] for index in sorted(self._candidates)]
        blocked = (self._facts.get("promptFeedback") or {}).get("blockReason")
        ended = candidates and all(candidate.get("finishReason") for candidate in candidates)
        if not ended and not blocked:
            raise MalformedResponse("the stream ended before the answer was whole")
        return orjson.dumps({**self._facts, "candidates": candidates})
