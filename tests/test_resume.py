"""Runs that are stopped, killed or damaged go on as if nothing had happened."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from marks import slow_but
from replicated import mirrored
from small_runs import (
    AUTOENCODER_RECIPE,
    GAN_RECIPE,
    RECIPE,
    STACKED_RECIPE,
    as_streams,
    assert_same_model,
    changed,
)

from kerasunsup import data as datasets
from kerasunsup import training
from kerasunsup.callbacks import StopOnBadLoss
from kerasunsup.checkpoint import Checkpoint
from kerasunsup.errors import InputError, OutputError, TrainingError
from kerasunsup.models import VAE, Autoencoder, xla
from kerasunsup.recipe import Recipe
from kerasunsup.training import train


@pytest.fixture(autouse=True)
def unexported(monkeypatch):
    """Runs end without their SavedModel, which takes half of the time and is tested elsewhere."""
    monkeypatch.setattr(training, "export", lambda model, folder: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(RECIPE, tmp_path_factory.mktemp("whole") / "run", verbose=0)


def interrupted(recipe, run, after, monkeypatch):
    """The run, stopped after an epoch and resumed."""
    finished = Checkpoint.on_epoch_end

    def interrupt(self, epoch, logs=None):
        finished(self, epoch, logs)
        if epoch + 1 == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", interrupt)
        with pytest.raises(TrainingError, match="--resume"):
            train(recipe, run, verbose=0)
    assert not (run / "model.keras").exists()
    return train(recipe, run, resume=True, verbose=0)


def stopped_after(steps, recipe, run, monkeypatch, error=KeyboardInterrupt, **options):
    """Starts the run and stops it right after so many steps."""
    finished = Checkpoint.on_train_batch_end

    def interrupt(self, batch, logs=None):
        finished(self, batch, logs)
        if self.model.steps_done == steps:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_train_batch_end", interrupt)
        with pytest.raises((TrainingError, error)):
            train(recipe, run, verbose=0, **options)


STOPS = [(steps, stream) for steps in (3, 11, 12, 17) for stream in (False, True)]


@pytest.mark.parametrize(("steps", "stream"), slow_but([(12, True)], STOPS))
def test_stopped_within_an_epoch_equals_uninterrupted(stream, steps, tmp_path, monkeypatch):
    if stream:
        as_streams(RECIPE, monkeypatch)
    recipe = changed(checkpoint_every=2, epochs=3)
    straight = train(recipe, tmp_path / "straight", verbose=0)
    stopped_after(steps, recipe, tmp_path / "run", monkeypatch)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir())
    last = 10 if steps == 12 else steps - steps % 2  # 12 would be the end of an epoch
    assert len(kept) <= 2 and int(kept[-1]) == last
    resumed = train(recipe, tmp_path / "run", resume=True, verbose=0)
    assert_same_model(straight.model, resumed.model)
    assert resumed.model.steps_done == straight.model.steps_done == 18
    assert resumed.history == straight.history


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_step(tmp_path, monkeypatch):
    recipe = changed(GAN_RECIPE, checkpoint_every=3, epochs=2, fcd_every=0, picture_every=0)
    straight = train(recipe, tmp_path / "straight", verbose=0)
    stopped_after(11, recipe, tmp_path / "run", monkeypatch, error=SystemError)
    resumed = train(recipe, tmp_path / "run", resume=True, verbose=0)
    assert_same_model(straight.model, resumed.model)
    assert resumed.history == straight.history


@pytest.mark.slow
def test_on_replicas_too(tmp_path, monkeypatch):
    recipe = changed(checkpoint_every=2, epochs=3)
    straight = train(recipe, tmp_path / "straight", strategy=mirrored(2), verbose=0)
    stopped_after(11, recipe, tmp_path / "run", monkeypatch, strategy=mirrored(2))
    resumed = train(recipe, tmp_path / "run", resume=True, strategy=mirrored(2), verbose=0)
    assert_same_model(straight.model, resumed.model)
    assert resumed.history == straight.history
    one = train(recipe, tmp_path / "one", verbose=0)
    for a, b in zip(one.model.variables, resumed.model.variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("every", slow_but([3], [2, 3, 6]))
def test_a_last_call_of_fewer_steps(every, tmp_path, monkeypatch):
    """Six steps in calls of four: the second has two, and ends the epoch."""
    recipe = {**changed(checkpoint_every=every, epochs=3)}
    recipe["compile"] = {**recipe["compile"], "steps_per_execution": 4}
    straight = train(recipe, tmp_path / "straight", verbose=0)
    stopped_after(12, recipe, tmp_path / "run", monkeypatch, error=SystemError)
    resumed = train(recipe, tmp_path / "run", resume=True, verbose=0)
    assert_same_model(straight.model, resumed.model)
    assert resumed.history == straight.history
    assert resumed.model.steps_done == straight.model.steps_done == 18


def test_a_damaged_checkpoint_is_passed_over(tmp_path, monkeypatch, capsys):
    recipe = changed(checkpoint_every=2, epochs=2)
    straight = train(recipe, tmp_path / "straight", verbose=0)
    run = tmp_path / "run"
    stopped_after(11, recipe, run, monkeypatch)
    older, newer = sorted((run / "checkpoint").iterdir())
    assert (older.name, newer.name) == ("00000008", "00000010")
    model = newer / "model.keras"
    model.write_bytes(model.read_bytes()[:-100])
    resumed = train(recipe, run, resume=True, verbose=0)
    assert "00000010 is damaged" in capsys.readouterr().err
    assert_same_model(straight.model, resumed.model)
    stopped_after(11, recipe, tmp_path / "again", monkeypatch)
    for folder in (tmp_path / "again" / "checkpoint").iterdir():
        (folder / "state.json").write_text("{")
    with pytest.raises(InputError, match="damaged ones only: 00000010, 00000008"):
        train(recipe, tmp_path / "again", resume=True, verbose=0)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    recipe = changed(checkpoint_every=2, epochs=2)
    straight = train(recipe, tmp_path / "straight", verbose=0)
    saved, save = [], keras.Model.save

    def until_full(model, path, *args, **kwargs):
        save(model, path, *args, **kwargs)
        saved.append(path)
        if len(saved) == 4:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", until_full)
        with pytest.raises(
            OutputError, match=r"Cannot write \S+checkpoint.*No space left.*free space"
        ):
            train(recipe, tmp_path / "run", verbose=0)
    assert len(list((tmp_path / "run" / "checkpoint").iterdir())) == 2
    resumed = train(recipe, tmp_path / "run", resume=True, verbose=0)
    assert_same_model(straight.model, resumed.model)


def test_a_checkpoint_knows_its_recipe(tmp_path, monkeypatch):
    recipe = changed(checkpoint_every=2, epochs=2)
    stopped_after(3, recipe, tmp_path / "run", monkeypatch)
    with pytest.raises(InputError, match=r"train\.seed"):
        train(changed(recipe, seed=4), tmp_path / "run", resume=True, verbose=0)
    other = Recipe.load(changed(recipe, seed=4))
    (tmp_path / "run" / "recipe.toml").write_text(other.to_toml())
    with pytest.raises(InputError, match=r"another recipe.*--reset"):
        train(other, tmp_path / "run", resume=True, verbose=0)


@pytest.mark.parametrize("after", slow_but([4], [1, 4]))
def test_interrupted_equals_uninterrupted(after, whole, tmp_path, monkeypatch):
    resumed = interrupted(RECIPE, tmp_path / "run", after, monkeypatch)
    assert_same_model(whole.model, resumed.model)
    assert resumed.history == whole.history
    assert resumed.model.steps_done == 36


def test_steps_compiled_with_xla_too(tmp_path, monkeypatch):
    monkeypatch.setattr(xla, "LEAST_STEPS", 6)
    possible, lowered = xla._possible, []
    monkeypatch.setattr(xla, "_possible", lambda *a: lowered.append(possible(*a)) or lowered[-1])
    recipe = changed(epochs=3, checkpoint_every=2)
    straight = train(recipe, tmp_path / "straight", verbose=0)
    stopped_after(9, recipe, tmp_path / "run", monkeypatch)
    resumed = train(recipe, tmp_path / "run", resume=True, verbose=0)
    assert lowered == [True] * 3
    assert_same_model(straight.model, resumed.model)
    assert resumed.history == straight.history


@pytest.mark.slow
def test_training_in_stages_interrupted_equals_uninterrupted(tmp_path, monkeypatch):
    straight = train(STACKED_RECIPE, tmp_path / "straight", verbose=0)
    resumed = interrupted(STACKED_RECIPE, tmp_path / "run", 2, monkeypatch)  # between two stages
    assert_same_model(straight.model, resumed.model)
    assert resumed.history == straight.history and resumed.model.steps_done == 7 * 6
    rate = straight.model.optimizer.learning_rate  # the schedule spans the longest stage
    assert float(rate) == pytest.approx(0.0, abs=1e-8)
    loaded = keras.saving.load_model(tmp_path / "straight" / "model.keras")
    assert loaded.stage_epochs(1) == (1,)  # finished: it goes on end to end


@pytest.mark.slow
def test_an_interrupted_gan_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    straight = train(GAN_RECIPE, tmp_path / "straight", verbose=0)
    resumed = interrupted(GAN_RECIPE, tmp_path / "run", 4, monkeypatch)
    assert_same_model(straight.model, resumed.model)
    assert resumed.history == straight.history
    pictures = {path.name for path in (tmp_path / "run" / "samples").iterdir()}
    assert pictures == {"epoch_003.png", "epoch_006.png", "training.gif"}
    measured = [(tmp_path / name / "fcd.csv").read_text() for name in ("straight", "run")]
    assert measured[0] == measured[1]
    assert [row.split(",")[0] for row in measured[0].splitlines()] == ["epoch", "2", "4", "6"]
    rate = straight.model.discriminator_optimizer.learning_rate
    assert float(rate) == pytest.approx(0.0, abs=1e-8)  # its schedule counts its own steps


@keras.saving.register_keras_serializable("tests")
class Halves(Autoencoder):
    """The whole network in the first half of a training, its decoder in the second."""

    def stage_epochs(self, epochs):
        return epochs // 2, epochs - epochs // 2

    def freeze_for(self, stage):
        self.encoder.trainable = stage == 0


STAGES_RECIPE = {
    **RECIPE,
    "model": {
        "class": "tests>Halves",
        "latent_dim": 2,
        "backbone": {"builder": "dense_backbone", "units": [8]},
        "decoder": {"builder": "dense_decoder", "units": [8]},
    },
    "train": {"epochs": 6, "batch_size": 16, "seed": 3, "standardize": True},
}


def test_a_run_stopped_within_the_first_epoch_of_a_stage_goes_on(tmp_path, monkeypatch):
    """What is kept then is the state before the stage began, of other optimisers."""
    straight = train(STAGES_RECIPE, tmp_path / "straight", verbose=0)
    assert len(straight.model.optimizer.variables) < 2 * len(straight.model.weights)
    assert straight.model.steps_done == 36 and straight.model.optimizer.iterations.numpy() == 18

    def interrupt(self, batch, logs=None):
        if self.checkpoint.epoch == 3:
            assert self.model.stage == 1
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StopOnBadLoss, "on_train_batch_end", interrupt)
        with pytest.raises(TrainingError, match="after epoch 3"):
            train(STAGES_RECIPE, tmp_path / "run", verbose=0)
    resumed = train(STAGES_RECIPE, tmp_path / "run", resume=True, verbose=0)
    assert_same_model(straight.model, resumed.model)
    assert resumed.history == straight.history


@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights_and_survives_an_interruption(tmp_path, monkeypatch):
    recipe = changed(epochs=60, patience=3)
    recipe["compile"] = {"optimizer": {"name": "SGD", "learning_rate": 0.05}}
    straight = train(recipe, tmp_path / "straight", verbose=0)
    losses = straight.history["val_loss"]
    assert len(losses) < 60
    data = datasets.load("iris")
    assert straight.model.evaluate(data.validation, batch_size=16, verbose=0)[0] == pytest.approx(
        min(losses), rel=1e-4
    )
    finished = Checkpoint.on_epoch_end

    def interrupt(self, epoch, logs=None):
        finished(self, epoch, logs)
        if epoch + 2 == len(losses):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", interrupt)
        with pytest.raises(TrainingError):
            train(recipe, tmp_path / "broken", verbose=0)
    resumed = train(recipe, tmp_path / "broken", resume=True, verbose=0)
    assert resumed.history == straight.history
    for a, b in zip(straight.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(InputError, match="Nothing to resume"):
        train(RECIPE, tmp_path / "none", resume=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch):
    losses = VAE.losses

    def explode(self, x, training):
        terms = losses(self, x, training)
        bad = tf.where(self.optimizer.iterations >= 20, np.nan, 0.0) if training else 0.0
        return {**terms, "loss": terms["loss"] + bad}

    monkeypatch.setattr(VAE, "losses", explode)
    with pytest.raises(TrainingError, match=r"not finite.*epoch 4.*after epoch 3.*checkpoint"):
        train(RECIPE, tmp_path / "run", verbose=0)
    newest = max((tmp_path / "run" / "checkpoint").iterdir())
    kept = keras.saving.load_model(newest / "model.keras")
    assert all(np.isfinite(weight).all() for weight in kept.trainable_weights)
    assert kept.optimizer.iterations.numpy() == 18


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [AUTOENCODER_RECIPE, RECIPE, GAN_RECIPE], ids=["autoencoder", "vae", "gan"]
)
def test_kill_minus_nine_at_random_moments(recipe, tmp_path):
    recipe = changed(recipe, epochs=40, checkpoint_every=2, picture_every=0, fcd_every=0)
    straight = train(recipe, tmp_path / "straight", verbose=0)
    code = (
        "import json, sys; from kerasunsup import train; "
        "train(json.loads(sys.argv[1]), sys.argv[2], resume=len(sys.argv) > 3, verbose=0)"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    rng, run, resume = np.random.default_rng(0), tmp_path / "run", []
    checkpoints = run / "checkpoint"
    for kills in itertools.count():
        before = newest(checkpoints)
        command = [sys.executable, "-c", code, json.dumps(recipe), str(run), *resume]
        process = subprocess.Popen(command, env=environment, cwd=tmp_path)
        while kills < 20 and process.poll() is None and newest(checkpoints) == before:
            time.sleep(0.01)
        if kills < 20:
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL)
        if process.returncode == 0:
            break
        resume = ["--resume"]
    assert kills == 20
    loaded = keras.saving.load_model(run / "model.keras")
    assert_same_model(straight.model, loaded)
    assert straight.history == resumed_history(run)


def newest(checkpoints):
    return max((path.name for path in checkpoints.glob("[0-9]*")), default="")


def resumed_history(run):
    with open(run / "history.csv") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name != "epoch"}
