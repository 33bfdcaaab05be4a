"""Recipe -> trained run: a folder with the model, its history, pictures and the SavedModel.

RUN/recipe.toml  run.json  history.csv  model.keras  saved_model/<version>/  samples/
    tensorboard/  checkpoint/ (while training)
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasunsup.building import create_model
from kerasunsup.callbacks import Checkpoint, FrechetDistance, Pictures, StopOnBadLoss
from kerasunsup.data import Dataset
from kerasunsup.errors import InputError, TrainingError
from kerasunsup.export import export
from kerasunsup.files import atomic_file, atomic_write, recover_folder
from kerasunsup.health import Health
from kerasunsup.models import UnsupervisedModel
from kerasunsup.models.resident import rows_used
from kerasunsup.recipe import Recipe

SHUFFLE_BUFFER = 10_000
PARTS = (
    *("run.json", "history.csv", "model.keras", "saved_model", "samples", "tensorboard"),
    *("checkpoint", "card.json", "preview.png", "fcd.csv"),
)


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        model: The trained model.
        history: Metric name -> value of each epoch, epochs before a resume included.
        folder: Where everything lies.
    """

    model: UnsupervisedModel
    history: dict[str, list[float]]
    folder: Path


def train(
    recipe: Recipe | dict[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    strategy: str | tf.distribute.Strategy = "auto",
    resume: bool = False,
    reset: bool = False,
    verbose: int | str = "auto",
) -> Run:
    """Trains by a recipe, exports the model, and keeps all of it in one folder.

    A run that was interrupted at any point goes on with `resume=True` and ends with the weights
    that it would have had (bit for bit on CPU).

    Args:
        recipe: A Recipe, its path or a dict; `zoo.recipe(name)` is that of an entry.
        out: Folder of the run; `runs/<name>` when None.
        strategy: "auto", "none", "mirrored", "multiworker" or a tf.distribute.Strategy. "auto" is
            multi-worker where TF_CONFIG is set, mirrored where there are several GPUs.
        resume: Go on with the run in `out`.
        reset: Start anew, replacing the run in `out`.
        verbose: As in `keras.Model.fit`.

    Returns:
        The run.

    Raises:
        InputError: A bad recipe, or `out` holds another run.
        TrainingError: Interrupted, or the loss is not finite. The last good state is kept.
        OutputError: `out` cannot be written.
    """
    recipe = Recipe.load(recipe)
    folder = Path(out) if out is not None else Path("runs", recipe.name)
    _check_folder(folder, recipe, resume, reset)
    chosen = choose_strategy(strategy)  # first: a cluster must be set up before TensorFlow runs
    data = recipe.data.load()
    started = time.time()
    keras.utils.set_random_seed(recipe.train.seed)
    steps = _steps_per_epoch(data, recipe)
    with chosen.scope():
        model = create_model(recipe, data.input_shape, data.value_range, steps, data.class_names)
    model.adapt(data.batched("train", recipe.train.batch_size))
    stages = len(model.stage_epochs(recipe.train.epochs))
    if recipe.train.patience and (stages > 1 or "loss" not in model.loss_terms):
        raise InputError(
            "`train.patience` needs a model with one validation loss: leave it out. "
            f"Received: {type(model).__name__}, which has {', '.join(model.loss_terms)} "
            f"in {stages} stages of training"
        )
    if not resume:
        _remove_run(folder)
        atomic_write(folder / "recipe.toml", recipe.to_toml())
    checkpoint = Checkpoint(folder / "checkpoint", folder / "history.csv")
    callbacks: list[keras.callbacks.Callback] = [StopOnBadLoss(checkpoint)]
    if recipe.train.picture_every:
        callbacks.append(Pictures(folder / "samples", data, recipe.train.picture_every))
    health = Health(data, recipe.train.picture_every or 1)
    if "discriminate" in model.verbs:
        callbacks.append(health)
    if recipe.train.fcd_every:
        callbacks.append(FrechetDistance(folder / "fcd.csv", data, recipe.train.fcd_every))
    callbacks.append(keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False))
    if recipe.train.patience:
        checkpoint.early_stopping = keras.callbacks.EarlyStopping(
            patience=recipe.train.patience, restore_best_weights=True
        )
        callbacks.append(checkpoint.early_stopping)
    callbacks.append(checkpoint)
    if resume:
        checkpoint.restore(model)
    try:
        _fit(model, data, recipe, checkpoint, callbacks, verbose)
        checkpoint.restore_best(model)
        model.finish(
            data.batched("train", recipe.train.batch_size),
            data.batched("validation", recipe.train.batch_size),
        )
        with atomic_file(folder / "model.keras") as path:
            model.save(path)
        finished = model.without_training_state()
        if recipe.train.weight_bits:
            round_weights(finished, recipe.train.weight_bits)
        export(finished, folder / "saved_model" / str(recipe.version))
    except KeyboardInterrupt:
        raise TrainingError(
            f"Stopped in epoch {checkpoint.epoch + 1}; {checkpoint.keep()} "
            f"Go on with: kerasunsup train {folder} --resume"
        ) from None
    seconds = checkpoint.seconds_before + time.time() - started
    findings = [*health.findings, *model.health]
    _describe_run(folder, model, data, seconds, chosen, findings)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return Run(model, checkpoint.history, folder)


