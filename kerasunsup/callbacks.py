"""Callbacks of a training run: exact checkpoints, pictures, a stop when the loss is not finite."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasunsup import extractor
from kerasunsup.data import Dataset
from kerasunsup.errors import InputError, TrainingError
from kerasunsup.examples import split_batches
from kerasunsup.files import atomic_folder, atomic_write
from kerasunsup.metrics.samples import frechet_distance, total_variance

LARGEST_SHARE_OF_TIME = 0.05
FCD_SAMPLES = 2000


class Checkpoint(keras.callbacks.Callback):
    """Keeps what an exact resume needs: model, optimisers, random state, history, early stopping.

    Written as often as takes at most 5 % of the time, and by `keep` when a run is stopped: a copy
    of the state after the last epoch waits in memory. The order of examples follows from the
    number of steps done, so nothing else is needed.

    Args:
        folder: Where the checkpoint lies; replaced as a whole.
        history_file: CSV of all epochs, one row each.

    Attributes:
        epoch: Epochs done.
        history: Metric name -> value of each epoch.
        early_stopping: The callback whose state belongs to the checkpoint, if there is one.
        seconds_before: Wall time of the run before it was resumed.
        stopped_early: Whether early stopping had ended the run.
    """

    def __init__(self, folder: Path, history_file: Path) -> None:
        super().__init__()
        self.folder = folder
        self.history_file = history_file
        self.epoch = 0
        self.saved_epoch = 0
        self.history: dict[str, list[float]] = {}
        self.early_stopping: keras.callbacks.EarlyStopping | None = None
        self.seconds_before = 0.0
        self.stopped_early = False
        self._started = time.time()
        self._saved_at = 0.0
        self._cost = 0.0
        self._restored: dict[str, Any] = {}
        self._last_good: list[np.ndarray] = []
        self._last_compile: dict[str, Any] = {}

    def restore(self, model: keras.Model) -> None:
        """Loads the checkpoint into a model built by the same recipe.

        Raises:
            InputError: There is no checkpoint.
        """
        if not (self.folder / "state.json").is_file():
            raise InputError(f"No checkpoint in {self.folder}: start anew with --reset.")
        state = json.loads((self.folder / "state.json").read_text())
        saved = keras.saving.load_model(self.folder / "model.keras")
        model.compile_from_config(saved.get_compile_config())
        for variable, value in zip(model.training_state, saved.training_state, strict=True):
            variable.assign(value)
        self.epoch = self.saved_epoch = state["epoch"]
        self.history = state["history"]
        self.seconds_before = state["seconds"]
        self.stopped_early = state["stopped_early"]
        self._restored = state["early_stopping"]
        self._restore_early_stopping()

    def restore_best(self, model: keras.Model) -> None:
        """Gives the model the weights that early stopping found best, if there are any."""
        if self.early_stopping is not None and self.early_stopping.best_weights:
            model.set_weights(self.early_stopping.best_weights)

    def keep(self) -> str:
        """Writes the state after the last epoch that ended; returns where it is, in words."""
        if not self.epoch:
            return "nothing was kept, no epoch had ended."
        if self.saved_epoch < self.epoch:
            if self.model.stage != self._last_compile["stage"]["number"]:
                self.model.compile_from_config(self._last_compile)
            for variable, value in zip(self.model.training_state, self._last_good, strict=True):
                variable.assign(value)
            self._save()
        return f"the state after epoch {self.epoch} is in {self.folder}."

    def on_train_begin(self, logs: Any = None) -> None:
        self._restore_early_stopping()

    def _restore_early_stopping(self) -> None:
        if self.early_stopping is None or not self._restored:
            return
        for name in ("wait", "best", "best_epoch"):
            setattr(self.early_stopping, name, self._restored[name])
        best = self.folder / "best.npz"
        if best.is_file():
            with np.load(best) as weights:
                self.early_stopping.best_weights = [weights[name] for name in weights.files]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        good = [variable.numpy() for variable in self.model.training_state]
        history = {
            name: [*self.history.get(name, []), float(value)]
            for name, value in (logs or {}).items()
        }
        self._last_good, self.history, self.epoch = good, history, epoch + 1
        self._last_compile = self.model.get_compile_config()
        self.stopped_early = self.model.stop_training
        last = self.stopped_early or self.epoch == self.params["epochs"]
        if last or time.time() - self._saved_at > self._cost / LARGEST_SHARE_OF_TIME:
            self._save()

    def _save(self) -> None:
        begun = time.time()
        state = {
            "epoch": self.epoch,
            "history": self.history,
            "seconds": self.seconds_before + begun - self._started,
            "stopped_early": self.stopped_early,
            "early_stopping": self._early_stopping_state(),
        }
        with atomic_folder(self.folder) as folder:
            self.model.save(folder / "model.keras")
            if self.early_stopping is not None and self.early_stopping.best_weights:
                np.savez(folder / "best.npz", *self.early_stopping.best_weights)
            (folder / "state.json").write_text(json.dumps(state))
        atomic_write(self.history_file, _as_csv(self.history))
        self.saved_epoch = self.epoch
        self._saved_at = time.time()
        self._cost = self._saved_at - begun

    def _early_stopping_state(self) -> dict[str, Any]:
        if self.early_stopping is None:
            return {}
        names = ("wait", "best", "best_epoch")
        state = {name: getattr(self.early_stopping, name) for name in names}
        return {name: value if value is None else float(value) for name, value in state.items()}


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


def _as_csv(history: dict[str, list[float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history])
    for epoch, row in enumerate(zip(*history.values(), strict=True), start=1):
        writer.writerow([epoch, *row])
    return text.getvalue()
