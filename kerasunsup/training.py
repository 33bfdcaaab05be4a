"""Recipe -> trained run: a folder with the model, its history, pictures and the SavedModel.

RUN/recipe.toml  run.json  history.csv  model.keras  saved_model/<version>/  samples/
    tensorboard/  checkpoint/ (while training)
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasunsup import checkpoint as checkpoints
from kerasunsup import strategies
from kerasunsup.building import create_model
from kerasunsup.callbacks import FrechetDistance, Pictures, StopOnBadLoss
from kerasunsup.checkpoint import Checkpoint
from kerasunsup.data import Dataset
from kerasunsup.errors import InputError, TrainingError
from kerasunsup.export import export
from kerasunsup.files import atomic_file, atomic_write
from kerasunsup.health import Health
from kerasunsup.models import UnsupervisedModel
from kerasunsup.models.resident import rows_used
from kerasunsup.recipe import Recipe
from kerasunsup.replicas import values_of_all

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
        chief: Whether this process wrote it; False on the other workers of a cluster.
    """

    model: UnsupervisedModel
    history: dict[str, list[float]]
    folder: Path
    chief: bool = True


def train(
    recipe: Recipe | dict[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    strategy: str | tf.distribute.Strategy = "auto",
    resume: bool = False,
    reset: bool = False,
    deterministic: bool = False,
    verbose: int | str = "auto",
) -> Run:
    """Trains by a recipe, exports the model, and keeps all of it in one folder.

    A run that was interrupted at any point goes on with `resume=True` and ends with the weights
    that it would have had (bit for bit on CPU). On N replicas it trains the weights of one
    (docs/distributed.md). In a cluster every worker calls this with the same arguments and sees
    the same `out`; the chief writes.

    Args:
        recipe: A Recipe, its path or a dict; `zoo.recipe(name)` is that of an entry.
        out: Folder of the run; `runs/<name>` when None.
        strategy: "auto", "none", "mirrored", "multiworker", "tpu" or a tf.distribute.Strategy.
            "auto" is multi-worker where TF_CONFIG is set, mirrored where there are several GPUs.
        resume: Go on with the run in `out`.
        reset: Start anew, replacing the run in `out`.
        deterministic: Use deterministic algorithms alone, also on GPUs, and fail where TensorFlow
            has none. For the rest of the process.
        verbose: As in `keras.Model.fit`.

    Returns:
        The run.

    Raises:
        InputError: A bad recipe, or `out` holds another run.
        TrainingError: Interrupted, the loss is not finite, or a worker of the cluster has gone.
            The last good state is kept.
        OutputError: `out` cannot be written.
    """
    recipe = Recipe.load(recipe)
    folder = Path(out) if out is not None else Path("runs", recipe.name)
    _check_folder(folder, recipe, resume, reset)
    chosen = strategies.choose(strategy)  # first: a cluster must meet before TensorFlow runs
    if verbose:
        print(strategies.describe(chosen, recipe.train.batch_size), flush=True)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    with strategies.lost_workers_named(chosen):
        run = _train(recipe, folder, chosen, resume, verbose)
        strategies.wait_for_all(chosen)
    return run


def _train(
    recipe: Recipe,
    folder: Path,
    strategy: tf.distribute.Strategy,
    resume: bool,
    verbose: int | str,
) -> Run:
    started = time.time()
    chief = strategies.is_chief(strategy)
    data = recipe.data.load()
    keras.utils.set_random_seed(recipe.train.seed)
    steps = _steps_per_epoch(data, recipe)
    with strategy.scope():
        model = create_model(recipe, data.input_shape, data.value_range, steps, data.class_names)
    model.adapt(data.batched("train", recipe.train.batch_size))
    _check_patience(model, recipe)
    if chief and not resume:
        _remove_run(folder)
        atomic_write(folder / "recipe.toml", recipe.to_toml())
    checkpoint = Checkpoint(folder / "checkpoint", folder / "history.csv", recipe, writes=chief)
    health = Health(data, recipe.train.picture_every or 1)
    callbacks = _callbacks(model, data, recipe, folder, checkpoint, health if chief else None)
    if resume:
        checkpoint.restore(model)
        steps_done = values_of_all(strategy, model.steps_done)
        if len(steps_done) > 1:
            raise InputError(
                "Every worker must see the same run: choose a folder that they share. "
                f"Received: checkpoints after {steps_done} steps in {folder}"
            )
    try:
        _fit(model, data, recipe, checkpoint, callbacks, verbose)
        checkpoint.restore_best(model)
        model.finish(
            data.batched("train", recipe.train.batch_size),
            data.batched("validation", recipe.train.batch_size),
        )
        if chief:
            _export(model, recipe, folder)
    except KeyboardInterrupt:
        raise TrainingError(
            f"Stopped in epoch {checkpoint.epoch + 1}; {checkpoint.keep()} "
            f"Go on with: kerasunsup train {folder} --resume"
        ) from None
    if chief:
        checkpoint.write_history()
        seconds = checkpoint.seconds_before + time.time() - started
        findings = [*health.findings, *model.health]
        _describe_run(folder, model, data, seconds, strategy, findings)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return Run(model, checkpoint.history, folder, chief)


def _check_patience(model: UnsupervisedModel, recipe: Recipe) -> None:
    stages = len(model.stage_epochs(recipe.train.epochs))
    if recipe.train.patience and (stages > 1 or "loss" not in model.loss_terms):
        raise InputError(
            "`train.patience` needs a model with one validation loss: leave it out. "
            f"Received: {type(model).__name__}, which has {', '.join(model.loss_terms)} "
            f"in {stages} stages of training"
        )


def _callbacks(
    model: UnsupervisedModel,
    data: Dataset,
    recipe: Recipe,
    folder: Path,
    checkpoint: Checkpoint,
    health: Health | None,
) -> list[keras.callbacks.Callback]:
    """What happens between steps; on workers that write nothing (`health` None) only the rest."""
    callbacks: list[keras.callbacks.Callback] = [StopOnBadLoss(checkpoint)]
    if health is not None:
        if recipe.train.picture_every:
            callbacks.append(Pictures(folder / "samples", data, recipe.train.picture_every))
        if "discriminate" in model.verbs:
            callbacks.append(health)
        if recipe.train.fcd_every:
            callbacks.append(FrechetDistance(folder / "fcd.csv", data, recipe.train.fcd_every))
        callbacks.append(
            keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False)
        )
    if recipe.train.patience:
        checkpoint.early_stopping = keras.callbacks.EarlyStopping(
            patience=recipe.train.patience, restore_best_weights=True
        )
        callbacks.append(checkpoint.early_stopping)
    return [*callbacks, checkpoint]


