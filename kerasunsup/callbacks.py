"""Callbacks of a training run: pictures, measurements, a stop when the loss is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasunsup import extractor
from kerasunsup.checkpoint import Checkpoint
from kerasunsup.data import Dataset
from kerasunsup.errors import InputError, TrainingError
from kerasunsup.examples import split_batches
from kerasunsup.files import atomic_write
from kerasunsup.metrics.samples import frechet_distance, total_variance

FCD_SAMPLES = 2000


class StopOnBadLoss(keras.callbacks.Callback):
    """Stops when a loss is NaN or infinite; the checkpoint keeps the last good weights.

    Args:
        checkpoint: The callback that knows what is on disk.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._check(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._check(logs)

    def _check(self, logs: dict[str, Any] | None) -> None:
        bad = [name for name, value in (logs or {}).items() if not np.isfinite(value)]
        if bad:
            raise TrainingError(
                f"{bad[0]} is not finite in epoch {self.checkpoint.epoch + 1}: lower the learning "
                f"rate or set compile.clip_norm; {self.checkpoint.keep()}"
            )


class Pictures(keras.callbacks.Callback):
    """Draws reconstructions and samples every few epochs.

    Args:
        folder: Where `epoch_010.png` and so on go, and at the end all of them in `training.gif`.
        data: Whose validation examples are shown.
        every: Epochs between pictures.
    """

    def __init__(self, folder: Path, data: Dataset, every: int) -> None:
        super().__init__()
        self.folder = folder
        self.data = data
        self.every = every

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        from kerasunsup import pictures

        if (epoch + 1) % self.every == 0:
            path = self.folder / f"epoch_{epoch + 1:03d}.png"
            pictures.progress(self.model, self.data, path)

    def on_train_end(self, logs: Any = None) -> None:
        from kerasunsup import pictures

        drawn = sorted(self.folder.glob("epoch_*.png"), key=lambda path: int(path.stem[6:]))
        if len(drawn) > 1:
            pictures.animate(drawn, self.folder / "training.gif")


class FrechetDistance(keras.callbacks.Callback):
    """Measures samples every few epochs: `fcd_relative` of 2,000, against validation examples.

    Left out as long as the model cannot generate, in a first stage of training for example.

    Args:
        file: CSV with a row for each measurement; a resumed run goes on with it.
        data: Images, for which the zoo must have a classifier.
        every: Epochs between measurements.

    Raises:
        InputError: The zoo has no classifier of these data.
    """

    def __init__(self, file: Path, data: Dataset, every: int) -> None:
        super().__init__()
        self.file = file
        self.every = every
        name = extractor.entry_for(data)
        if not name:
            raise InputError(
                f"train.fcd_every needs a classifier in the zoo of the same splits of {data.name}: "
                "set it to 0. Received: no such entry"
            )
        classifier = extractor.load(name)
        self.images = lambda x: extractor.Images(x, lambda: classifier)
        self.real = self.images(next(split_batches(data, "validation"))[:FCD_SAMPLES])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every or not self._ready():
            return
        count = len(self.real)
        drawn = self.images(self.model.generate(count, seed=0)["samples"])
        distance = frechet_distance(self.real.features, drawn.features)
        value = distance / total_variance(self.real.features)
        name = f"fcd_relative_n{count}"
        rows = self.file.read_text().splitlines() if self.file.is_file() else [f"epoch,{name}"]
        kept = [row for row in rows[1:] if int(row.split(",")[0]) <= epoch]
        rows = [rows[0], *kept, f"{epoch + 1},{value:.6g}"]
        atomic_write(self.file, "\n".join(rows) + "\n")
        print(f"\nEpoch {epoch + 1}: {name} {value:.4g}")

    def _ready(self) -> bool:
        try:
            self.model.check_ready("generate")
        except InputError:
            return False
        return True