def round_weights(model: keras.Model, bits: int) -> None:
    """Rounds trained weights to their first `bits` significant bits (float32 has 24)."""
    for weight in model.trainable_weights:
        fraction, exponent = np.frexp(weight.numpy())
        weight.assign(np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits))


def choose_strategy(strategy: str | tf.distribute.Strategy) -> tf.distribute.Strategy:
    """The tf.distribute strategy that a name stands for.

    Raises:
        InputError: An unknown name.
    """
    if isinstance(strategy, tf.distribute.Strategy):
        return strategy
    if strategy == "auto":
        if "TF_CONFIG" in os.environ:
            strategy = "multiworker"
        else:
            several = len(tf.config.list_logical_devices("GPU")) > 1
            strategy = "mirrored" if several else "none"
    match strategy:
        case "none":
            return tf.distribute.get_strategy()
        case "mirrored":
            return tf.distribute.MirroredStrategy()
        case "multiworker":
            return tf.distribute.MultiWorkerMirroredStrategy()
    raise InputError(
        f"`strategy` must be auto, none, mirrored, multiworker or a tf.distribute.Strategy. "
        f"Received: {strategy!r}"
    )


def _check_folder(folder: Path, recipe: Recipe, resume: bool, reset: bool) -> None:
    """Says why this run cannot have `folder`, if it cannot."""
    recover_folder(folder / "checkpoint")
    checkpoint, finished = (folder / "checkpoint").is_dir(), (folder / "run.json").is_file()
    if not resume:
        if (checkpoint or finished) and not reset:
            raise InputError(
                f"{folder} already holds a run: go on with --resume, replace it with --reset, or "
                "choose another folder with -o."
            )
        return
    if not (checkpoint or finished):
        raise InputError(
            f"Nothing to resume: no epoch of a run in {folder} has ended. Drop --resume."
        )
    changed = Recipe.load(folder).differences(recipe)
    if changed:
        raise InputError(
            f"The run in {folder} has another recipe: resume with the same, or start anew "
            f"with --reset. Received different: {', '.join(changed)}"
        )
    if finished:
        raise InputError(f"The run in {folder} is finished: there is nothing to resume.")


def _remove_run(folder: Path) -> None:
    """Removes what an earlier run left in `folder`, and nothing else."""
    for name in PARTS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _steps_per_epoch(data: Dataset, recipe: Recipe) -> int:
    train = data.train
    count = int(train.cardinality()) if isinstance(train, tf.data.Dataset) else len(train)
    if count < 1:
        raise InputError(f"The training split of {data.name} must have a known, positive size.")
    return -(-count // recipe.train.batch_size)


def _fit(
    model: UnsupervisedModel,
    data: Dataset,
    recipe: Recipe,
    checkpoint: Checkpoint,
    callbacks: list[keras.callbacks.Callback],
    verbose: int | str,
) -> None:
    batch_size, epochs = recipe.train.batch_size, recipe.train.epochs
    train = data.pairs("train") if model.uses_labels else data.train
    validation: Any = data.pairs("validation") if model.uses_labels else data.validation
    if isinstance(data.validation, tf.data.Dataset):
        validation = validation.batch(batch_size)
    arguments: dict[str, Any] = {"batch_size": batch_size}
    if isinstance(data.train, tf.data.Dataset):
        count = int(data.train.cardinality())
        used = rows_used(count, batch_size, model.least_batch)
        train = _stream(
            train, batch_size, used < count, recipe.train.seed, checkpoint.epoch, epochs
        )
        arguments = {"steps_per_epoch": -(-used // batch_size)}
    if checkpoint.epoch < epochs and not checkpoint.stopped_early:
        model.fit(
            train,
            epochs=epochs,
            initial_epoch=checkpoint.epoch,
            validation_data=validation,
            callbacks=callbacks,
            verbose=verbose,
            **arguments,
        )


def _stream(
    examples: tf.data.Dataset,
    batch_size: int,
    whole_batches: bool,
    seed: int,
    first: int,
    epochs: int,
) -> tf.data.Dataset:
    """Shuffled batches of a data set too large for memory; the order depends on the epoch."""

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        shuffled = examples.shuffle(
            SHUFFLE_BUFFER, seed=seed + epoch, reshuffle_each_iteration=False
        )
        return shuffled.batch(batch_size, drop_remainder=whole_batches)

    return tf.data.Dataset.range(first, epochs).flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def _describe_run(
    folder: Path,
    model: UnsupervisedModel,
    data: Dataset,
    seconds: float,
    strategy: tf.distribute.Strategy,
    findings: list[str],
) -> None:
    facts = {
        "wall_time_s": round(seconds, 1),
        "data_fingerprint": data.fingerprint,
        "parameters": model.parameters,
        "steps": model.steps_done,
        "replicas": strategy.num_replicas_in_sync,
        **({"health": findings} if findings else {}),
    }
    atomic_write(folder / "run.json", json.dumps(facts, indent=2) + "\n")
