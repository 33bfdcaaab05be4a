"""What a measured process does: trains a unit whenever it is asked to, and answers its cost.

A line on standard input asks for a unit, its end stops the process. Answers are lines of JSON on
standard output; everything else that is printed goes to standard error.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def asked() -> Iterator[Callable[..., None]]:
    """Gives, for each unit asked for, a function that answers it; the clock runs until then."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()

        def answer(**more: Any) -> None:
            cost = {
                "wall": time.perf_counter() - wall,  # noqa: B023
                "processor": time.process_time() - processor,  # noqa: B023
                "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            out.write(json.dumps({**cost, **more}) + "\n")

        yield answer


def epochs_when_asked() -> Any:
    """A Keras callback that makes each epoch of a `fit` a unit."""
    import keras

    class Units(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            self.units = asked()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.answer = next(self.units, None)
            if self.answer is None:
                raise EOFError

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.answer(losses={name: float(value) for name, value in logs.items()})

    return Units()
