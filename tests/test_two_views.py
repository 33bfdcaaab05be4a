"""SimCLR, Barlow Twins and their augmentations: losses against NumPy, views, collapse."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasunsup import networks
from kerasunsup.augmentation import BrightnessAndContrast, CropAndFlip, RandomResizedCrop
from kerasunsup.errors import InputError
from kerasunsup.losses import nt_xent, redundancy_reduction
from kerasunsup.models import BarlowTwins, SimCLR

SHAPE = (8, 8, 1)


def make(family, **arguments):
    backbone = networks.vgg_backbone(SHAPE, [[4], [6]], units=[8])
    views = [RandomResizedCrop((0.5, 1), seed=2), BrightnessAndContrast(0.4, seed=3)]
    return family(backbone, views, (8, 4), value_range=(0, 1), seed=1, **arguments)


@pytest.fixture(scope="module")
def x():
    """Images of one bright bar each, of random place, slope and width."""
    random = np.random.default_rng(0)
    place, slope, width = (random.random((60, 1, 1)) for _ in range(3))
    rows, columns = np.mgrid[-1:1:8j, -1:1:8j]
    distance = rows * (2 * slope - 1) + columns - (place - 0.5)
    return np.exp(-((distance / (0.2 + 0.5 * width)) ** 2))[..., None].astype("float32")


def test_nt_xent_is_equation_1_written_with_loops():
    random = np.random.default_rng(1)
    a, b = (random.normal(size=(5, 3)) for _ in range(2))
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
    views, t = np.concatenate([a, b]), 0.3
    expected = np.zeros(10)
    for i in range(10):
        j = (i + 5) % 10
        others = [np.exp(views[i] @ views[k] / t) for k in range(10) if k != i]
        expected[i] = -np.log(np.exp(views[i] @ views[j] / t) / sum(others))
    losses, hits = nt_xent(tf.constant(a, tf.float32), tf.constant(b, tf.float32), t)
    np.testing.assert_allclose(losses, (expected[:5] + expected[5:]) / 2, rtol=1e-5)
    assert set(np.asarray(hits)) <= {0.0, 0.5, 1.0}


def test_nt_xent_of_equal_views_is_a_count_of_the_others():
    same = tf.ones((4, 2)) / 2**0.5
    np.testing.assert_allclose(nt_xent(same, same, 0.5)[0], np.log(7), rtol=1e-6)
    perfect = tf.eye(4)
    loss, hits = nt_xent(perfect, perfect, 0.01)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_array_equal(hits, 1)


def test_barlow_twins_loss_is_that_of_the_standardised_embeddings(x):
    model = make(BarlowTwins, redundancy_weight=0.1)
    a, b = (np.asarray(z, "float64") for z in model.embeddings(tf.constant(x), training=False))
    standard = [(z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (a, b)]
    c = standard[0].T @ standard[1] / len(x)
    on = ((1 - np.diag(c)) ** 2).sum()
    off = (c**2).sum() - (np.diag(c) ** 2).sum()
    terms = model.losses(tf.constant(x), training=False)
    np.testing.assert_allclose(terms["invariance"][0], on, rtol=1e-3)
    np.testing.assert_allclose(terms["redundancy"][0], off, rtol=1e-3)
    np.testing.assert_allclose(terms["batch_loss"], on + 0.1 * off, rtol=1e-3)
    zero, none = redundancy_reduction(tf.eye(3))
    assert float(zero) == float(none) == 0


@pytest.mark.parametrize("family", [SimCLR, BarlowTwins])
def test_views_differ_while_training_and_are_fixed_while_evaluating(family, x):
    model = make(family)
    x = tf.constant(x)
    first, second = (model.view(x, number, training=False) for number in (0, 1))
    assert np.abs(first - second).max() > 0.05
    np.testing.assert_array_equal(first, model.view(x, 0, training=False))
    assert np.abs(model.view(x, 0, training=True) - model.view(x, 0, training=True)).max() > 0.05


@pytest.mark.parametrize("family", [SimCLR, BarlowTwins])
def test_training_aligns_views_and_goes_on_after_saving(family, x, tmp_path):
    def run(epochs):
        keras.utils.set_random_seed(0)
        model = make(family)
        model.compile(keras.optimizers.Adam(0.003))
        return model, model.fit(x, epochs=epochs, batch_size=20, verbose=0).history

    whole, history = run(6)
    assert history["loss"][-1] < history["loss"][0]
    assert history["spread"][-1] > 0.3
    half, _ = run(3)
    half.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(x, epochs=6, initial_epoch=3, batch_size=20, verbose=0)
    for a, b in zip(whole.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_spread_is_near_one_for_random_directions_and_zero_for_a_collapse(x):
    model = make(SimCLR)
    random = np.random.default_rng(0).normal(size=(2000, 16)).astype("float32")
    assert float(model.spread(tf.constant(random))) == pytest.approx(1, abs=0.01)
    assert float(model.spread(tf.ones((50, 16)))) == pytest.approx(0, abs=1e-3)


def test_a_collapse_is_told_in_words(x, capsys):
    model = make(SimCLR)
    model.projector.get_layer("embedding").kernel.assign(np.full((8, 4), 0.1))  # one direction
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(x, epochs=2, batch_size=20, verbose=2)
    assert model.health == tuple(model.findings({"spread": 0.0}))
    assert capsys.readouterr().out.count("Collapse: nearly all") == 1
    assert model.findings({"spread": 0.5}) == []


def test_the_whole_image_is_left_as_it_is_and_a_part_is_scaled_linearly():
    ramp = np.tile(np.arange(8, dtype="float32")[None, None, :, None], (40, 8, 1, 1))
    whole = RandomResizedCrop((1, 1), (1, 1), flip=False, seed=0)
    np.testing.assert_allclose(whole(ramp, training=True), ramp, atol=1e-5)
    flipped = np.asarray(RandomResizedCrop((1, 1), (1, 1), seed=0)(ramp, training=True))
    direction = np.sign(flipped[:, 0, -1, 0] - flipped[:, 0, 0, 0])
    assert 0 < (direction < 0).mean() < 1
    half = np.asarray(
        RandomResizedCrop((0.25, 0.25), (1, 1), flip=False, seed=0)(ramp, training=True)
    )
    inner = np.diff(half[:, 0, 1:-1, 0], axis=1)
    middle = (half[:, 0, 1:-1, 0] > 0.01) & (half[:, 0, 1:-1, 0] < 6.99)
    np.testing.assert_allclose(inner[middle[:, 1:] & middle[:, :-1]], 0.5, atol=1e-3)
    starts = half[:, 0, 0, 0]
    assert starts.min() < 1 and starts.max() > 3


def test_brightness_and_contrast_keep_the_range_and_change_mean_and_spread(x):
    same = np.repeat(x[:1], 200, axis=0)
    changed = np.asarray(BrightnessAndContrast(0.5, seed=0)(same, training=True))
    assert changed.min() >= 0 and changed.max() <= 1
    assert changed.mean((1, 2, 3)).std() > 0.05
    assert changed.std((1, 2, 3)).std() > 0.03


@pytest.mark.parametrize(
    "layer",
    [
        CropAndFlip(1, seed=0),
        RandomResizedCrop((0.2, 1.0), seed=0),
        BrightnessAndContrast(0.3, seed=0),
    ],
)
def test_augmentations_are_for_training_and_survive_their_config(layer, x):
    np.testing.assert_array_equal(layer(x, training=False), x)
    again = type(layer).from_config(layer.get_config())
    first = np.asarray(layer.augment(tf.constant(x), training=False))
    np.testing.assert_array_equal(first, again.augment(tf.constant(x), training=False))
    shifted = np.asarray(layer.augment(tf.constant(x[:20]), training=False))
    np.testing.assert_allclose(shifted, first[:20], atol=1e-6)  # a row's draw is its own


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(SimCLR, temperature=0), "`temperature` must be positive"),
        (lambda: make(BarlowTwins, redundancy_weight=-1), "`redundancy_weight`"),
        (lambda: SimCLR(networks.vgg_backbone(SHAPE, [[4]]), []), "`augmentation` must be a list"),
        (
            lambda: SimCLR(networks.vgg_backbone(SHAPE, [[4]]), [CropAndFlip(1)], []),
            "`projection` must name",
        ),
        (
            lambda: SimCLR(keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(4, 3)]),
                           [CropAndFlip(1)]),
            "end it with pooling or Flatten",
        ),
        (lambda: RandomResizedCrop((0, 1)), "`area`"),
        (lambda: RandomResizedCrop(ratio=(2, 1)), "`ratio`"),
        (lambda: BrightnessAndContrast(0), "`strength`"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_batch_of_one_example_is_refused(x):
    model = make(SimCLR)
    model.compile()
    with pytest.raises(InputError, match="at least 2 examples"):
        model.fit(x[:1], verbose=0)
