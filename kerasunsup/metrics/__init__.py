"""What was measured, and how: a number is a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes:
        value: The measurement.
        std: Spread, as `protocol` says: standard deviation over seeds, or standard error; None for
            a single measurement.
        protocol: How it was measured: data split, binarisation, K, units.
        n: Number of examples it was measured on.
        baselines: Name of a baseline -> its value under the same protocol.
    """

    value: float
    std: float | None
    protocol: str
    n: int
    baselines: Mapping[str, float] = field(default_factory=dict)
