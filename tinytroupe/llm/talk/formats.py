"""Response formats: what an endpoint takes, what reads the answer, and who refuses them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from tinytroupe.llm.canonical import FrozenDict, freeze_mapping
from tinytroupe.llm.client import AsyncClient, Client
from tinytroupe.llm.errors import BadRequest
from tinytroupe.llm.layers.replay import Session, get_active
from tinytroupe.llm.request import Call
from tinytroupe.llm.spawns.callers import find_branch
from tinytroupe.llm.talk.parsers import JsonBlockParser, JsonDictParser, Parser
from tinytroupe.llm.talk.schema import is_closed, make_response_format, make_strict

_KINDS = ("text", "json_object", "json_schema")


@dataclass(frozen=True, slots=True)
class Format:
    """A response format in the shape of OpenAI's API, and what reads the answers."""

    wire: FrozenDict
    parser: Parser

    @property
    def has_schema(self) -> bool:
        """Whether the endpoint is told by the schema all that it has to know."""
        return self.wire["type"] == "json_schema"


def read_format(given: object) -> Format | None:
    """Reads what a user calls a response format; None where it asks for plain text.

    Args:
        given: A pydantic class, a JSON Schema, or what OpenAI's API takes.

    Raises:
        BadRequest: It is none of these.
    """
    if not isinstance(given, Mapping):
        return Format(freeze_mapping(make_response_format(given)), JsonBlockParser(schema=given))
    if given.get("type") not in _KINDS:
        return Format(_describe_schema(given), JsonBlockParser(schema=given))
    if given["type"] == "text":
        return None
    if given["type"] == "json_object":
        return Format(freeze_mapping(given, "response_format"), JsonDictParser())
    described = given.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise BadRequest("response_format has the type json_schema, but no schema in it")
    return Format(freeze_mapping(given, "response_format"), JsonBlockParser(schema=schema))


def _describe_schema(schema: Mapping[str, Any]) -> FrozenDict:
    if not any(key in schema for key in ("type", "properties", "$ref", "anyOf", "allOf")):
        raise BadRequest(
            "response_format is a dictionary, but neither a JSON Schema nor one such as "
            '{"type": "json_object"}'
        )
    strict = schema.get("type") == "object" and is_closed(schema)
    described = {
        "name": "answer",
        "strict": strict,
        "schema": make_strict(dict(schema), dict(schema)) if strict else schema,
    }
    return freeze_mapping({"type": "json_schema", "json_schema": described}, "response_format")


Scope: TypeAlias = "tuple[str, str | None] | None"
"""Within a run, the branch and the lane; None outside of runs."""


class Refusals:
    """Which endpoints refuse which kinds of response format. Safe to use from many threads.

    Remembered for each transport and model. Within a run each branch learns for
    itself: whether one thread asks in the one way or the other must not depend
    on how far another thread is, or a replay would ask differently.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: WeakKeyDictionary[object, set[tuple[str, str, Scope]]] = WeakKeyDictionary()
        self._session: Session | None = None

    def find(self, client: Client | AsyncClient, call: Call, kind: str) -> tuple[str, ...]:
        """Returns the names of the client's endpoints that refused this kind for the call."""
        scope = _find_scope(call)
        with self._lock:
            self._follow_session()
            return tuple(
                [
                    endpoint.name
                    for endpoint in client.route.endpoints
                    if (endpoint.model or call.request.model, kind, scope)
                    in self._known.get(endpoint.transport, ())
                ]
            )

    def learn(
        self, client: Client | AsyncClient, call: Call, kind: str, names: Collection[str]
    ) -> None:
        """Remembers that endpoints of the client refused this kind for the call."""
        scope = _find_scope(call)
        with self._lock:
            self._follow_session()
            for endpoint in client.route.endpoints:
                if endpoint.name in names:
                    known = self._known.setdefault(endpoint.transport, set())
                    known.add((endpoint.model or call.request.model, kind, scope))

    def _follow_session(self) -> None:
        """Forgets what was learned within a run that is over."""
        session = get_active()
        if session is not self._session:
            self._session = session
            for known in self._known.values():
                known.difference_update([item for item in known if item[2] is not None])


def _find_scope(call: Call) -> Scope:
    if get_active() is None:
        return None
    branch = find_branch()
    return (branch.path if branch is not None else "", call.options.lane)
