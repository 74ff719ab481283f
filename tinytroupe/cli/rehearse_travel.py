"""How a rehearsed reply goes over its connection: whole, in events, in drips, or cut."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import orjson
from aiohttp import web

from tinytroupe.llm.transports.rehearsal.faults import Fault
from tinytroupe.llm.transports.rehearsal.replies import Reply
from tinytroupe.llm.transports.rehearsal.streams import split_stream


@dataclass(frozen=True, slots=True)
class Prepared:
    """A good reply, and how it is to travel."""

    reply: Reply
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True, slots=True)
class Travel:
    """How one reply is to travel, and what happens to it on the way."""

    stream: bool
    include_usage: bool
    pace_seconds: float
    """How long after a piece of a stream the next one comes."""
    fault: Fault | None
    headers: Mapping[str, str]

    async def send(self, request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
        """Sends a reply, which a fault may have spoiled, and returns what was sent."""
        malformed = self.fault is not None and self.fault.kind == "malformed"
        streams = self.stream and reply.status == 200 and not malformed
        if not streams and not self._breaks:
            return respond(reply, self.headers)
        pieces = [reply.content]
        if streams:
            answer = orjson.loads(reply.content)
            pieces = split_stream(answer, include_usage=self.include_usage)
        kind = "text/event-stream" if streams else "application/json"
        response = web.StreamResponse(
            status=reply.status,
            headers={**self.headers, **dict(reply.headers), "content-type": kind},
        )
        if not streams:
            response.content_length = len(reply.content)
        await response.prepare(request)
        await self._write(response, request, pieces)
        return response

    @property
    def _breaks(self) -> bool:
        return self.fault is not None and self.fault.kind in ("cut", "drip")

    async def _write(
        self, response: web.StreamResponse, request: web.BaseRequest, pieces: list[bytes]
    ) -> None:
        content = b"".join(pieces)
        if self.fault is None or not self._breaks:
            for place, piece in enumerate(pieces):
                if place and self.pace_seconds:
                    await asyncio.sleep(self.pace_seconds)
                await response.write(piece)
        elif self.fault.kind == "cut":
            await response.write(content[: len(content) // 2])
            cast(asyncio.Transport, request.transport).close()
        else:
            for at in range(len(content)):
                await response.write(content[at : at + 1])
                await asyncio.sleep(self.fault.interval_seconds)


def respond(reply: Reply, headers: Mapping[str, str]) -> web.Response:
    """Returns a reply that goes as a whole."""
    return web.Response(
        status=reply.status,
        body=reply.content,
        headers={**headers, **dict(reply.headers), "content-type": "application/json"},
    )
