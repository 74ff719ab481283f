"""Answer from the store; keep what was bought."""

from __future__ import annotations

import logging

from tinytroupe.llm.errors import CacheMiss, MalformedResponse
from tinytroupe.llm.layers.handler import Handler
from tinytroupe.llm.request import CacheMode, Call
from tinytroupe.llm.response import Response, from_record
from tinytroupe.llm.runtime import Runtime
from tinytroupe.llm.store.entry import Entry, Store

logger = logging.getLogger(__name__)


class Cache:
    """Looks into a store and keeps answers there. Safe to use from many threads."""

    def __init__(self, store: Store | None, mode: CacheMode, runtime: Runtime) -> None:
        self._store = store
        self._mode = mode
        self._runtime = runtime

    def choose_mode(self, call: Call) -> CacheMode:
        """Returns how the cache serves this call: as the call says, else as the client was set."""
        mode = call.options.cache or self._mode
        return "off" if self._store is None and mode != "only" else mode

    async def look(self, call: Call) -> Response | None:
        """Returns the stored answer, or None."""
        store = self._store
        if store is None:
            return None
        key = call.key
        # A thread hop costs ten times a look into a local store.
        entry = store.get(key) if store.local else await self._fetch(store, key)
        if entry is None:
            return None
        try:
            return from_record(entry.record, "cache")
        except MalformedResponse as error:
            logger.warning(
                "The stored answer %s cannot be read and is bought again: %s", key, error
            )
            return None

    async def keep(self, call: Call, response: Response) -> None:
        """Stores the answer, unless the content filter withheld it."""
        store = self._store
        if store is None or response.filtered:
            return
        entry = Entry(record=response.to_record(), request=call.request.body)
        await self._runtime.blocking(lambda: store.put(call.key, entry))

    async def _fetch(self, store: Store, key: str) -> Entry | None:
        return await self._runtime.blocking(lambda: store.get(key))


def cached(handler: Handler, cache: Cache) -> Handler:
    """Answers from the store where it may; what was bought is stored before it is returned.

    Raises:
        CacheMiss: The mode is `only` and there is no answer.
    """

    async def answer(call: Call) -> Response:
        mode = cache.choose_mode(call)
        if mode in ("on", "only"):
            response = await cache.look(call)
            if response is not None:
                return response
            if mode == "only":
                raise CacheMiss(
                    f"the cache holds no answer for this request ({call.key[:12]}…) and its mode "
                    "is 'only', so the endpoint is not asked; set CACHE_API_CALLS to 'on' to ask it"
                )
        response = await handler(call)
        if mode != "off":
            await cache.keep(call, response)
        return response

    return answer
