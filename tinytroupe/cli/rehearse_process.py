"""The rehearsal server as a process: where it listens, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading

from tinytroupe.cli.rehearse_http import RehearsalServer, ServerSettings
from tinytroupe.llm.rules.tokens import count_text

BACKLOG = 4096
WARMED_MODEL = "gpt-4o"


def serve(settings: ServerSettings) -> None:
    """Serves until SIGINT or SIGTERM.

    Raises:
        OSError: The address cannot be listened on.
    """
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings))


async def _serve(settings: ServerSettings) -> None:
    _allow_many_connections()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        # Windows has no such handlers; there Ctrl-C arrives as KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(name, stop.set)
    server = RehearsalServer(settings)
    listener = await loop.create_server(
        server.accept, settings.host, settings.port, backlog=BACKLOG
    )
    host, port = listener.sockets[0].getsockname()[:2]
    print(f"rehearsal server on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    # The first count of tokens loads an encoding, half a second that no request should wait for.
    warming = loop.run_in_executor(None, count_text, "", WARMED_MODEL)
    if settings.exit_with_parent:
        _watch_parent(loop, stop)
    await stop.wait()
    listener.close()
    await server.shut_down()
    await warming


def _allow_many_connections() -> None:
    """Lifts the soft limit on open files: its usual 1,024 is less than 1,000 clients need."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def watch() -> None:
        # Not `sys.stdin`: a thread that waits in its lock would abort the interpreter's exit.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
