"""Few labels: the draws, the two protocols, the table and the curve."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from kerasunsup import data as datasets
from kerasunsup import label_efficiency, networks, zoo
from kerasunsup.data.splits import draw_labelled
from kerasunsup.errors import InputError
from kerasunsup.evaluation import evaluate
from kerasunsup.metrics import Metric
from kerasunsup.models import Autoencoder, PretrainFinetune
from kerasunsup.protocols import few_labels
from kerasunsup.recipe import Recipe


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def make_autoencoder(digits):
    backbone = networks.dense_backbone(digits.input_shape, [16])
    decoder = networks.dense_decoder(8, digits.input_shape, [16])
    return Autoencoder(backbone, decoder, 8, value_range=(0, 1), seed=1)


def test_a_draw_holds_equally_many_of_each_class_and_depends_on_the_seed():
    y = np.repeat([3, 5, 7], [10, 20, 30])
    drawn = draw_labelled(y, 12, seed=1)
    assert np.unique(y[drawn], return_counts=True)[1].tolist() == [4, 4, 4]
    assert len(set(drawn.tolist())) == 12
    np.testing.assert_array_equal(drawn, draw_labelled(y, 12, seed=1))
    assert not np.array_equal(drawn, draw_labelled(y, 12, seed=2))
    for count in (0, 4, 33):
        with pytest.raises(InputError, match="multiple of the 3 classes, at most 10"):
            draw_labelled(y, count, seed=0)


def test_a_recipe_trains_on_few_labels_only(digits):
    few = digits.only_labelled(20, seed=3)
    assert np.bincount(few.labels["train"]).tolist() == [2] * 10
    rows = {row.tobytes() for row in digits.train}
    assert len(few.train) == 20 and all(row.tobytes() in rows for row in few.train)
    assert np.bincount(few.labels["validation"]).tolist() == [2] * 10
    smallest = np.bincount(digits.labels["validation"]).min()
    many = digits.only_labelled(400).labels["validation"]
    assert np.bincount(many).tolist() == [smallest] * 10
    assert few.fingerprint != digits.fingerprint
    assert few.fingerprint != digits.only_labelled(20, seed=4).fingerprint
    np.testing.assert_array_equal(few.test, digits.test)
    recipe = Recipe.load(zoo.recipe("classifier_digits")).override(["data.labelled=20"])
    np.testing.assert_array_equal(recipe.data.load().labels["train"],
                                  digits.only_labelled(20, seed=0).labels["train"])  # fmt: skip
    unlabelled = dataclasses.replace(digits, labels={})
    with pytest.raises(InputError, match="labelled data only"):
        unlabelled.only_labelled(20)


def test_frozen_accuracy_is_that_of_scikit_learn(digits, own_cache):
    from sklearn.linear_model import LogisticRegression

    model = make_autoencoder(digits)
    metric = evaluate(model, digits, ["few_labels_frozen_n20"])["few_labels_frozen_n20"]
    train, test = (model.encode(getattr(digits, s))["latent"] for s in ("train", "test"))
    scale = np.sqrt(train.var(0).mean())
    scores = []
    for seed in range(10):
        drawn = draw_labelled(digits.labels["train"], 20, seed)
        fitted = LogisticRegression(max_iter=300).fit(
            (train[drawn] - train.mean(0)) / scale, digits.labels["train"][drawn]
        )
        scores.append(fitted.score((test - train.mean(0)) / scale, digits.labels["test"]))
    assert metric.value == pytest.approx(np.mean(scores), abs=0.005)
    assert metric.std == pytest.approx(np.std(scores, ddof=1), abs=0.005)
    assert 0.6 < metric.baselines["raw_logistic"] < 0.9
    assert set(metric.baselines) == {"raw_logistic", "raw_svm"}
    assert "seeds 0..9" in metric.protocol


@pytest.mark.slow
def test_finetuning_starts_from_what_was_learnt_and_leaves_it(digits, own_cache, monkeypatch):
    monkeypatch.setattr(few_labels, "DRAWS", 3)
    model = make_autoencoder(digits)
    model.compile()
    model.fit(digits.train, epochs=3, verbose=0)
    before = [np.array(weight) for weight in model.weights]
    seen = []
    fit = PretrainFinetune.fit

    def watched(self, x, y, **arguments):
        seen.append((self.encode(digits.test[:5])["latent"], len(x), self.steps_done))
        return fit(self, x, y, **arguments)

    monkeypatch.setattr(PretrainFinetune, "fit", watched)
    metric = evaluate(model, digits, ["few_labels_finetuned_n20"])["few_labels_finetuned_n20"]
    learnt = np.asarray(model.features(digits.test[:5].astype("float32") / 1, training=False))
    if digits.test.dtype == np.uint8:
        learnt = np.asarray(model.features(digits.test[:5].astype("float32") / 255, training=False))
    assert [(count, steps) for _, count, steps in seen] == [(20, 0)] * 6
    for latent, _, _ in seen[:3]:
        np.testing.assert_allclose(latent, learnt, atol=1e-6)
    scratch = [latent for latent, _, _ in seen[3:]]
    assert all(np.abs(latent - learnt).max() > 0.01 for latent in scratch)
    assert np.abs(scratch[0] - scratch[1]).max() > 0.01
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    assert metric.value > 0.5
    assert metric.baselines["from_scratch"] > 0.4
    again = evaluate(model, digits, ["few_labels_finetuned_n20"])["few_labels_finetuned_n20"]
    assert again == metric
    assert len(seen) == 9  # the networks from scratch were kept


def test_draws_come_from_the_whole_split_also_for_a_model_of_few_labels(
    digits, own_cache, monkeypatch
):
    monkeypatch.setattr(few_labels, "DRAWS", 2)
    few = digits.only_labelled(20)
    assert few.only_labelled(10).drawn_from is digits
    backbone = make_autoencoder(digits).backbone
    model = PretrainFinetune(backbone, 10, value_range=(0, 1), seed=1)
    seen = []
    fit = PretrainFinetune.fit

    def watched(self, x, y, **arguments):
        seen.append(x)
        return fit(self, x, y, **arguments)

    monkeypatch.setattr(PretrainFinetune, "fit", watched)
    evaluate(model, few, ["few_labels_finetuned_n20"])
    np.testing.assert_array_equal(seen[0], few.train)
    assert not np.array_equal(seen[0], seen[1])
    with pytest.raises(InputError, match="has seen labels already"):
        evaluate(model, few, ["few_labels_frozen_n20"])


@pytest.mark.parametrize(
    ("count", "epochs"), [(10, 400), (64, 400), (100, 200), (1000, 25), (60000, 1)]
)
def test_training_lasts_400_steps_or_an_epoch(count, epochs):
    assert few_labels.epochs_for(count) == epochs


def test_protocols_that_do_not_fit_say_why(digits):
    model = make_autoencoder(digits)
    unlabelled = dataclasses.replace(digits, labels={})
    for name in ("few_labels_frozen_n20", "few_labels_finetuned_n20"):
        with pytest.raises(InputError, match="labels for train, validation and test"):
            evaluate(model, unlabelled, [name])
    with pytest.raises(InputError, match="multiple of the 10 classes"):
        evaluate(model, digits, ["few_labels_frozen_n15"])


def card_of(name, **metrics):
    card = zoo.card(name)
    measured = {
        metric: Metric(value, 0.02, "", 360, {"from_scratch": 0.5, "raw_svm": 0.7})
        for metric, value in metrics.items()
    }
    return dataclasses.replace(card, metrics=measured)


@pytest.mark.slow
def test_the_table_and_the_curve_come_from_the_cards(tmp_path):
    cards = [
        card_of("autoencoder_digits", few_labels_finetuned_n100=0.91, few_labels_frozen_n100=0.88),
        card_of("vae_digits", few_labels_finetuned_n10=0.6, few_labels_finetuned_n100=0.9),
    ]
    found = label_efficiency.curves(cards, "digits")
    header, rows = label_efficiency.table(found)
    assert header == ["features", "how", "10 labels", "100 labels"]
    assert ["vae_digits", "finetuned", "60.0 ± 2.0", "90.0 ± 2.0"] in rows
    assert ["autoencoder_digits", "frozen", "", "88.0 ± 2.0"] in rows
    assert ["network of vae_digits, from scratch", "baseline", "50.0", "50.0"] in rows
    assert len(rows) == len({tuple(row) for row in rows})
    path = label_efficiency.draw(found, tmp_path / "curve.png")
    with Image.open(path) as image:
        assert image.width > 1000
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    with pytest.raises(InputError, match="few_labels_finetuned_n100"):
        label_efficiency.curves(cards, "iris")


def test_the_command_says_what_is_missing_and_where_it_drew(tmp_path):
    import subprocess
    import sys

    def call(*arguments):
        command = [sys.executable, "-m", "kerasunsup", "label-efficiency", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    for arguments, message in (
        (["iris"], "Expected a data set on whose entries few labels were measured"),
        (["fashion_mnist", "-o", "curve.svg"], "-o must name a .png. Received: curve.svg"),
    ):
        done = call(*arguments)
        assert done.returncode == 2 and message in done.stderr
    done = call("fashion_mnist", "-o", "curve.png")
    assert done.returncode == 0 and "simclr_fashion_mnist" in done.stdout
    assert (tmp_path / "curve.png").stat().st_size > 20_000


@pytest.mark.parametrize("name", zoo.list_models(family="finetuned"))
def test_finetuned_entries_are_trained_as_the_protocol_says(name):
    recipe = zoo.recipe(name)
    assert {
        key: recipe.model.arguments[key] for key in few_labels.FINETUNING
    } == few_labels.FINETUNING
    assert recipe.compile["optimizer"]["learning_rate"] == few_labels.FINETUNING_RATE
    assert recipe.train.epochs == few_labels.epochs_for(recipe.data.labelled)
    assert f"few_labels_finetuned_n{recipe.data.labelled}" in recipe.evaluate.protocols
