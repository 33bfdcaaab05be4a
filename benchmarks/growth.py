"""Speed and peak memory of training on streams of growing length.

python -m benchmarks.growth IMAGES    one length, in this process
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from benchmarks.harness import ROOT, environment, refuse_unless_free, table

ROW = "dense AE"
LENGTHS = (10_000, 60_000, 600_000, 6_000_000)


def growth() -> str:
    """A process for each length: repeats of Fashion-MNIST as a `tf.data.Dataset` of batches."""
    refuse_unless_free()
    measured = []
    for images in LENGTHS:
        command = [sys.executable, "-m", "benchmarks.growth", str(images)]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment()
        )
        measured.append(json.loads(done.stdout.splitlines()[-1]))
    rows = [
        [f"{images:,}", f"{one['speed']:,.0f}", f"{one['peak'] / 2**20:,.0f} MiB"]
        for images, one in zip(LENGTHS, measured, strict=True)
    ]
    return table(["images streamed", "images/s", "peak memory"], rows)


def stream(count: int) -> dict[str, float]:
    """Trains on so many images of a stream, after a first short epoch that compiles."""
    import resource

    import tensorflow as tf

    from benchmarks.keras_models import build, images, optimizers
    from benchmarks.rows import ROWS

    row = ROWS[ROW]
    model = build(row)
    model.compile(**optimizers(row))
    batches = tf.data.Dataset.from_tensor_slices(images()).batch(row.batch, drop_remainder=True)
    batches = batches.repeat().prefetch(tf.data.AUTOTUNE)
    steps = count // row.batch
    model.fit(batches, steps_per_epoch=64, verbose=0)
    begun = time.perf_counter()
    model.fit(batches, steps_per_epoch=steps, verbose=0)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"speed": steps * row.batch / seconds, "peak": peak}


if __name__ == "__main__":
    print(json.dumps(stream(int(sys.argv[1]))))
