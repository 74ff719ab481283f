"""What people import."""

from __future__ import annotations

import importlib

import tinytroupe.llm


def test_every_public_name_can_be_imported() -> None:
    """Each name of `tinytroupe.llm.__all__` exists and is what its name says."""
    for name in tinytroupe.llm.__all__:
        value = getattr(tinytroupe.llm, name)
        assert getattr(value, "__name__", name) == name


def test_names_are_sorted_and_once() -> None:
    """`__all__` is sorted, without doubles."""
    assert tinytroupe.llm.__all__ == sorted(set(tinytroupe.llm.__all__))


def test_every_error_is_public() -> None:
    """Whatever can be raised can be caught by a public name."""
    errors = importlib.import_module("tinytroupe.llm.errors")
    names = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.LLMError)
    }
    assert names <= set(tinytroupe.llm.__all__)


def test_unknown_name() -> None:
    """A name that does not exist is the usual AttributeError."""
    assert not hasattr(tinytroupe.llm, "Nothing")