def _export(model: UnsupervisedModel, recipe: Recipe, folder: Path) -> None:
    with atomic_file(folder / "model.keras") as path:
        model.save(path)
    finished = model.without_training_state()
    if recipe.train.weight_bits:
        round_weights(finished, recipe.train.weight_bits)
    export(finished, folder / "saved_model" / str(recipe.version))


def round_weights(model: keras.Model, bits: int) -> None:
    """Rounds trained weights to their first `bits` significant bits (float32 has 24)."""
    for weight in model.trainable_weights:
        fraction, exponent = np.frexp(weight.numpy())
        weight.assign(np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits))


def _check_folder(folder: Path, recipe: Recipe, resume: bool, reset: bool) -> None:
    """Says why this run cannot have `folder`, if it cannot."""
    checkpoint = bool(checkpoints.folders(folder / "checkpoint"))
    finished = (folder / "run.json").is_file()
    if not resume:
        if (checkpoint or finished) and not reset:
            raise InputError(
                f"{folder} already holds a run: go on with --resume, replace it with --reset, or "
                "choose another folder with -o."
            )
        return
    if not (checkpoint or finished):
        raise InputError(
            f"Nothing to resume: no checkpoint of a run is in {folder}. Drop --resume."
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
        ).skip(checkpoint.step)
        arguments = {"steps_per_epoch": -(-used // batch_size)}
    if checkpoint.epoch < epochs and not checkpoint.stopped_early:
        model.fit(
            train,
            epochs=epochs,
            initial_epoch=checkpoint.epoch,
            initial_step=checkpoint.step,
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
