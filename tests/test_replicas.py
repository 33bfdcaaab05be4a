"""Law 1: N replicas train the weights of one, on the same global batches."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from marks import slow_but
from replicated import CASES, SHAPE, assert_equal, examples, mirrored, train

from kerasunsup import networks
from kerasunsup.errors import InputError
from kerasunsup.models import Autoencoder
from kerasunsup.models.base import dtype_policy
from kerasunsup.models.xla import LEAST_STEPS
from kerasunsup.replicas import Noise


@pytest.fixture(scope="module")
def two_replicas():
    return mirrored(2)


def compare(strategy, case, x=None, **arguments):
    x = examples(case) if x is None else x
    one = train(CASES[case], x, **arguments)
    with strategy.scope():
        several = train(CASES[case], x, **arguments)
    assert_equal(one, several)
    return one[0], several[0]


FAST = ("autoencoder", "finetuned")


@pytest.mark.parametrize("case", slow_but(FAST, CASES))
def test_two_replicas_train_the_weights_of_one(case, two_replicas):
    compare(two_replicas, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_three_replicas_too(case):
    compare(mirrored(3), case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["vae", "vq-vae"])
def test_several_steps_in_a_call(case, two_replicas):
    one, two = compare(two_replicas, case, steps_per_execution=3)
    assert one.steps_done == two.steps_done == 2 * 4


STREAMS = [("vae", 3), ("classifier", 1), ("vae", 1), ("wgan-gp", 3)]


@pytest.mark.parametrize(("case", "steps"), slow_but(STREAMS[:1], STREAMS))
def test_streams_are_divided_by_examples(case, steps, two_replicas):
    one, two = compare(two_replicas, case, stream=True, steps_per_execution=steps)
    assert one.steps_done == two.steps_done == 2 * 4


@pytest.mark.slow
def test_a_stream_of_unknown_length(two_replicas):
    def train_on(x):
        keras.utils.set_random_seed(0)
        model = CASES["vae"]()
        model.compile(keras.optimizers.SGD(0.01), steps_per_execution=2)
        batches = tf.data.Dataset.from_tensor_slices(x).batch(12).filter(lambda _: True)
        with pytest.warns(UserWarning, match="ran out of data"):  # Keras, on one replica too
            history = model.fit(batches, epochs=2, verbose=0)
        return model, history.history

    one = train_on(examples("vae"))
    with two_replicas.scope():
        two = train_on(examples("vae"))
    assert_equal(one, two)
    assert one[0].steps_done == two[0].steps_done == 8


def test_clipping_sees_the_global_gradient(two_replicas):
    one, _ = compare(two_replicas, "vae", clip_norm=0.5)
    unclipped, _ = train(CASES["vae"], examples("vae"))
    assert np.abs(unclipped.get_weights()[0] - one.get_weights()[0]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("case", ["autoencoder", "vae"])
def test_faster_kernels_of_one_replica_round_and_no_more(case, two_replicas):
    """A hundred steps with Adam: one replica runs XLA and the fused kernel, two do not."""
    x = np.random.default_rng(0).random((4 * LEAST_STEPS, *SHAPE), dtype="float32")
    weights = []
    for strategy in (None, two_replicas):
        with strategy.scope() if strategy else contextlib.nullcontext():
            keras.utils.set_random_seed(0)
            model = CASES[case]()
            model.compile(keras.optimizers.Adam(1e-3))
        model.fit(x, batch_size=4, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_every_batch_too_small_to_be_divided(two_replicas):
    compare(two_replicas, "classifier", examples("classifier")[:5], batch_size=1)


@pytest.mark.parametrize("steps", slow_but([3], [1, 3]))
def test_evaluate_and_predict_see_each_example_once_and_in_order(steps, two_replicas):
    x = examples("autoencoder")  # the last part of a batch is empty
    stream = tf.data.Dataset.from_tensor_slices(x).batch(12)
    one, two = compare(two_replicas, "autoencoder", steps_per_execution=steps)
    for given in ({"x": x, "batch_size": 12}, {"x": stream}):
        predicted = two.predict(**given, verbose=0)
        assert predicted.shape == x.shape
        np.testing.assert_allclose(predicted, one.predict(**given, verbose=0), atol=1e-6)
        loss, *_ = two.evaluate(**given, verbose=0)
        assert loss == pytest.approx(one.evaluate(**given, verbose=0)[0], rel=1e-5)
    assert loss == pytest.approx(np.square(x - predicted).mean(), rel=1e-5)


@pytest.mark.parametrize("replicas", slow_but([1], [1, 2]))
def test_functions_follow_the_steps_of_a_call(replicas, two_replicas):
    """`fit` chooses several steps for 37 batches, one for two."""
    x = examples("autoencoder")
    with two_replicas.scope() if replicas == 2 else contextlib.nullcontext():
        keras.utils.set_random_seed(0)
        model = CASES["autoencoder"]()
        model.compile("sgd", steps_per_execution=None)
    unknown = tf.data.Dataset.from_tensor_slices(x).batch(12).filter(lambda _: True)
    known = tf.data.Dataset.from_tensor_slices(x).batch(12)
    for given in ({"x": x, "batch_size": 1}, {"x": x, "batch_size": 20}, {"x": known}):
        model.fit(**given, verbose=0)
        predicted = model.predict(x, batch_size=5, verbose=0)
        assert predicted.shape == x.shape
        loss = model.evaluate(x, batch_size=5, verbose=0)[0]
        assert loss == pytest.approx(np.square(x - predicted).mean(), rel=1e-5)
    model.requested_steps_per_execution, done = 4, model.steps_done
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(unknown, verbose=0)
    model.fit(known, verbose=0)
    assert model.steps_done == done + 8 == model.optimizer.iterations.numpy()


class Recorded(keras.layers.Dropout):
    """Keeps the masks that it has drawn."""

    def build(self, input_shape):
        self.drawn = self.add_weight(
            shape=(3, *input_shape[1:]), initializer="zeros", trainable=False
        )

    def call(self, x, training=False):
        if training:
            rows = super().call(tf.ones_like(x), training=True)
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            self.drawn.assign(
                tf.tensor_scatter_nd_update(tf.zeros_like(self.drawn), [[replica]], rows[:1])
            )
        return super().call(x, training=training)


def masks(strategy, epochs):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        x = keras.Input(SHAPE)
        dropout = Recorded(0.5, seed=3)
        backbone = keras.Model(x, dropout(keras.layers.Flatten()(x)))
        model = Autoencoder(backbone, networks.dense_decoder(4, SHAPE, []), 4, seed=1)
        model.compile("sgd")
    data = examples("vae")[:12]
    for _ in range(epochs):
        model.fit(data, batch_size=12, verbose=0)
    return [value.numpy()[i] for i, value in enumerate(dropout.drawn.value.values)]


def test_dropout_differs_between_replicas_and_is_the_same_next_time():
    three = mirrored(3)
    first, again, later = masks(three, 1), masks(three, 1), masks(three, 2)
    for i, mask in enumerate(first):
        assert 0.2 < (mask > 0).mean() < 0.8
        np.testing.assert_array_equal(mask, again[i])
        for other in (*first[:i], later[i]):
            assert (mask != other).any()


# Refusals


def build(backbone, optimizer="sgd", **arguments):
    model = Autoencoder(backbone, networks.dense_decoder(4, SHAPE, []), 4, seed=1)
    model.compile(optimizer, **arguments)
    return model


def test_what_cannot_be_exact_is_refused_before_training(two_replicas):
    x = examples("vae")

    def dense():
        return networks.dense_backbone(SHAPE, [8])

    def local():
        normalization = keras.layers.BatchNormalization()
        return keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), normalization])

    with two_replicas.scope():
        averaged = keras.optimizers.SGD(use_ema=True, ema_overwrite_frequency=2)
        refused = {
            "leave `jit_compile` out": build(dense(), jit_compile=True),
            "synchronized=True.*'batch_norm": build(local()),
            "ema_overwrite_frequency": build(dense(), averaged),
        }
        sound = build(dense())
    for message, model in refused.items():
        before = model.get_weights()
        with pytest.raises(InputError, match=message):
            model.fit(x, verbose=0)
        for p, q in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(p, q)
    for call in (sound.train_on_batch, sound.test_on_batch, sound.predict_on_batch):
        with pytest.raises(InputError, match="use fit, evaluate or predict"):
            call(x)
    build(local()).fit(x, verbose=0)  # on one replica all of it works
    build(dense(), jit_compile=True).fit(x, verbose=0)


# Precision


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("case", ["vae", "dense gan", "classifier"])
def test_mixed_precision_differs_by_rounding_alone(case, policy, two_replicas):
    x = examples(case)
    with dtype_policy(policy):
        one, _ = train(CASES[case], x)
        with two_replicas.scope():
            two, _ = train(CASES[case], x)
    assert one.dtype_policy.name == policy
    for p, q in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(p, q, atol=2e-3)
    for model in (one, two):
        for name in model.optimizer_variables:
            scaled = isinstance(getattr(model, name), keras.optimizers.LossScaleOptimizer)
            assert scaled == (policy == "mixed_float16")


def test_an_overflow_on_one_replica_skips_the_step_on_all(two_replicas):
    x = examples("vae")[:24]
    with dtype_policy("mixed_float16"), two_replicas.scope():
        keras.utils.set_random_seed(0)
        model = CASES["vae"]()
        scaled = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01), initial_scale=2.0**40
        )
        model.compile(scaled)
    before = model.get_weights()
    model.fit(x, batch_size=12, epochs=1, verbose=0)
    assert model.optimizer.dynamic_scale.numpy() < 2.0**40
    assert model.steps_done == 2 and model.optimizer.iterations.numpy() == 0
    for p, q in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(p, q)


# Saving and noise


def test_verbs_and_saving_work_after_replicated_training(two_replicas, tmp_path):
    x = np.random.default_rng(0).random((24, *SHAPE), dtype="float32")
    with two_replicas.scope():
        model, _ = train(CASES["vae"], x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.encode(x)["latent"], model.encode(x)["latent"], rtol=1e-5, atol=1e-6
    )
    assert model.steps_done == loaded.steps_done == 4


def test_noise_is_uniform_normal_and_by_position():
    noise = Noise(7)
    draws = np.asarray(noise.uniform(2000, (50,)))
    assert 0 < draws.min() and draws.max() < 1
    assert abs(draws.mean() - 0.5) < 5e-3 and abs(draws.var() - 1 / 12) < 1e-3
    normal = np.asarray(noise.normal(2000, (50,)))
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01
    fixed = [np.asarray(Noise(7).normal(n, (3,), training=False)) for n in (10, 4)]
    np.testing.assert_allclose(fixed[0][:4], fixed[1], rtol=1e-6)
    assert np.abs(np.asarray(noise.normal(5)) - np.asarray(noise.normal(5))).max() > 0
