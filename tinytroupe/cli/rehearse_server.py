"""`tinytroupe rehearse-server`: a model server without a model, over real HTTP."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from tinytroupe.llm.errors import ConfigError
from tinytroupe.llm.transports.rehearsal.faults import Fault, parse_fault

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the command's arguments."""
    parser = subparsers.add_parser(
        "rehearse-server",
        help="serve OpenAI's and Azure's API without a model",
        description="Serves OpenAI's and Azure's API without a model: the answers are rehearsed, "
        "deterministic, and shaped by what is asked. Prints its address as its first line.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=_read_port, default=8765, help="0 picks a free one (default: %(default)s)")
    for name, meaning in _TIMES.items():
        add(name, type=_read_seconds, default=0.0, metavar="SECONDS", help=meaning)
    add(
        "--fault",
        type=_read_fault,
        action="append",
        default=[],
        metavar="KIND[:ARG][@every=N|@times=N|@rate=P]",
        help="what goes wrong, repeatable: rate_limited[:ms|seconds|date[=AMOUNT]], "
        "server_fault[:STATUS], quota_exhausted, cut, drip[:SECONDS], malformed[:FORM], timeout, "
        "content_filter[:prompt]",
    )
    add("--models", default="", metavar="A,B", help="the models that are known (default: all)")
    add("--api-key", default=None, metavar="KEY", help="refuse every other key")
    add("--vary", action="store_true", help="answer a repeated request differently each time")
    add("--seed", type=int, default=0, help="another seed gives other answers")
    add("--canned", action="store_true", help="give one fixed text to every chat, unread, fast")
    add("--quiet", action="store_true", help="write no line per request")
    add(
        "--exit-with-parent",
        action="store_true",
        help="end when standard input is closed, as it is when the starting process dies",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM; then returns 0.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    from tinytroupe.cli.rehearse_http import ServerSettings
    from tinytroupe.cli.rehearse_process import serve

    settings = ServerSettings(
        host=args.host,
        port=args.port,
        latency_seconds=args.latency,
        latency_jitter_seconds=args.latency_jitter,
        pace_seconds=args.pace,
        faults=tuple(args.fault),
        models=tuple(name.strip() for name in args.models.split(",") if name.strip()),
        api_key=args.api_key,
        vary=args.vary,
        seed=args.seed,
        canned=args.canned,
        quiet=args.quiet,
        exit_with_parent=args.exit_with_parent,
    )
    try:
        serve(settings)
    except OSError as error:
        raise ConfigError(
            f"the server cannot listen on {args.host}, port {args.port}: "
            f"{error.strerror or error}; --port 0 picks a free port"
        ) from error
    return 0


_TIMES = {
    "--latency": "before each answer (default: none)",
    "--latency-jitter": "how much the latency varies, up and down (default: not)",
    "--pace": "between the pieces of a stream (default: none)",
}


def _read_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def _read_port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; ports go from 0 to 65535")
    return port


def _read_fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.message) from error
