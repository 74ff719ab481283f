"""What a test needs of the machine and does not find there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_unless_ci(sentence: str) -> NoReturn:
    """Skips the test; with CI=true in the environment it fails: nothing may be lacking there."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)
