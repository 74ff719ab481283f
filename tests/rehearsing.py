"""What the tests of the rehearsal ask, and how."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tinytroupe.llm.request import (
    Attempt,
    Call,
    CallOptions,
    Request,
    chat_request,
)
from tinytroupe.llm.response import Response
from tinytroupe.llm.transports.rehearsal import Rehearsal, RehearsalTransport

MODEL = "gpt-4o-mini"
PERSONA = (
    "You are Lisa Carter, 28 years old.\n"
    "Your work: data scientist at a search engine\n"
    "What you hold to:\n- measure before you believe\n- nobody eats alone\n"
)
QUESTION = "A courier brings the folding bicycle. The folding bicycle has a warranty. What now?"


def attempt(
    request: Request, *, number: int = 1, timeout: float = 60.0, sample: int = 0
) -> Attempt:
    return Attempt(Call(request, CallOptions(sample=sample)), number, timeout)


def rehearse(request: Request, rehearsal: Rehearsal | None = None, **options: Any) -> Response:
    return RehearsalTransport(rehearsal).send(attempt(request, **options))


def ask(*texts: str, **parameters: Any) -> Request:
    roles = ["system", "user"] if len(texts) == 2 else ["user"]
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    return chat_request(MODEL, messages, **parameters)


def under(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "shape", "schema": schema}}


def value_under(schema: Any, sample: int = 0, prompt: str = QUESTION) -> Any:
    return json.loads(rehearse(ask(prompt, response_format=under(schema)), sample=sample).text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.text(max_size=3),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=3), items),
    max_leaves=6,
)
