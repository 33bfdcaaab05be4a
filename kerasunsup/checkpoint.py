"""Exact checkpoints of a training run: interrupted and resumed equals uninterrupted.

CHECKPOINT/<steps done>/model.keras  state.json  metrics.npz  best.npz
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerasunsup.errors import InputError
from kerasunsup.files import atomic_folder, atomic_write, sha256_of
from kerasunsup.recipe import Recipe

KEPT = 2
LARGEST_SHARE_OF_TIME = 0.05
EARLY_STOPPING = ("wait", "best", "best_epoch")
ARRAYS = ("metrics", "best", "model")
NOTHING = {
    **{"epoch": 0, "step": 0, "history": {}, "stopped_early": False, "early_stopping": {}},
    **{"metrics": [], "best": [], "model": None},
}


class Checkpoint(keras.callbacks.Callback):
    """Keeps what an exact resume needs: model, optimisers, random state, history, early stopping.

    Written after epochs, as often as takes at most 5 % of the time, every `every` steps, and by
    `keep` when a run is stopped: a copy of the last such state waits in memory. The order of
    examples follows from the number of steps done, so nothing else is needed. The two newest
    checkpoints stay; one whose bytes have changed is passed over.

    Args:
        folder: Where the checkpoints lie.
        history_file: CSV of all epochs, one row each.
        recipe: What is trained; a checkpoint of another one is refused.
        writes: Whether this process writes; in a cluster the chief alone does.

    Attributes:
        epoch: Epochs done.
        step: Steps done of the epoch after them.
        history: Metric name -> value of each epoch.
        early_stopping: The callback whose state belongs to the checkpoint, if there is one.
        seconds_before: Wall time of the run before it was resumed.
        stopped_early: Whether early stopping had ended the run.
    """

    def __init__(
        self, folder: Path, history_file: Path, recipe: Recipe, writes: bool = True
    ) -> None:
        super().__init__()
        self.folder = folder
        self.history_file = history_file
        self.every = recipe.train.checkpoint_every
        self.recipe_hash = _hash(recipe)
        self.writes = writes
        self.early_stopping: keras.callbacks.EarlyStopping | None = None
        self.seconds_before = 0.0
        self._started = time.time()
        self._saved_at = 0.0
        self._cost = 0.0
        self._steps = self._saved_steps = 0
        self._due = False
        self._kept: dict[str, Any] = dict(NOTHING)  # the last good state

    @property
    def epoch(self) -> int:
        return self._kept["epoch"]

    @property
    def step(self) -> int:
        return self._kept["step"]

    @property
    def history(self) -> dict[str, list[float]]:
        return self._kept["history"]

    @property
    def stopped_early(self) -> bool:
        return self._kept["stopped_early"]

    # Restoring

    def restore(self, model: keras.Model) -> None:
        """Loads the newest whole checkpoint into a model built by the same recipe.

        Raises:
            InputError: There is none, or it is of another recipe.
        """
        folder, state = self._newest()
        if state["recipe"] != self.recipe_hash:
            raise InputError(
                f"{folder} was written for another recipe than recipe.toml beside it: start anew "
                f"with --reset. Received: sha256 {state['recipe'][:8]} and {self.recipe_hash[:8]}"
            )
        saved = keras.saving.load_model(folder / "model.keras")
        model.compile_from_config(saved.get_compile_config())
        for variable, value in zip(model.training_state, saved.training_state, strict=True):
            variable.assign(value)
        self.seconds_before = state["seconds"]
        self._kept = {
            **{name: state[name] for name in NOTHING if name in state},
            "metrics": _load_arrays(folder / "metrics.npz"),
            "best": _load_arrays(folder / "best.npz"),
            "model": model.snapshot(),
        }
        self._steps = self._saved_steps = model.steps_done
        self._restore_early_stopping()

    def _newest(self) -> tuple[Path, dict[str, Any]]:
        damaged = []
        for folder in reversed(folders(self.folder)):
            try:
                state = json.loads((folder / "state.json").read_text())
                if all(sha256_of(folder / name) == hash for name, hash in state["sha256"].items()):
                    return folder, state
            except (OSError, ValueError, KeyError):
                pass
            damaged.append(folder.name)
            print(f"Checkpoint {folder} is damaged; passing it over.", file=sys.stderr)
        found = f"damaged ones only: {', '.join(damaged)}" if damaged else "none"
        raise InputError(
            f"Expected a checkpoint in {self.folder}: start anew with --reset. Received: {found}"
        )

    def restore_best(self, model: keras.Model) -> None:
        """Gives the model the weights that early stopping found best, if there are any."""
        if self.early_stopping is not None and self.early_stopping.best_weights:
            model.set_weights(self.early_stopping.best_weights)

    def on_train_begin(self, logs: Any = None) -> None:
        self._restore_early_stopping()

    def _restore_early_stopping(self) -> None:
        state = self._kept["early_stopping"]
        if self.early_stopping is None or not state:
            return
        for name in EARLY_STOPPING:
            setattr(self.early_stopping, name, state[name])
        if self._kept["best"]:
            self.early_stopping.best_weights = self._kept["best"]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch and self.step:
            for variable, value in zip(
                self._metric_variables(), self._kept["metrics"], strict=True
            ):
                variable.assign(value)

    def _metric_variables(self) -> list[Any]:
        return [variable for metric in self.model.metrics for variable in metric.variables]

    # Saving

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self._steps = self._steps, self.model.steps_done
        if not self.every or self._steps // self.every == before // self.every:
            return  # alike on every worker: reading a metric below takes all of them
        if batch + 1 >= self.params["steps"]:  # the last call may have fewer steps
            self._due = True  # at the end of the epoch
            return
        metrics = [variable.numpy() for variable in self._metric_variables()]
        self._keep(self.epoch, batch + 1, self.history, metrics)
        self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        history = {
            name: [*self.history.get(name, []), float(value)]
            for name, value in (logs or {}).items()
        }
        self._keep(epoch + 1, 0, history, [])
        last = self.stopped_early or self.epoch == self.params["epochs"]
        rested = time.time() - self._saved_at > self._cost / LARGEST_SHARE_OF_TIME
        if last or self._due or rested:
            self._save()

    def _keep(
        self, epoch: int, step: int, history: dict[str, list[float]], metrics: list[np.ndarray]
    ) -> None:
        """Takes the state into memory, all of it or nothing."""
        self._kept = {
            "epoch": epoch,
            "step": step,
            "history": history,
            "metrics": metrics,
            "stopped_early": self.model.stop_training,
            "early_stopping": self._early_stopping_state(),
            "best": getattr(self.early_stopping, "best_weights", None) or [],
            "model": self.model.snapshot(),
        }

    def keep(self) -> str:
        """Writes the last good state; returns where it is, in words."""
        if self._kept["model"] is None:
            return "nothing was kept, no epoch had ended."
        if self._saved_steps < self._kept["model"]["steps"]:
            self.model.rewind(self._kept["model"])
            self._save()
        place = f"epoch {self.epoch}"
        if self.step:
            place = f"step {self.step} of epoch {self.epoch + 1}"
        return f"the state after {place} is in {self.folder}."

    def _save(self) -> None:
        """Writes what is kept, which is the state that the model has."""
        steps = self._kept["model"]["steps"]
        if self.writes:
            begun = time.time()
            for left in self.folder.glob(".[0-9]*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            with atomic_folder(self.folder / f"{steps:08d}") as folder:
                self._write(folder)
            for old in folders(self.folder)[:-KEPT]:
                shutil.rmtree(old)
            self.write_history()
            self._saved_at = time.time()
            self._cost = self._saved_at - begun
        self._saved_steps, self._due = steps, False

    def _write(self, folder: Path) -> None:
        self.model.save(folder / "model.keras")
        for name in ("metrics", "best"):
            if self._kept[name]:
                np.savez(folder / f"{name}.npz", *self._kept[name])
        state = {
            **{name: self._kept[name] for name in NOTHING if name not in ARRAYS},
            "seconds": self.seconds_before + time.time() - self._started,
            "recipe": self.recipe_hash,
            "sha256": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        }
        (folder / "state.json").write_text(json.dumps(state))

    def write_history(self) -> None:
        """Writes the CSV of all epochs."""
        atomic_write(self.history_file, _as_csv(self.history))

    def _early_stopping_state(self) -> dict[str, Any]:
        if self.early_stopping is None:
            return {}
        state = {name: getattr(self.early_stopping, name) for name in EARLY_STOPPING}
        return {name: value if value is None else float(value) for name, value in state.items()}


def folders(folder: Path) -> list[Path]:
    """The checkpoints in a run's `checkpoint` folder, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.name.isdigit())


def _hash(recipe: Recipe) -> str:
    return hashlib.sha256(recipe.to_toml().encode()).hexdigest()


def _load_arrays(file: Path) -> list[np.ndarray]:
    if not file.is_file():
        return []
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


def _as_csv(history: dict[str, list[float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *history])
    for epoch, row in enumerate(zip(*history.values(), strict=True), start=1):
        writer.writerow([epoch, *row])
    return text.getvalue()
