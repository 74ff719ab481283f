"""The rehearsal over HTTP. Imports aiohttp, so it is imported only where a server is started."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
from aiohttp import web

from tinytroupe.cli.rehearse_travel import Prepared, Travel, respond
from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.request import Kind
from tinytroupe.llm.transports.rehearsal.answers import CREATED
from tinytroupe.llm.transports.rehearsal.draws import Draws
from tinytroupe.llm.transports.rehearsal.faults import Fault, FaultPlan, parse_fault
from tinytroupe.llm.transports.rehearsal.refusal import Refusal
from tinytroupe.llm.transports.rehearsal.replies import (
    Reply,
    check_model,
    refuse,
    spoil,
    write_reply,
)

KEPT_REPLIES = 4096
LONGEST_KEPT_BYTES = 64 * 1024
SILENCE_SECONDS = 3600.0
"""How long the fault `timeout` keeps a connection open without a word."""

_KINDS: dict[str, Kind] = {
    "chat/completions": "chat",
    "completions": "completion",
    "embeddings": "embedding",
}
_PLAIN = re.compile(r"(?:/openai)?/v1/(chat/completions|completions|embeddings)/?")
_AZURE = re.compile(r"/openai/deployments/([^/]+)/(chat/completions|completions|embeddings)")
_MODELS = re.compile(r"(?:/openai)?(?:/v1)?/models(?:/(.+))?")


@dataclass(frozen=True)
class ServerSettings:
    """What the command line said. Immutable."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one."""
    latency_seconds: float = 0.0
    latency_jitter_seconds: float = 0.0
    pace_seconds: float = 0.0
    """How long after a piece of a stream the next one comes."""
    faults: tuple[Fault, ...] = ()
    models: tuple[str, ...] = ()
    """The models that are known; empty: all are."""
    api_key: str | None = field(default=None, repr=False)
    """The only key that is accepted; None: every key, and none."""
    vary: bool = False
    """Whether a repeated request gets another answer."""
    seed: int = 0
    canned: bool = False
    """Whether every chat gets one fixed text, without being read."""
    quiet: bool = False
    exit_with_parent: bool = False


@dataclass(frozen=True, slots=True)
class _Route:
    kind: Kind
    deployment: str | None = None
    """Azure's name in the path, which takes the place of the body's model."""


