"""Stacked autoencoders: which layer is trained when, on what, and what is refused."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasunsup import layers, networks
from kerasunsup.errors import InputError
from kerasunsup.models import StackedAutoencoder

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((40, *SHAPE), dtype="float32")


def stacked(backbone=None, decoder=None, **arguments):
    return StackedAutoencoder(
        backbone or networks.dense_backbone(SHAPE, [12, 10]),
        decoder or networks.dense_decoder(4, SHAPE, [10, 12]),
        4,
        **{"layer_epochs": 1, "value_range": (0, 1), "seed": 1, **arguments},
    )


def weights_of(level):
    return [np.array(weight) for part in level for layer in part for weight in layer.weights]


def same(one, other):
    return [np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True)]


def normalised_layers():
    """A chain whose layers have state of their own, which must not move while they are frozen."""
    parts = [keras.Input(SHAPE), keras.layers.Flatten()]
    for units in (12, 10):
        parts += [keras.layers.Dense(units), keras.layers.BatchNormalization(synchronized=True)]
        parts += [keras.layers.ReLU()]
    return keras.Sequential(parts)


@pytest.mark.parametrize("backbone", [None, normalised_layers])
def test_a_stage_trains_its_layers_and_leaves_all_others_bit_identical(backbone, x):
    model = stacked(backbone() if backbone else None)
    model.compile(keras.optimizers.AdamW(0.01), run_eagerly=True)
    assert len(model.levels) == 3 and model.stage_epochs(5) == (1, 1, 1, 2)
    states = [[weights_of(level) for level in model.levels]]

    def remember(epoch, logs):
        states.append([weights_of(level) for level in model.levels])

    remember_all = keras.callbacks.LambdaCallback(on_epoch_end=remember)
    model.fit(x, epochs=5, batch_size=16, verbose=0, callbacks=[remember_all])
    for epoch, (before, after) in enumerate(itertools.pairwise(states)):
        for number, levels in enumerate(zip(before, after, strict=True)):
            unchanged = same(*levels)
            assert all(unchanged) if epoch < 3 and epoch != number else not any(unchanged)
    assert model.steps_done == 5 * 3 and model.optimizer.iterations.numpy() == 2 * 3


@pytest.mark.parametrize("stop", [1, 3])
def test_stopped_saved_and_reloaded_at_any_stage_goes_on_as_if_never_stopped(stop, x, tmp_path):
    def fit(model, **arguments):
        model.fit(x, epochs=5, batch_size=16, verbose=0, **arguments)
        return model

    def make():
        keras.utils.set_random_seed(0)
        model = stacked(corruption=layers.MaskingCorruption(0.3, seed=2))
        model.compile("adam", run_eagerly=True)
        return model

    def end(epoch, logs):
        half.stop_training = epoch + 1 == stop

    whole, half = fit(make()), make()
    fit(half, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end)])
    half.save(tmp_path / "model.keras")
    loaded = fit(keras.saving.load_model(tmp_path / "model.keras"), initial_epoch=stop)
    for state in (lambda model: model.variables, lambda model: model.optimizer.variables):
        assert all(same(state(whole), state(loaded)))
    assert loaded.steps_done == whole.steps_done == 15


def test_hidden_layers_are_compared_with_what_the_layers_below_make(x):
    model = stacked()
    kernels = [layer.get_weights() for pair in model.levels for part in pair for layer in part]
    first, first_back, second, second_back, *_ = [weights for weights in kernels if weights]
    flat = x.reshape(len(x), -1)
    hidden = np.maximum(flat @ first[0] + first[1], 0)
    restored = hidden @ first_back[0] + first_back[1]
    expected = [((flat - restored) ** 2).mean(1)]
    code = np.maximum(hidden @ second[0] + second[1], 0)
    restored = np.maximum(code @ second_back[0] + second_back[1], 0)
    expected.append(((hidden - restored) ** 2).mean(1))
    for stage, wanted in enumerate(expected):
        model.stage = stage
        np.testing.assert_allclose(
            model.losses(tf.constant(x), training=True)["loss"], wanted, 1e-4
        )
    model.stage = 3
    np.testing.assert_allclose(
        model.losses(tf.constant(x), training=True)["loss"], model.score(x)["score"], 1e-4
    )


def test_the_input_of_every_layer_is_corrupted_and_hidden_values_are_not_clipped():
    class Seen(keras.layers.Dense):
        def call(self, x, **kwargs):
            seen.append(np.array(x))
            return super().call(x)

    seen: list[np.ndarray] = []
    images = np.full((40, *SHAPE), 0.5, "float32")
    shift = keras.initializers.Constant(7.0)
    backbone = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Flatten(), Seen(50, bias_initializer=shift), Seen(10)]
    )
    model = stacked(
        backbone,
        networks.dense_decoder(4, SHAPE, [10, 50]),
        corruption=layers.MaskingCorruption(0.3, seed=1),
    )
    for stage in (0, 1):
        seen.clear()
        model.stage = stage
        model.losses(tf.constant(images), training=True)
        assert (seen[-1] == 0).mean() == pytest.approx(0.3, abs=0.05)
        seen.clear()
        model.losses(tf.constant(images), training=False)
        assert not (seen[-1] == 0).any() and (stage == 0 or seen[-1].max() > 5)


def test_convolutions_are_undone_by_the_layers_of_equal_size(x):
    model = stacked(
        networks.conv_backbone(SHAPE, [2, 3]),
        networks.conv_decoder(4, SHAPE, [3, 2, 2]),
        loss="binary_crossentropy",
    )
    names = [[[layer.name for layer in part] for part in level] for level in model.levels]
    assert names == [
        [["convolution_0"], ["upsample_1", "output"]],
        [["convolution_1", "flatten"], ["upsample_0"]],
        [["latent"], ["project", "grid"]],
    ]
    model.compile("adam", run_eagerly=True)
    assert np.isfinite(model.fit(x, epochs=4, verbose=0).history["loss"]).all()


def test_finished_it_goes_on_end_to_end(x, tmp_path):
    model = stacked(density_components=2)
    model.compile("adam", run_eagerly=True)
    model.fit(x, epochs=3, verbose=0)
    assert len(model.trainable_weights) == 4
    model.finish(x, x)
    assert np.isfinite(model.generate(3)["samples"]).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = [weights_of(level) for level in loaded.levels]
    loaded.fit(x, verbose=0)
    assert not any(any(same(a, weights_of(b))) for a, b in zip(before, loaded.levels, strict=True))
    assert loaded.steps_done == model.steps_done + 2 == 8


def test_saved_before_training_it_loads(x, tmp_path):
    model = stacked()
    model.compile("adam")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.trainable_weights) == len(model.trainable_weights) == 12
    np.testing.assert_array_equal(loaded.encode(x)["latent"], model.encode(x)["latent"])


def residual_backbone():
    x = keras.Input(SHAPE)
    y = keras.layers.Flatten()(x)
    return keras.Model(x, keras.layers.Add()([y, keras.layers.Dense(64)(y)]))


def shared_layer():
    dense, x = keras.layers.Dense(64), keras.Input(SHAPE)
    return keras.Model(x, dense(dense(keras.layers.Flatten()(x))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"decoder": networks.dense_decoder(4, SHAPE, [12])},
            "10, 12, 64 values.*: 12, 64",
        ),
        ({"decoder": networks.dense_decoder(4, SHAPE, [12, 10])}, "10, 12, 64 values"),
        ({"backbone": residual_backbone()}, "`backbone` .* must be a chain.*layer 'add"),
        ({"backbone": shared_layer()}, "`backbone` .* must be a chain.*layer 'dense"),
        ({"layer_epochs": -1}, "`layer_epochs` must be at least 0. Received: -1"),
    ],
)
def test_networks_that_do_not_mirror_each_other_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        stacked(**arguments)


def test_too_few_epochs_for_the_stages_are_refused(x):
    model = stacked()
    model.compile("adam")
    with pytest.raises(InputError, match="at least 3: layer_epochs=1 for each of 3 layers.*: 2"):
        model.fit(x, epochs=2, verbose=0)
    assert stacked(layer_epochs=0).stage_epochs(2) == (2,)
