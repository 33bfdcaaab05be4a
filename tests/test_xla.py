"""What is compiled with XLA where `compile` leaves it open."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicated import mirrored

from kerasunsup import GAN, VAE, Autoencoder, networks
from kerasunsup.models import xla
from kerasunsup.models.base import dtype_policy

SHAPE = (8, 8, 1)
X = np.random.default_rng(0).uniform(size=(xla.LEAST_STEPS, *SHAPE)).astype("float32")


def dense(family=VAE):
    keras.utils.set_random_seed(0)
    backbone = networks.dense_backbone(SHAPE, [8])
    return family(backbone, networks.dense_decoder(2, SHAPE, [8]), 2, value_range=(0, 1), seed=0)


def convolutional():
    backbone = networks.conv_backbone(SHAPE, [4])
    return Autoencoder(backbone, networks.conv_decoder(2, SHAPE, [4, 4]), 2, seed=0)


class WithPython(Autoencoder):
    def losses(self, x, training):
        terms = super().losses(x, training)
        tf.py_function(seen.append, [1], [])
        return terms


seen: list[int] = []


@pytest.fixture
def compiled(monkeypatch):
    """Whether each loop of the test was compiled."""
    chosen, choose = [], xla.compiled

    def recorded(model, steps, loop, arguments):
        function = choose(model, steps, loop, arguments)
        chosen.append(function is not loop)
        return function

    monkeypatch.setattr(xla, "compiled", recorded)
    return chosen


def fitted(model, **options):
    model.compile(**options)
    model.fit(X, batch_size=1, verbose=0)
    return model


def test_dense_networks_are_compiled_and_learn_the_same(compiled):
    with_xla = fitted(dense())
    without = fitted(dense(), jit_compile=False)
    assert compiled == [True, False]
    for p, q in zip(with_xla.get_weights(), without.get_weights(), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-5)
    assert with_xla.steps_done == xla.LEAST_STEPS


def test_models_that_train_on_labels_are_compiled_too(compiled):
    generator = networks.dense_generator(2, SHAPE, [4], labels=3)
    discriminator = networks.dense_discriminator(SHAPE, [4], labels=3)
    model = GAN(generator, discriminator, 2, labels=3, value_range=(0, 1))
    model.compile()
    model.fit(X, np.arange(len(X)) % 3, batch_size=1, verbose=0)
    assert compiled == [True]


def test_what_was_thawed_by_hand_is_trained(compiled):
    model = dense(Autoencoder)
    model.backbone.trainable = False
    model.compile()
    model.backbone.trainable = True
    before = model.backbone.get_weights()[0]
    model.fit(X, batch_size=1, verbose=0)
    assert compiled == [True] and np.abs(model.backbone.get_weights()[0] - before).max() > 1e-3


def test_longer_epochs_choose_anew(compiled):
    model = dense()
    model.compile(steps_per_execution=5)
    for steps in (5, xla.LEAST_STEPS, 5):
        model.fit(X, batch_size=1, steps_per_epoch=steps, verbose=0)
    assert compiled == [False, True]


def test_short_epochs_are_not(compiled):
    model = dense()
    model.compile()
    model.fit(X, batch_size=2, epochs=2, verbose=0)
    assert compiled == [False]


def test_convolutions_are_not_on_a_cpu(compiled):
    fitted(convolutional())
    assert compiled == [False]


def test_sixteen_bits_are_not_on_a_cpu(compiled):
    with dtype_policy("mixed_bfloat16"):
        model = dense()
    fitted(model)
    assert compiled == [False]


def test_replicas_are_not(compiled):
    with mirrored(2).scope():
        model = dense()
        model.compile()
    model.fit(X, batch_size=1, steps_per_epoch=xla.LEAST_STEPS, verbose=0)
    assert compiled == [False]


def test_op_determinism_keeps_the_graph(compiled, monkeypatch):
    monkeypatch.setattr(xla, "is_op_determinism_enabled", lambda: True)
    fitted(dense())
    assert compiled == [False]


def test_what_xla_cannot_run_stays_a_graph(compiled):
    seen.clear()
    fitted(dense(WithPython))
    assert compiled == [False] and len(seen) == xla.LEAST_STEPS
