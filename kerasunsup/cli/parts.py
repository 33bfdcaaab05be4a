"""A long answer in parts on disk: a command that is stopped goes on, in memory of one part."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kerasunsup.errors import InputError, KerasunsupError
from kerasunsup.files import atomic_file, atomic_write

JOB = "job.json"


@dataclass(frozen=True)
class Part:
    """Answers to some of the inputs.

    Attributes:
        outputs: Name -> array, a row for each of `places`.
        places: Numbers of the inputs that were answered.
        failed: Number of each other input -> why it was left out.
    """

    outputs: Mapping[str, np.ndarray]
    places: np.ndarray
    failed: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.places)


class Parts:
    """Parts of the answer to one job, kept beside the file that it will be written to.

    Args:
        out: That file or folder.
        job: What the answer depends on. Parts of another job are thrown away.
        names: Outputs in the order wanted.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], names: tuple[str, ...]) -> None:
        self.folder = out.with_name(f".{out.name}-parts")
        self.names = names
        self.count = 0
        self._job = json.dumps(job, sort_keys=True)
        path = self.folder / JOB
        if path.is_file() and path.read_text(encoding="utf-8") == self._job:
            self.count = len([*self.folder.glob("*.npz")])
        else:
            self.remove()

    def append(self, part: Part) -> None:
        """Keeps one more part, atomically."""
        if not (self.folder / JOB).is_file():
            atomic_write(self.folder / JOB, self._job)
        failed = {"failed": np.array(json.dumps({str(k): v for k, v in part.failed.items()}))}
        outputs = {f"output_{name}": value for name, value in part.outputs.items()}
        with atomic_file(self.folder / f"{self.count:08}.npz") as temporary:
            np.savez(temporary, allow_pickle=False, places=part.places, **failed, **outputs)
        self.count += 1

    def __iter__(self) -> Iterator[Part]:
        for i in range(self.count):
            with np.load(self.folder / f"{i:08}.npz", allow_pickle=False) as arrays:
                outputs = {
                    key.removeprefix("output_"): arrays[key]
                    for key in arrays.files
                    if key.startswith("output_")
                }
                known = [name for name in self.names if name in outputs]
                names = [*known, *sorted(set(outputs) - set(known))]
                failed = json.loads(str(arrays["failed"]))
                yield Part(
                    {name: outputs[name] for name in names},
                    arrays["places"],
                    {int(place): why for place, why in failed.items()},
                )

    def remove(self) -> None:
        """Throws all parts away."""
        shutil.rmtree(self.folder, ignore_errors=True)


def run(
    parts: Parts, count: int, size: int, answer: Callable[[int, int], Part], progress: Any
) -> None:
    """Answers the inputs that have no part yet.

    Args:
        parts: What is there.
        count: Number of inputs.
        size: Inputs of a part.
        answer: (first, last + 1) -> part.
        progress: Called with the numbers of the parts; gives them back one by one.

    Raises:
        KerasunsupError: Stopped by Ctrl-C; the parts are kept.
    """
    starts = range(0, count, size)
    try:
        for i in progress(starts[parts.count :]):
            parts.append(answer(i, min(i + size, count)))
    except KeyboardInterrupt:
        done = min(parts.count * size, count)
        raise KerasunsupError(
            f"Stopped after {done:,} of {count:,}; they are kept in {parts.folder}. "
            "Go on with the same command."
        ) from None
    except InputError:
        parts.remove()
        raise


def identity(paths: list[Path]) -> str:
    """What files are, by name, size and time of their last change."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
