"""A process of its own that answers signatures through TensorFlow's C session loader."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Refused(Exception):
    """A request or a SavedModel that the runtime refuses."""


class Runtime:
    """Answers of a SavedModel, got without Keras and kerasunsup.

    Attributes:
        version: That of the TensorFlow library, after the first answer.
        seconds: What the last answer took, the way between the processes left out.
    """

    def __init__(self, process: Any) -> None:
        self._process = process
        self.version = ""
        self.seconds = 0.0

    def load(self, folder: Path) -> float:
        """Loads a SavedModel, again if it was loaded.

        Returns:
            Seconds.

        Raises:
            Refused: It cannot be loaded.
        """
        self._ask(folder, None, {})
        return self.seconds

    def run(
        self, folder: Path, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Answers one request.

        Raises:
            Refused: The request is bad, or the SavedModel cannot be loaded.
        """
        return self._ask(folder, signature, inputs)

    def _ask(self, folder: Path, signature: str | None, inputs: Mapping[str, Any]) -> Any:
        pickle.dump((str(folder), signature, dict(inputs)), self._process.stdin)
        self._process.stdin.flush()
        self.version, foreign, self.seconds, answer = pickle.load(self._process.stdout)
        assert foreign == [], "the process must import neither Keras nor kerasunsup"
        if isinstance(answer, tuple):
            raise Refused(answer[1])
        return answer


@contextlib.contextmanager
def start(library: str | os.PathLike[str] = "") -> Iterator[Runtime]:
    """Starts the process.

    Args:
        library: Folder of another release's libtensorflow.
    """
    process: Any = subprocess.Popen(
        [sys.executable, "-P", Path(__file__).with_name("c_session.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LIBTENSORFLOW": os.fspath(library)},
    )
    try:
        yield Runtime(process)
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
