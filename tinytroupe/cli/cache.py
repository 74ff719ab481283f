"""`tinytroupe cache`: look into the stored answers, take them elsewhere, thin them out."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from tinytroupe.cli import Subparsers
from tinytroupe.cli.quantities import parse_age, parse_count, parse_size

ACTIONS = {
    "stats": "tinytroupe.cli.cache_views",
    "ls": "tinytroupe.cli.cache_views",
    "show": "tinytroupe.cli.cache_views",
    "export": "tinytroupe.cli.cache_exchange",
    "import": "tinytroupe.cli.cache_exchange",
    "merge": "tinytroupe.cli.cache_exchange",
    "prune": "tinytroupe.cli.cache_upkeep",
    "verify": "tinytroupe.cli.cache_upkeep",
}
"""Action → the module with its function `run_<action>(args, folder)`."""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Declares the arguments of `tinytroupe cache`."""
    parser = subparsers.add_parser(
        "cache",
        help="look into the stored answers, take them elsewhere, thin them out",
        description="Looks into the stored answers, takes them elsewhere, thins them out. All of "
        "it may be done while simulations use the cache.",
    )
    actions = parser.add_subparsers(dest="action", metavar="action", required=True)
    _add_views(actions)
    _add_exchange(actions)
    _add_upkeep(actions)
    return parser


def run(args: argparse.Namespace) -> int:
    """Does what was asked for. Exit code 1: it was done, and something is amiss.

    Raises:
        LLMError: It cannot be done; the message says why.
    """
    module = importlib.import_module(ACTIONS[args.action])
    return int(getattr(module, f"run_{args.action}")(args, find_folder(args)))


def find_folder(args: argparse.Namespace) -> Path:
    """Returns the folder that `--store` names, or the one that the settings name.

    Raises:
        ConfigError: The settings cannot be used.
    """
    if args.store is not None:
        return Path(args.store).expanduser().absolute()
    from tinytroupe.llm.config.load import load_settings

    return Path(load_settings().cache_folder)


def _add_views(actions: Subparsers) -> None:
    _add_action(actions, "stats", "count the answers, by model")
    parser = _add_action(actions, "ls", "list the answers, newest first")
    _add_filters(parser)
    parser.add_argument("--newer-than", type=parse_age, metavar="AGE", help="as in 12h or 30d")
    parser.add_argument("--text", help="words in the question or the answer, in any case")
    parser.add_argument(
        "--limit", type=parse_count, default=20, metavar="N", help="how many (default: 20; 0: all)"
    )
    parser = _add_action(actions, "show", "show one question and its answer")
    parser.add_argument("key", help="the key of the answer, or enough of its beginning")


def _add_exchange(actions: Subparsers) -> None:
    parser = _add_action(actions, "export", "write all answers to a file, one line of JSON each")
    parser.add_argument("file", type=Path, help="a name that ends in .zst: compressed")
    _add_filters(parser)
    parser.add_argument("--force", action="store_true", help="replace the file if there is one")
    parser = _add_action(
        actions, "import", "take in answers from an export, or from a pickle of TinyTroupe"
    )
    parser.add_argument(
        "file", type=Path, help="what export wrote, or TinyTroupe's openai_api_cache.pickle"
    )
    parser = _add_action(actions, "merge", "take in what another cache has and this one has not")
    parser.add_argument("folder", type=Path, help="the other cache; it is not changed")


def _add_upkeep(actions: Subparsers) -> None:
    parser = _add_action(actions, "prune", "delete answers by age, model or size, oldest first")
    _add_filters(parser)
    parser.add_argument(
        "--max-size",
        type=parse_size,
        metavar="SIZE",
        help="delete only until all answers together take so much, as in 2GB",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    _add_action(actions, "verify", "read every answer and report what is damaged")


def _add_action(actions: Subparsers, name: str, line: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
    parser.add_argument(
        "--store", metavar="FOLDER", help="the cache (default: the one that config.ini names)"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME", help="only what this model was asked; * stands for any letters"
    )
    parser.add_argument(
        "--older-than", type=parse_age, metavar="AGE", help="only what is older, as in 30d or 12h"
    )
