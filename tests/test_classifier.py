"""Classifiers: the one family that trains on labels; its augmentation and loss."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasunsup import data as datasets
from kerasunsup import networks, zoo
from kerasunsup.augmentation import CropAndFlip
from kerasunsup.building import create_model
from kerasunsup.errors import InputError
from kerasunsup.evaluation import evaluate
from kerasunsup.export import ServedModel, export
from kerasunsup.losses import cross_entropy
from kerasunsup.models import Classifier
from kerasunsup.mosaic import as_image
from kerasunsup.recipe import Recipe
from kerasunsup.serving import warmup
from kerasunsup.serving.runtime import start
from kerasunsup.training import train

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def make(**arguments):
    keras.utils.set_random_seed(0)
    arguments = {"value_range": (0, 1), "seed": 1, **arguments}
    model = Classifier(networks.dense_backbone(SHAPE, [64]), 10, **arguments)
    model.compile(keras.optimizers.Adam(0.01))
    return model


def test_it_learns_and_its_signatures_answer_alike(digits, tmp_path):
    model = make(label_smoothing=0.1)
    history = model.fit(
        *digits.pairs("train"),
        batch_size=64,
        epochs=5,
        validation_data=digits.pairs("validation"),
        verbose=0,
    ).history
    assert history["val_accuracy"][-1] > 0.9
    x, y = digits.pairs("test")
    answer = model.classify(x)
    np.testing.assert_allclose(answer["probabilities"].sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(answer["label"], answer["probabilities"].argmax(1))
    measured = evaluate(model, digits, ["accuracy"])["accuracy"]
    assert measured.value == pytest.approx((answer["label"] == y).mean())
    features = model.encode(x)["latent"]
    kernel, bias = model.head.get_weights()
    logits = features @ kernel + bias
    np.testing.assert_array_equal(answer["label"], logits.argmax(1))
    served = ServedModel(export(model, tmp_path / "1"))
    np.testing.assert_allclose(
        served.classify(x)["probabilities"], answer["probabilities"], atol=1e-5
    )


NAMES = tuple(f"chiffre n° {i}" for i in range(10))


def test_names_of_classes_are_answered_wherever_the_model_is(digits, tmp_path):
    x = digits.test[:20]
    model = make(class_names=NAMES)
    answer = model.classify(x)
    wanted = [NAMES[label] for label in answer["label"]]
    assert answer["class_name"].tolist() == wanted
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").class_names == NAMES
    folder = export(model, tmp_path / "1")
    served = ServedModel(folder)
    assert served.classify(x, batch_size=8)["class_name"].tolist() == wanted
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, pixels in zip(files, x, strict=False):
        as_image(np.rint(255 * pixels).astype("uint8")).save(file)
    found = served.from_files("classify", files)[0]["class_name"]
    assert found.tolist() == wanted[:3]
    with start() as runtime:
        got = runtime.run(folder, "serving_default", {"x": x})
        assert [name.decode() for name in got["class_name"]] == wanted
        for signature, inputs, stored in warmup.read(folder):
            difference = warmup.differences(stored, runtime.run(folder, signature, inputs))
            assert max(difference.values()) < 1e-5
    assert "class_name" not in make().classify(x)


@pytest.mark.parametrize(
    "names", ["0123456789", NAMES[:9], (*NAMES[:9], NAMES[0]), (*NAMES[:9], ""), range(10)]
)
def test_wrong_class_names_are_refused(names):
    with pytest.raises(InputError, match="10 different texts"):
        make(class_names=names)


def test_a_recipe_takes_the_names_of_its_data(tmp_path):
    recipe = Recipe.load(
        {
            "name": "tiny",
            "family": "classifier",
            "license": "MIT",
            "data": {"name": "iris"},
            "model": {
                "class": "Classifier",
                "labels": 3,
                "backbone": {"builder": "dense_backbone", "units": [4]},
            },
            "compile": {"optimizer": {"name": "Adam"}},
            "train": {"epochs": 1, "standardize": True},
        }
    )
    names = ("setosa", "versicolor", "virginica")
    assert train(recipe, tmp_path / "run", verbose=0).model.class_names == names
    assert zoo.measure(tmp_path / "run").class_names == names
    assert create_model(recipe, (4,), None, class_names=("a", "b")).class_names is None
    network = recipe.model.arguments["backbone"]
    finetune = {"class": "PretrainFinetune", "classes": 3, "source": network}
    finetuned = Recipe.load({**recipe.to_dict(), "model": finetune})
    assert create_model(finetuned, (4,), None, class_names=names).class_names == names
    assert create_model(finetuned, (4,), None, class_names=("a", "b")).class_names is None
    own = {**recipe.model.arguments, "class_names": ["x", "y", "z"]}
    named = Recipe.load({**recipe.to_dict(), "model": {"class": "Classifier", **own}})
    assert create_model(named, (4,), None, class_names=("a", "b", "c")).class_names == tuple("xyz")


def test_saved_and_reloaded_goes_on_as_if_never_stopped(digits, tmp_path):
    x, y = digits.train[:100], digits.labels["train"][:100]
    whole, half = (make(augmentation=CropAndFlip(1, seed=2)) for _ in range(2))
    whole.fit(x, y, batch_size=30, epochs=3, verbose=0)
    half.fit(x, y, batch_size=30, epochs=1, verbose=0)
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(x, y, batch_size=30, epochs=3, initial_epoch=1, verbose=0)
    for a, b in zip(whole.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_arrays_datasets_and_splits_give_each_example_its_label(digits):
    x, y = digits.train[:96], digits.labels["train"][:96]
    weights = []
    for given in ((x, y), (tf.data.Dataset.from_tensor_slices((x, y)).batch(32),)):
        model = make()
        model.fit(*given, batch_size=32, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    model = make()
    model.fit(x, y, batch_size=32, validation_split=0.25, verbose=0)
    assert model.steps_done == 3
    logs = model.evaluate(x, y, return_dict=True, verbose=0)
    assert logs["accuracy"] == pytest.approx((model.classify(x)["label"] == y).mean())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "trains on labels"),
        (np.zeros(3), "one label for each"),
        (np.full(20, 10), r"\[0, 10\)"),
        (np.full(20, -1), r"\[0, 10\)"),
        (np.full(20, 0.5), "class number"),
        (np.full(20, np.nan), "class number"),
        (np.full(20, "a"), "class number"),
        (np.zeros((20, 10)), "class number"),
    ],
)
def test_bad_labels_are_refused(labels, message, digits):
    with pytest.raises(InputError, match=message):
        make().fit(digits.train[:20], labels, verbose=0)


def test_data_without_labels_are_refused_by_name():
    data = datasets.as_dataset(np.random.default_rng(0).random((40, *SHAPE), dtype="float32"))
    with pytest.raises(InputError, match="without labels for train"):
        data.pairs("train")


@pytest.mark.parametrize("arguments", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InputError, match="label_smoothing"):
        make(**arguments)


def test_cross_entropy_matches_numpy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = 0.9 * np.eye(4)[labels] + 0.1 / 4
    np.testing.assert_allclose(
        cross_entropy(labels, logits.astype("float32"), 0.1),
        -(target * np.log(p)).sum(1),
        rtol=1e-5,
    )


def test_crops_and_flips_are_of_the_padded_image():
    image = np.arange(1.0, 65.0, dtype="float32").reshape(1, *SHAPE)
    layer = CropAndFlip(1, seed=0)
    np.testing.assert_array_equal(layer(image), image)
    seen = np.asarray(layer(np.repeat(image, 4000, axis=0), training=True))[..., 0]
    padded = np.pad(image[0, ..., 0], 1)
    crops = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    every = np.stack([*crops, *(crop[:, ::-1] for crop in crops)])
    which = (seen[:, None] == every).all(axis=(2, 3))
    assert (which.sum(1) == 1).all()
    counts = which.sum(0)
    assert np.abs(counts - 4000 / 18).max() < 5 * np.sqrt(4000 / 18)
    assert np.unique(np.asarray(CropAndFlip(1, False, 0)(image, training=True))[0, :, 3]).size > 5
