"""Losses against closed forms, independent NumPy, and numeric derivatives."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from kerasunsup import losses


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_standard_normal_kl_is_the_integral(rng):
    mean, log_variance = 0.7, -0.4
    z = np.linspace(-12, 12, 200_001)
    q = scipy.stats.norm.pdf(z, mean, np.exp(0.5 * log_variance))
    log_ratio = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * log_variance)) - (
        scipy.stats.norm.logpdf(z)
    )
    integral = np.trapezoid(q * log_ratio, z)
    assert np.isclose(losses.standard_normal_kl(mean, log_variance), integral, atol=1e-6)


def test_bernoulli_likelihood_matches_scipy_and_stays_finite(rng):
    logits = rng.normal(size=(5, 7)).astype("float32") * 3
    x = rng.integers(0, 2, size=(5, 7)).astype("float32")
    expected = -scipy.stats.bernoulli.logpmf(x, scipy.special.expit(logits))
    got = losses.bernoulli_negative_log_likelihood(x, logits)
    assert np.allclose(got, expected, atol=1e-5)
    extreme = losses.bernoulli_negative_log_likelihood(
        np.float32([0, 1, 0, 1]), np.float32([1e4, 1e4, -1e4, -1e4])
    )
    assert np.allclose(extreme, [1e4, 0, 0, 1e4])


def test_gaussian_likelihood_matches_scipy(rng):
    x, mean = rng.normal(size=(2, 4, 3)).astype("float32")
    got = losses.gaussian_negative_log_likelihood(x, mean, np.float32(0.3))
    assert np.allclose(got, -scipy.stats.norm.logpdf(x, mean, np.exp(0.3)), atol=1e-5)


def test_log_normal_matches_scipy(rng):
    z, mean, log_variance = rng.normal(size=(3, 6, 4)).astype("float32")
    expected = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * log_variance)).sum(-1)
    assert np.allclose(losses.log_normal(z, mean, log_variance), expected, atol=1e-4)


def test_log_mean_exp_matches_numpy(rng):
    weights = rng.normal(size=(3, 8)).astype("float32") * 50
    expected = scipy.special.logsumexp(weights, axis=1) - np.log(8)
    assert np.allclose(losses.log_mean_exp(weights), expected, rtol=1e-5)


def test_bernoulli_kl_is_zero_at_the_target_only():
    rates = np.float32([0.05, 0.2, 0.9])
    got = np.asarray(losses.bernoulli_kl(0.05, rates))
    expected = 0.05 * np.log(0.05 / rates) + 0.95 * np.log(0.95 / (1 - rates))
    assert np.allclose(got, expected, atol=1e-5)
    assert got[0] == pytest.approx(0, abs=1e-6) and (got[1:] > 0).all()


def test_squared_error_averages_over_features(rng):
    x, y = rng.random((2, 3, 4, 4, 1)).astype("float32")
    assert np.allclose(losses.squared_error(x, y), ((x - y) ** 2).mean((1, 2, 3)), atol=1e-6)


def test_contractive_penalty_is_the_numeric_jacobian(rng):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)]
    )
    x = rng.normal(size=(4, 6)).astype("float32")
    step, numeric = 1e-2, np.zeros((4, 3, 6))
    for j in range(6):
        shift = np.zeros(6, "float32")
        shift[j] = step
        numeric[:, :, j] = (encoder(x + shift) - encoder(x - shift)) / (2 * step)
    got = losses.squared_jacobian_norm(encoder, tf.constant(x))
    assert np.allclose(got, (numeric**2).sum((1, 2)), rtol=1e-3)


def test_adversarial_losses_match_numpy():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=50) * 3, rng.normal(size=50) * 3
    given = real.astype("float32"), fake.astype("float32")

    def log_sigmoid(v):
        return -np.log1p(np.exp(-v))

    wanted = {
        losses.logistic_discriminator: -log_sigmoid(real) - log_sigmoid(-fake),
        losses.least_squares_discriminator: ((real - 1) ** 2 + fake**2) / 2,
        losses.hinge_discriminator: np.maximum(0, 1 - real) + np.maximum(0, 1 + fake),
        losses.wasserstein_discriminator: fake - real,
    }
    for function, value in wanted.items():
        np.testing.assert_allclose(function(*given), value, rtol=1e-4, atol=1e-5)
    wanted = {
        losses.minimax_generator: log_sigmoid(-fake),
        losses.non_saturating_generator: -log_sigmoid(fake),
        losses.least_squares_generator: (fake - 1) ** 2 / 2,
        losses.negative_logit_generator: -fake,
    }
    for function, value in wanted.items():
        np.testing.assert_allclose(function(given[1]), value, rtol=1e-4, atol=1e-5)
    smoothed = losses.least_squares_discriminator(*given, smoothing=0.1)
    np.testing.assert_allclose(smoothed, ((real - 0.9) ** 2 + fake**2) / 2, rtol=1e-4)
    for function in (losses.logistic_discriminator, losses.non_saturating_generator):
        extreme = [np.float32([1e4, -1e4])] * (2 if "discriminator" in function.__name__ else 1)
        assert np.isfinite(function(*extreme)).all()
