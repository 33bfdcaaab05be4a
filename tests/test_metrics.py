"""Metrics against brute force, closed forms and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from kerasunsup.errors import InputError, KerasunsupError
from kerasunsup.metrics import reconstruction
from kerasunsup.metrics.anomaly import auroc, knn_distance
from kerasunsup.metrics.denoising import censored_normal_moments, linear_denoiser, noisy
from kerasunsup.metrics.likelihood import (
    binarize_static,
    check_above_floor,
    gaussian_nll,
    log_mean_exp,
    marginal_nll,
    pixel_entropy,
)
from kerasunsup.metrics.representation import (
    PROBE_C,
    Labelled,
    active_units,
    knn,
    linear_probe,
    merge,
    standardization,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Reconstruction


def test_errors_and_psnr(rng):
    x, y = rng.random((2, 7, 4, 4, 1), dtype="float32")
    brute = [sum((x[i].flat[j] - y[i].flat[j]) ** 2 for j in range(16)) / 16 for i in range(7)]
    errors = reconstruction.squared_errors(x, y)
    np.testing.assert_allclose(errors, brute, rtol=1e-5)
    assert reconstruction.mse(x, y) == pytest.approx(np.mean(brute), rel=1e-5)
    assert reconstruction.psnr(errors) == pytest.approx(-10 * np.log10(np.mean(brute)), abs=1e-4)
    per_image = np.mean([-10 * np.log10(e) for e in brute])
    assert reconstruction.psnr_per_image(errors) == pytest.approx(per_image, abs=1e-4)
    assert reconstruction.psnr_per_image(errors) > reconstruction.psnr(errors)


def test_psnr_is_free_of_units(rng):
    x, y = rng.random((2, 5, 9))
    scaled = reconstruction.squared_errors(255 * x, 255 * y)
    one = reconstruction.psnr(reconstruction.squared_errors(x, y))
    assert reconstruction.psnr(scaled, peak=255) == pytest.approx(one, abs=1e-4)


def test_perfect_image_is_finite():
    assert reconstruction.psnr_per_image(np.zeros(3)) == pytest.approx(100)


# Likelihood


def test_binarization_is_the_published_one(rng):
    validation, test = rng.random((2300, 3, 3, 1)), rng.random((1700, 3, 3, 1))
    np.random.seed(777)  # what the VampPrior and Exemplar-VAE code does
    wanted_validation, wanted_test = np.random.binomial(1, validation), np.random.binomial(1, test)
    got_validation, got_test = binarize_static(validation, test)
    np.testing.assert_array_equal(got_validation, wanted_validation)
    np.testing.assert_array_equal(got_test, wanted_test)
    assert got_test.dtype == np.float32


def test_binarization_keeps_binary_examples(rng):
    x = rng.integers(0, 2, (20, 5)).astype("float32")
    np.testing.assert_array_equal(binarize_static(x, x[::-1])[1], x[::-1])


def test_pixel_entropy(rng):
    x = rng.random((6, 2, 3, 1))
    x[0, 0, 0], x[1, 1, 1] = 0, 1
    wanted = scipy.stats.bernoulli(x).entropy().sum(axis=(1, 2, 3))
    np.testing.assert_allclose(pixel_entropy(x), wanted)
    assert pixel_entropy(np.array([[0.0, 1.0]]))[0] == 0


def test_floor(rng):
    grey = rng.random((2000, 8))
    binary = binarize_static(grey, grey)[1]
    oracle = -scipy.stats.bernoulli(grey).logpmf(binary).sum(axis=1)
    check_above_floor(oracle, grey)
    check_above_floor(marginal_nll(grey, binary), grey)
    with pytest.raises(KerasunsupError, match=r"impossible.*Received: "):
        check_above_floor(oracle - 0.3, grey)
    with pytest.raises(KerasunsupError):
        check_above_floor(np.full(2000, np.nan), grey)


def test_marginal_nll(rng):
    train, test = rng.random((50, 2, 2, 1)), rng.integers(0, 2, (5, 2, 2, 1)).astype("float32")
    train[:, 0, 0], test[:, 0, 0] = 0, 1  # never seen, yet not impossible
    p = (train.sum(axis=0) + 0.5) / 51
    wanted = -scipy.stats.bernoulli(p).logpmf(test).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(marginal_nll(train, test), wanted, rtol=1e-6)


def test_gaussian_nll(rng):
    train, test = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 3)), rng.normal(size=(6, 3))
    exact = scipy.stats.multivariate_normal(train.mean(axis=0), np.cov(train.T, bias=True))
    np.testing.assert_allclose(gaussian_nll(train, test), -exact.logpdf(test))
    with pytest.raises(np.linalg.LinAlgError):
        gaussian_nll(np.zeros((4, 2)), test[:, :2])


def test_log_mean_exp(rng):
    small = rng.normal(size=(4, 9))
    np.testing.assert_allclose(log_mean_exp(small), np.log(np.exp(small).mean(axis=1)))
    np.testing.assert_allclose(log_mean_exp(small - 1e5), log_mean_exp(small) - 1e5)
    np.testing.assert_allclose(log_mean_exp(small + 1e5, axis=0), log_mean_exp(small.T) + 1e5)
    assert log_mean_exp(np.array([-np.inf, 0.0])) == pytest.approx(-np.log(2))


# Representations


def blobs(rng, count, labels=3):
    y = np.arange(count) % labels
    return Labelled((4 * np.eye(labels)[y] + rng.normal(size=(count, labels))).astype("float32"), y)


def test_linear_probe_is_the_stated_protocol(rng):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score
    from sklearn.preprocessing import StandardScaler

    splits = [Labelled(s.x * [1, 100, 0.01], s.y) for s in (blobs(rng, n) for n in (90, 60, 300))]
    train, validation, test = splits
    scaler = StandardScaler().fit(train.x)
    x = [scaler.transform(split.x).astype("float32") for split in splits]
    options = {"tol": 1e-3, "max_iter": 300}
    chosen = max(
        PROBE_C,
        key=lambda c: (
            LogisticRegression(C=c, **options).fit(x[0], train.y).score(x[1], validation.y)
        ),
    )
    both = np.concatenate(x[:2]), np.concatenate([train.y, validation.y])
    final = LogisticRegression(C=chosen, **options).fit(*both)
    probe = linear_probe(*splits)
    assert probe.c == chosen
    assert probe.accuracy == accuracy_score(test.y, final.predict(x[2])) > 0.9


def test_linear_probe_on_shuffled_labels_is_chance(rng):
    train, validation, test = (blobs(rng, n) for n in (300, 300, 3000))
    shuffled = (Labelled(s.x, rng.permutation(s.y)) for s in (train, validation, test))
    assert linear_probe(*shuffled).accuracy == pytest.approx(1 / 3, abs=0.06)


def test_knn(rng):
    train, test = blobs(rng, 60), blobs(rng, 40)
    hits = 0
    for x, y in zip(*test, strict=True):
        nearest = np.argsort(((train.x - x) ** 2).sum(axis=1))[:5]
        hits += np.bincount(train.y[nearest]).argmax() == y
    assert knn(train, test, k=5) == hits / 40
    assert knn(Labelled(train.x[:3], train.y[:3]), test, k=5) > 0


def test_merge(rng):
    a, b = blobs(rng, 6), blobs(rng, 9)
    assert merge(a, b).x.shape == (15, 3) and (merge(a, b).y[6:] == b.y).all()


def test_active_units():
    wave = np.tile([-1.0, 1.0], 50)
    means = np.stack([wave, 0.2 * wave, 0.101 * wave, 0.099 * wave, 5 + 0 * wave], axis=1)
    assert active_units(means) == 3
    assert active_units(means, threshold=0.5) == 1


def test_standardization_of_constant_features(rng):
    x = np.stack([np.full(9, 3e5), rng.normal(size=9)], axis=1).astype("float32")
    mean, scale = standardization(x)
    assert scale[0] == 1 and mean[0] == np.float32(3e5)
    assert scale[1] == pytest.approx(x[:, 1].std())


# Anomalies


def test_auroc_counts_pairs(rng):
    scores, strange = rng.integers(0, 6, 80), rng.random(80) < 0.3
    pairs = [
        1.0 if a > n else 0.5 if a == n else 0.0 for a in scores[strange] for n in scores[~strange]
    ]
    assert auroc(scores, strange) == pytest.approx(np.mean(pairs))
    assert auroc(-scores, strange) == pytest.approx(1 - np.mean(pairs))


def test_auroc_of_shuffled_labels_is_chance(rng):
    scores = rng.normal(size=4000)
    strange = scores > 0.5
    assert auroc(scores, strange) == 1
    shuffled = [auroc(scores, rng.permutation(strange)) for _ in range(20)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("strange", [np.zeros(5), np.ones(5)])
def test_auroc_needs_both_kinds(strange):
    with pytest.raises(InputError, match="Received: "):
        auroc(np.arange(5), strange)


def test_knn_distance(rng):
    train, x = rng.normal(size=(30, 4)), rng.normal(size=(6, 4))
    distances = np.sqrt(((x[:, None] - train[None]) ** 2).sum(axis=-1))
    np.testing.assert_allclose(knn_distance(train, x), np.sort(distances)[:, :5].mean(axis=1))


# Denoising


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_censored_normal_moments(x, sigma):
    def moment(power):
        inside = scipy.integrate.quad(
            lambda t: t**power * scipy.stats.norm(x, sigma).pdf(t), -0.5, 1.5, epsabs=1e-12
        )[0]
        normal = scipy.stats.norm(x, sigma)
        return inside + (-0.5) ** power * normal.cdf(-0.5) + 1.5**power * normal.sf(1.5)

    mean, variance = censored_normal_moments(np.array([x]), sigma, (-0.5, 1.5))
    assert mean[0] == pytest.approx(moment(1), abs=1e-9)
    assert variance[0] == pytest.approx(moment(2) - moment(1) ** 2, abs=1e-9)


def test_linear_denoiser_is_least_squares_over_all_noise(rng):
    x = np.clip(rng.normal(0.5, 0.3, (40, 2)) @ rng.random((2, 3)), 0, 1).astype("float32")
    weights, bias = linear_denoiser(x, 0.4, (0, 1))
    clean = np.tile(x, (5000, 1))
    seen = noisy(clean, 0.4, (0, 1), rng)
    design = np.concatenate([seen, np.ones((len(seen), 1), "float32")], axis=1)
    solution = np.linalg.lstsq(design, clean, rcond=None)[0]
    np.testing.assert_allclose(weights, solution[:-1], atol=0.02)
    np.testing.assert_allclose(bias, solution[-1], atol=0.02)
    best = np.mean((design @ solution - clean) ** 2)
    assert np.mean((seen @ weights + bias - clean) ** 2) == pytest.approx(best, rel=1e-3)


def test_noise_does_not_depend_on_batches():
    x = np.full((11, 3), 0.5, "float32")
    whole = noisy(x, 0.5, (0, 1), np.random.default_rng(4))
    random = np.random.default_rng(4)
    parts = [noisy(part, 0.5, (0, 1), random) for part in (x[:5], x[5:6], x[6:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.min() >= 0 and whole.max() <= 1


# Real data


@pytest.fixture(scope="module")
def fashion():
    from kerasunsup import data

    try:
        return data.load("fashion_mnist")
    except KerasunsupError as error:
        pytest.skip(f"Fashion-MNIST is not prepared: {error}")


@pytest.mark.slow
def test_fashion_mnist_anchors(fashion, tmp_path, monkeypatch):
    """Numbers of reference/targets.md sections 1 and 3f."""
    from kerasunsup import baselines

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert pixel_entropy(fashion.test / 255.0).mean() == pytest.approx(189.86, abs=0.005)
    count = len(fashion.test)
    assert baselines.independent_pixels(fashion, count, True) == pytest.approx(385.02, abs=0.1)
    for dimension, wanted in {12: 0.02208, 32: 0.01449, 64: 0.00984}.items():
        got = baselines.pca_reconstruction(fashion, dimension)
        assert got["mse"] == pytest.approx(wanted, rel=0.005)
    denoised = baselines.linear_denoising(fashion, 0.5, range(3))
    assert denoised["noisy_psnr"] == pytest.approx(9.29, abs=0.01)
    assert denoised["linear_psnr"] == pytest.approx(17.35, abs=0.06)
    assert baselines.raw_knn(fashion) == pytest.approx(0.855, abs=0.002)
