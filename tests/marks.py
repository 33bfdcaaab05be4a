"""What the default run tests of many alike, so that it stays short; `pytest -m slow` has the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(fast: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Values to parametrise a test over, all but those in `fast` marked slow."""
    fast = tuple(fast)
    return [one if one in fast else pytest.param(one, marks=pytest.mark.slow) for one in values]
