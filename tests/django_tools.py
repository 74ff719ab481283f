"""Functions that the tests' site offers to models."""

from __future__ import annotations


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def describe(what: str, customer: str, n: int) -> str:
    """Describes a thing of a customer."""
    return f"{what} of {customer}, {n}"


def name_all(zeta: int, b: int, alpha: int) -> list[int]:
    """Names three numbers."""
    return [zeta, b, alpha]
