"""What is compiled with XLA where `compile` leaves it open."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicated import mirrored

from kerasunsup import VAE, Autoencoder, networks
from kerasunsup.models import resident
from kerasunsup.models.base import dtype_policy
from kerasunsup.models.xla import LEAST_STEPS

SHAPE = (8, 8, 1)
X = np.random.default_rng(0).uniform(size=(LEAST_STEPS, *SHAPE)).astype("float32")


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
    """Names of what was compiled, filled by `fit`."""
    names, function = [], tf.function

    def recorded(*arguments, jit_compile=None, **options):
        if jit_compile:
            names.append(jit_compile)
        return function(*arguments, jit_compile=jit_compile, **options)

    monkeypatch.setattr(resident.tf, "function", recorded)
    return lambda: len(names) == 2  # lowered once to see whether it can be, then compiled


def fitted(model, **options):
    model.compile(**options)
    model.fit(X, batch_size=1, verbose=0)
    return model


def test_dense_networks_are_compiled_and_learn_the_same(compiled):
    with_xla = fitted(dense())
    assert compiled()
    without = fitted(dense(), jit_compile=False)
    for p, q in zip(with_xla.get_weights(), without.get_weights(), strict=True):
        np.testing.assert_allclose(p, q, atol=2e-4)
    assert with_xla.steps_done == LEAST_STEPS


def test_short_epochs_are_not(compiled):
    model = dense()
    model.compile()
    model.fit(X, batch_size=2, epochs=2, verbose=0)
    assert not compiled()


def test_convolutions_are_not_on_a_cpu(compiled):
    fitted(convolutional())
    assert not compiled()


def test_sixteen_bits_are_not_on_a_cpu(compiled):
    with dtype_policy("mixed_bfloat16"):
        model = dense()
    fitted(model)
    assert not compiled()


def test_replicas_are_not(compiled):
    with mirrored(2).scope():
        model = dense()
        model.compile()
    model.fit(X, batch_size=1, steps_per_epoch=LEAST_STEPS, verbose=0)
    assert not compiled()


def test_what_xla_cannot_run_stays_a_graph(compiled):
    seen.clear()
    fitted(dense(WithPython))
    assert not compiled() and len(seen) == LEAST_STEPS
