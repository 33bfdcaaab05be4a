"""kerasunsup by its own `fit`: python -m benchmarks.run_kerasunsup ROW VARIANT IMAGES.npy.

Variants: "float32" and "bfloat16", Keras' policy that recipes call train.precision.
"""

from __future__ import annotations

import contextlib
import sys

import numpy as np

from benchmarks.keras_models import build, optimizers
from benchmarks.rows import ROWS
from benchmarks.units import epochs_when_asked

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def main(name: str, variant: str, images: str, *_: str) -> None:
    """Trains units until nobody asks for one."""
    row = ROWS[name]
    model = build(row, POLICIES[variant])
    model.compile(**optimizers(row))
    with contextlib.suppress(EOFError):
        model.fit(
            np.load(images)[: row.images],
            batch_size=row.images_per_step,
            epochs=10**6,
            callbacks=[epochs_when_asked()],
            verbose=0,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
