"""Health of GANs in words, on models that are broken on purpose."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from kerasunsup import data as datasets
from kerasunsup import networks
from kerasunsup.health import Health, examine
from kerasunsup.models import GAN

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def make(generator=None, **arguments):
    keras.utils.set_random_seed(0)
    return GAN(
        generator or networks.dense_generator(8, SHAPE, [64]),
        networks.dense_discriminator(SHAPE, [128, 64]),
        8,
        value_range=(0, 1),
        seed=0,
        **arguments,
    )


def trained(model, digits, generator_rate, discriminator_rate, epochs):
    health = Health(digits)
    model.compile(
        keras.optimizers.Adam(generator_rate, 0.5), keras.optimizers.Adam(discriminator_rate, 0.5)
    )
    model.fit(digits.train, batch_size=64, epochs=epochs, verbose=0, callbacks=[health])
    return health


def test_a_healthy_gan_has_no_findings(digits, capsys):
    model = make(ema=0.9)
    health = trained(model, digits, 2e-3, 5e-4, epochs=20)
    assert health.findings == []
    assert examine(model, digits, "test")[0] == []


def test_a_discriminator_that_knows_everything_is_named(digits, capsys):
    health = trained(make(loss="minimax"), digits, 0.0, 5e-3, epochs=30)
    assert any("discriminator is saturated" in finding for finding in health.findings)
    printed = capsys.readouterr().out
    assert printed.count("discriminator is saturated") == 1  # said once, not in every epoch


def test_a_generator_that_draws_one_image_is_named(digits):
    model = make()
    model.generator.get_layer("output").kernel.assign(np.zeros((64, 64)))
    findings, samples = examine(model, digits, "validation")
    assert np.ptp(samples, axis=0).max() == 0
    assert any("collapsed" in finding for finding in findings)


def test_a_generator_that_does_not_learn_is_named(digits):
    decoder = networks.dense_decoder(8, SHAPE, [64], output_activation="tanh")  # no statistics
    health = trained(make(decoder), digits, 0.0, 1e-4, epochs=2)
    assert any("stalled" in finding for finding in health.findings)


def test_a_critic_without_a_penalty_gets_too_steep(digits):
    health = trained(make(loss="wasserstein"), digits, 0.0, 5e-3, epochs=30)
    assert any("critic is too steep" in finding for finding in health.findings)
