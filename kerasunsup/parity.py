"""How other runtimes answer an entry: a part of its card. No TensorFlow, no NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Runtime:
    """One runtime beside the SavedModel called from Python.

    Attributes:
        version: Of the runtime.
        verbs: Those it can answer.
        difference: Largest difference of an output (see `kerasunsup.serving.warmup.differences`).
        bytes: Size of the files that it reads.
        timed: The verb that was timed: the main one, where the runtime has it.
        load: Seconds of loading, as a ratio to the SavedModel's.
        batch_1: Seconds of a batch of 1, as a ratio to the SavedModel's.
        batch_256: Likewise of 256.
    """

    version: str
    verbs: tuple[str, ...]
    difference: float
    bytes: int
    timed: str
    load: float
    batch_1: float
    batch_256: float


@dataclass(frozen=True)
class Parity:
    """What was measured of an entry in several runtimes on one machine.

    Attributes:
        machine: Cores, architecture, and load average when the measurement began.
        verb: The main verb.
        examples: How many the differences were taken over.
        bytes: Size of the SavedModel's graph and weights.
        seconds: Of the SavedModel: `load`, `batch_1`, `batch_256`.
        runtimes: Name -> Runtime; those that are not installed are absent.
    """

    machine: str
    verb: str
    examples: int
    bytes: int
    seconds: Mapping[str, float]
    runtimes: Mapping[str, Runtime]

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Parity:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError: A key is missing or unknown.
        """
        runtimes = {
            name: Runtime(**{**value, "verbs": tuple(value["verbs"])})
            for name, value in table["runtimes"].items()
        }
        return cls(**{**table, "seconds": dict(table["seconds"]), "runtimes": runtimes})

    def to_dict(self) -> dict[str, Any]:
        """The tables of the card's JSON file."""
        return asdict(self)
