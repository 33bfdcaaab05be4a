"""Law 2: interrupted equals uninterrupted; refusals; what a run leaves behind."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_runs import (
    GAN_RECIPE,
    RECIPE,
    STACKED_RECIPE,
    as_streams,
    assert_same_model,
    changed,
)

import kerasunsup
from kerasunsup.errors import InputError
from kerasunsup.export import ServedModel
from kerasunsup.strategies import choose
from kerasunsup.training import train


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(RECIPE, tmp_path_factory.mktemp("whole") / "run", verbose=0)


def test_a_run_leaves_a_model_a_history_and_a_saved_model(whole):
    names = {path.name for path in whole.folder.iterdir()}
    wanted = {"recipe.toml", "run.json", "history.csv", "model.keras", "saved_model", "tensorboard"}
    assert names == wanted
    with open(whole.folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["loss"]) for row in rows] == whole.history["loss"]
    assert json.loads((whole.folder / "run.json").read_text())["steps"] == 6 * 6
    served = tf.saved_model.load(str(whole.folder / "saved_model" / "1"))
    assert set(served.signatures) == {*whole.model.verbs, "serving_default"}
    loaded = keras.saving.load_model(whole.folder / "model.keras")
    assert_same_model(whole.model, loaded)


def test_the_seed_alone_decides(whole, tmp_path):
    assert_same_model(whole.model, train(RECIPE, tmp_path / "again", verbose=0).model)
    other = train(changed(seed=4), tmp_path / "other", verbose=0)
    assert other.history["loss"] != whole.history["loss"]


@pytest.mark.slow
def test_a_deterministic_run_is_the_same_every_time(tmp_path):
    code = (
        "import json, sys, kerasunsup; recipe = json.loads(sys.argv[1]); "
        "[kerasunsup.train(recipe, out, deterministic=True, verbose=0) for out in sys.argv[2:]]"
    )
    runs = [str(tmp_path / name) for name in ("one", "two")]
    recipe = changed(GAN_RECIPE, epochs=1, picture_every=0, fcd_every=0)
    subprocess.run([sys.executable, "-c", code, json.dumps(recipe), *runs], check=True)
    one, two = (keras.saving.load_model(f"{run}/model.keras") for run in runs)
    assert_same_model(one, two)


def test_folders_with_a_run_are_not_overwritten(whole):
    with pytest.raises(InputError, match="--reset"):
        train(RECIPE, whole.folder, verbose=0)
    with pytest.raises(InputError, match=r"train\.seed"):
        train(changed(seed=9), whole.folder, resume=True, verbose=0)
    with pytest.raises(InputError, match="finished"):
        train(RECIPE, whole.folder, resume=True, verbose=0)


def test_reset_replaces_the_run_and_nothing_else(tmp_path):
    train(RECIPE, tmp_path / "run", verbose=0)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run = train(changed(epochs=1), tmp_path / "run", reset=True, verbose=0)
    assert len(run.history["loss"]) == 1
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_one_class_recipes_train_on_that_class_only(tmp_path):
    recipe = {**changed(epochs=1), "data": {"name": "iris", "normal_class": 1}}
    assert train(recipe, tmp_path / "run", verbose=0).model.steps_done == 2  # 30 of 90 rows


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (changed(GAN_RECIPE, patience=3), "patience"),
        (changed(STACKED_RECIPE, patience=3), "patience.*in 3 stages"),
        (changed(STACKED_RECIPE, epochs=3), "at least 4: layer_epochs=2 for each of 2 layers"),
        ({**GAN_RECIPE, "data": {"name": "digits", "seed": 7}}, "fcd_every.*same splits"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(recipe, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train(recipe, tmp_path / "run", verbose=0)


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        (RECIPE, 36),
        pytest.param(changed(GAN_RECIPE, batch_size=359), 18, marks=pytest.mark.slow),
    ],
)
def test_large_sets_stream(recipe, steps, tmp_path, monkeypatch):
    # 1,078 digits are 3 batches of 359 and one example, too few for two critic steps
    as_streams(recipe, monkeypatch)
    first = train(recipe, tmp_path / "one", verbose=0)
    again = train(recipe, tmp_path / "two", verbose=0)
    assert_same_model(first.model, again.model)
    assert first.model.steps_done == steps


def test_strategies_are_chosen_by_name():
    assert choose("auto").num_replicas_in_sync == 1
    assert choose("none") is tf.distribute.get_strategy()
    with pytest.raises(InputError, match="mirrored"):
        choose("miror")


def test_exported_weights_are_rounded_where_the_recipe_says_so(tmp_path):
    run = train(changed(weight_bits=13, epochs=1), tmp_path / "run", verbose=0)
    rounded = ServedModel(run.folder / "saved_model" / "1").model
    for a, b in zip(rounded.trainable_weights, run.model.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=2.0**-13)
        assert not (np.array(a, "float32").view("uint32") & 0x7FF).any()
        assert np.abs(np.array(a) - np.array(b)).max() > 0


def test_public_names():
    assert kerasunsup.train is train