class RehearsalServer:
    """Serves one event loop. Its `accept` is the protocol factory for a listening socket."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._plan = FaultPlan(settings.faults, settings.seed)
        self._kept: OrderedDict[bytes, Prepared] = OrderedDict()
        self._seen: Counter[bytes] = Counter()
        self._numbers = count(1)
        self._connections = 0
        self._in_flight = 0
        self._peak_in_flight = 0
        self._requests: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._faults: Counter[str] = Counter()
        self._routes: dict[str, _Route | None] = {}
        # The low-level server has no router and no limit on the size of a body,
        # and a client that goes away ends its handler's waiting.
        self._server = web.Server(
            self._handle,
            request_factory=self._make_request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=120.0,
        )

    def accept(self) -> asyncio.Protocol:
        """Returns the protocol for a new connection."""
        self._connections += 1
        return self._server()

    async def shut_down(self) -> None:
        """Breaks off what is under way and closes all connections."""
        await self._server.shutdown(timeout=0.1)

    def _make_request(
        self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=0)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/healthz":
            return respond(Reply(200, b'{"status":"ok"}'), {})
        if path == "/stats":
            return respond(Reply(200, orjson.dumps(self._describe_stats())), {})
        request_id = f"req_rehearsal_{next(self._numbers):08d}"
        self._requests[path] += 1
        self._in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
        try:
            response = await self._answer(request, path, {"x-request-id": request_id})
        finally:
            self._in_flight -= 1
        self._statuses[response.status] += 1
        if not self._settings.quiet:
            print(request.method, request.path_qs, response.status, request_id, file=sys.stderr)
        return response

    def _describe_stats(self) -> dict[str, Any]:
        return {
            "requests": self._requests,
            "statuses": {str(status): number for status, number in self._statuses.items()},
            "faults": self._faults,
            "connections": self._connections,
            "in_flight": self._in_flight,
            "peak_in_flight": self._peak_in_flight,
        }

    async def _answer(
        self, request: web.BaseRequest, path: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        try:
            self._check_key(request.headers)
            route = self._find_route(path)
            if route is None:
                return respond(self._describe_models(request), headers)
            _check_call(request, route)
            fault = self._choose_fault(request)
        except Refusal as refusal:
            return respond(refuse(refusal), headers)
        if fault is not None:
            self._faults[fault.kind] += 1
            if fault.kind == "timeout":
                await asyncio.sleep(SILENCE_SECONDS)
        prepared = await self._prepare_in_time(route, await request.read())
        reply = spoil(fault, route.kind, prepared.reply, time.time())
        travel = Travel(
            stream=prepared.stream,
            include_usage=prepared.include_usage,
            pace_seconds=self._settings.pace_seconds,
            fault=fault,
            headers=headers,
        )
        return await travel.send(request, reply)

    def _check_key(self, headers: Mapping[str, str]) -> None:
        expected = self._settings.api_key
        if expected is None:
            return
        given = headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()):
            raise Refusal("the key is wrong or missing", status=401, code="invalid_api_key")

    def _find_route(self, path: str) -> _Route | None:
        """Returns where a path leads; None: to the list of models."""
        if path in self._routes:
            return self._routes[path]
        route: _Route | None = None
        if found := _PLAIN.fullmatch(path):
            route = _Route(_KINDS[found[1]])
        elif found := _AZURE.fullmatch(path):
            route = _Route(_KINDS[found[2]], found[1])
        elif not _MODELS.fullmatch(path):
            raise Refusal(f"there is nothing at {path}", status=404)
        if len(self._routes) < KEPT_REPLIES:
            self._routes[path] = route
        return route

    def _describe_models(self, request: web.BaseRequest) -> Reply:
        if request.method != "GET":
            raise Refusal("the models can only be asked for with GET", status=405)
        found = _MODELS.fullmatch(request.path)
        asked = found[1] if found else None
        if asked is not None:
            check_model(asked, self._settings.models)
        names = [asked] if asked else self._settings.models or ("rehearsal",)
        models = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "rehearsal"}
            for name in names
        ]
        return Reply(200, orjson.dumps(models[0] if asked else {"object": "list", "data": models}))

    def _choose_fault(self, request: web.BaseRequest) -> Fault | None:
        asked = request.headers.get("x-rehearse-fault")
        if asked is None:
            return self._plan.next()
        try:
            return parse_fault(asked)
        except ConfigError as error:
            raise Refusal(error.message, param="x-rehearse-fault") from error

    async def _prepare_in_time(self, route: _Route, content: bytes) -> Prepared:
        """Returns the good reply when the latency is over, which the work on it is part of."""
        latency = self._draw_latency(content)
        if latency <= 0:
            return self._prepare(route, content)
        due = asyncio.get_running_loop().time() + latency
        # All that have arrived together start their latency before the first is worked on.
        await asyncio.sleep(0)
        prepared = self._prepare(route, content)
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        return prepared

    def _draw_latency(self, content: bytes) -> float:
        latency, jitter = self._settings.latency_seconds, self._settings.latency_jitter_seconds
        if jitter:
            draws = Draws("latency", self._settings.seed, sum(self._requests.values()), content)
            latency += (2 * draws.fraction() - 1) * jitter
        return latency

    def _prepare(self, route: _Route, content: bytes) -> Prepared:
        """Returns the good reply, kept from an earlier time where it can be."""
        if self._settings.canned and route.kind == "chat":
            route, content = _Route("chat"), _CANNED_REQUEST
        name = f"{route.kind}\n{route.deployment}\n".encode()
        key = hashlib.sha256(name + content).digest()
        variation = 0
        if self._settings.vary:
            variation = self._seen[key]
            self._seen[key] += 1
        elif key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        prepared = self._write(route, content, variation)
        longest = max(len(content), len(prepared.reply.content))
        if not self._settings.vary and longest <= LONGEST_KEPT_BYTES:
            self._kept[key] = prepared
            if len(self._kept) > KEPT_REPLIES:
                self._kept.popitem(last=False)
        return prepared

    def _write(self, route: _Route, content: bytes, variation: int) -> Prepared:
        try:
            body = orjson.loads(content)
        except ValueError:
            return Prepared(refuse(Refusal("the body is not valid JSON")))
        if isinstance(body, dict) and route.deployment is not None:
            body["model"] = route.deployment
        reply = write_reply(
            route.kind,
            body,
            seed=self._settings.seed,
            variation=variation,
            models=self._settings.models,
        )
        if reply.status != 200 or route.kind == "embedding" or not body.get("stream"):
            return Prepared(reply)
        options = body.get("stream_options")
        usage = isinstance(options, dict) and bool(options.get("include_usage"))
        return Prepared(reply, stream=True, include_usage=usage)


_CANNED_REQUEST = b'{"model":"rehearsal","messages":[{"role":"user","content":"Hello"}]}'


def _check_call(request: web.BaseRequest, route: _Route) -> None:
    if request.method != "POST":
        raise Refusal(f"{request.path} takes POST only", status=405)
    if route.deployment is not None and "api-version" not in request.query:
        raise Refusal("Azure's API needs api-version in the address", status=404)
