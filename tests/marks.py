"""The default run tests some of many alike, so that it stays short; `pytest -m slow` the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(fast: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Values to parametrise a test over, all but those in `fast` marked slow."""
    fast = tuple(fast)

    def marked(one: Any) -> Any:
        return pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=pytest.mark.slow)

    return [one if one in fast else marked(one) for one in values]
