"""Parameters that a model family does not take, adapted before the key is made."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from tinytroupe.llm.canonical import FrozenDict
from tinytroupe.llm.request import Request


@dataclass(frozen=True, slots=True)
class Family:
    """Models that differ from the plain chat models in what they take."""

    name: str
    pattern: re.Pattern[str]
    renamed: FrozenDict
    """Parameter → what this family calls it."""
    dropped: frozenset[str] = frozenset()
    """Parameters that the family refuses while it reasons."""
    refused_always: frozenset[str] = frozenset()
    """Parameters that the family refuses even with `reasoning_effort` set to `none`."""
    reasons_by_default: bool = True
    """Whether it reasons when `reasoning_effort` is not given."""


_MAX_TOKENS = FrozenDict({"max_tokens": "max_completion_tokens"})
_SAMPLING = frozenset({"temperature", "top_p", "logprobs", "top_logprobs"})
_NEVER = frozenset({"frequency_penalty", "presence_penalty", "logit_bias", "stop"})

FAMILIES: tuple[Family, ...] = (
    # The chat variants of GPT-5 take sampling parameters, but not `max_tokens`.
    Family("gpt-5 chat", re.compile(r"^(ft:)?gpt-5(\.\d+)?-chat"), _MAX_TOKENS),
    Family(
        "gpt-5.1 and later",
        re.compile(r"^(ft:)?gpt-5\.\d+(-|$|:)"),
        _MAX_TOKENS,
        _SAMPLING,
        _NEVER,
        reasons_by_default=False,
    ),
    Family(
        "reasoning",
        re.compile(r"^(ft:)?(o[134]|gpt-5)(-|$|:)"),
        _MAX_TOKENS,
        _SAMPLING,
        _NEVER,
    ),
)
"""In order; the first that matches counts. Source: OpenAI, "Reasoning models" guide, and
"Using GPT-5", parameter compatibility. Names of deployments on Azure are free, so a
deployment is recognised only when it is called like its model."""


@lru_cache(maxsize=256)
def find_family(model: str) -> Family | None:
    """Returns the family of a model, or None for one that takes everything."""
    return next((family for family in FAMILIES if family.pattern.match(model)), None)


def adapt_request(request: Request) -> tuple[Request, tuple[str, ...]]:
    """Returns a request that its model's family takes, and one note for each change.

    A request that needs no change is returned as it is. When both the old and
    the new name of a parameter are given, the new one stays.
    """
    family = find_family(request.model)
    if family is None or request.kind != "chat":
        return request, ()
    kept = dict(request.parameters)
    notes = []
    effort = kept.get("reasoning_effort", "medium" if family.reasons_by_default else "none")
    refused = family.refused_always | (frozenset() if effort == "none" else family.dropped)
    for name in refused.intersection(kept):
        del kept[name]
        notes.append(f"{name} is left out")
    for old, new in family.renamed.items():
        if old in kept:
            value = kept.pop(old)
            kept.setdefault(str(new), value)
            notes.append(f"{old} is sent as {new}")
    if not notes:
        return request, ()
    said = tuple(f"{note}: {family.name} models do not take it" for note in sorted(notes))
    return replace(request, parameters=FrozenDict(kept)), said
