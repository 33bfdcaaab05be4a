"""Protocols on small real models, on a model with closed-form likelihood, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from kerasunsup import baselines, data, networks
from kerasunsup.errors import InputError, KerasunsupError
from kerasunsup.evaluation import Display, Subject, evaluate, saved_model_folder
from kerasunsup.export import export
from kerasunsup.metrics.anomaly import auroc
from kerasunsup.metrics.likelihood import binarize_static, log_mean_exp
from kerasunsup.models import VAE, Autoencoder
from kerasunsup.protocols import PROTOCOLS, find

SHAPE = (8, 8, 1)


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("kerasunsup.extractor.entry_for", lambda data: "")  # see test_samples.py
        yield


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def iris():
    return data.load("iris")


def make_autoencoder(train, **arguments):
    keras.utils.set_random_seed(0)
    model = Autoencoder(
        networks.dense_backbone(SHAPE, [32]),
        networks.dense_decoder(4, SHAPE, [32]),
        4,
        value_range=(0, 1),
        seed=0,
        **arguments,
    )
    model.compile(keras.optimizers.Adam(0.003))
    model.fit(train, epochs=15, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="module")
def autoencoder(digits):
    return make_autoencoder(digits.train)


@pytest.fixture(scope="module")
def vae(digits):
    keras.utils.set_random_seed(0)
    model = VAE(
        networks.dense_backbone(SHAPE, [32]),
        networks.dense_decoder(3, SHAPE, [32]),
        3,
        binarization="dynamic",
        seed=0,
    )
    model.compile(keras.optimizers.Adam(0.003))
    model.fit(digits.train, epochs=15, batch_size=32, verbose=0)
    return model


class ProbabilisticPCA:
    """Tipping & Bishop 1999: a linear-Gaussian VAE whose likelihood and posterior are exact."""

    verbs = ("encode", "reconstruct")
    likelihood = "gaussian"
    normalization = None

    def __init__(self, x: np.ndarray, latent_dim: int) -> None:
        self.input_shape = (None, x.shape[1])
        self.mean = x.mean(axis=0, dtype="float64")
        values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
        self.variance = values[:-latent_dim].mean()
        scale = np.sqrt(values[-latent_dim:] - self.variance)
        self.w = vectors[:, -latent_dim:] * scale
        self.m = self.w.T @ self.w + self.variance * np.eye(latent_dim)

    def encode(self, x):
        return {"latent": np.linalg.solve(self.m, self.w.T @ (x - self.mean).T).T}

    def reconstruct(self, x):
        return {"reconstruction": self.encode(x)["latent"] @ self.w.T + self.mean}

    def marginal(self):
        cov = self.w @ self.w.T + self.variance * np.eye(len(self.mean))
        return scipy.stats.multivariate_normal(self.mean, cov)

    def log_weights(self, x, samples, seed, widen=1.0):
        """log p(x, z) - log q(z) for z ~ q, the posterior with its covariance times `widen`."""
        means = self.encode(x)["latent"]
        cov = widen * self.variance * np.linalg.inv(self.m)
        noise = scipy.stats.multivariate_normal(np.zeros(len(cov)), cov)
        draws = noise.rvs((len(x), samples), random_state=seed).reshape(len(x), samples, -1)
        z = means[:, None] + draws
        residual = (x - self.mean)[:, None] - z @ self.w.T
        log_x = scipy.stats.norm(0, np.sqrt(self.variance)).logpdf(residual).sum(axis=-1)
        log_q = noise.logpdf(draws).reshape(log_x.shape)
        return log_x + scipy.stats.norm.logpdf(z).sum(axis=-1) - log_q

    def evidence(self, x, seed=0):
        return {"elbo": self.log_weights(x, 1, seed)[:, 0]}

    def log_likelihood(self, x, samples, seed=0):
        return log_mean_exp(self.log_weights(x, samples, seed, widen=1.5))


# Choice of protocols


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.example)
def test_every_protocol_is_found_by_its_example(protocol):
    assert find(protocol.example)[0] is protocol
    assert callable(protocol.function())


def test_defaults_fit_the_model(autoencoder, vae, digits, iris):
    assert set(evaluate(autoencoder, digits)) == {"mse", "psnr", "linear_probe", "knn"}
    unlabelled = dataclasses.replace(digits, labels={})
    measured = evaluate(vae, unlabelled)
    assert list(measured) == ["mse", "psnr", "elbo", "nll_k500", "active_units"]
    pca = ProbabilisticPCA(iris.train, 2)
    assert set(evaluate(pca, iris)) == {
        "mse", "elbo", "nll_k500", "active_units", "linear_probe", "knn",
    }  # fmt: skip


def test_metrics_are_plain_and_explained(vae, digits):
    for name, metric in evaluate(vae, digits).items():
        json.dumps(dataclasses.asdict(metric), allow_nan=False)
        assert len(metric.protocol) > 60, name
        assert metric.n == len(digits.test)


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        (["mae"], "named like mse, psnr"),
        (["nll_k0"], "named like"),
        (["psnr_noise-1"], "named like"),
        (["psnr_noise0"], "must be positive"),
        (["nll_k5_n361"], "360 examples"),
        (["auroc"], "one class k only"),
        ("mse", "list of names"),
    ],
)
def test_refused(vae, digits, protocols, message):
    with pytest.raises(InputError, match=f"(?s){message}.*Received: "):
        evaluate(vae, digits, protocols)


def test_refused_data(autoencoder, digits, iris):
    unlabelled = dataclasses.replace(digits, labels={})
    for name in ("linear_probe", "knn", "auroc"):
        with pytest.raises(InputError, match=r"labels.*Received: "):
            evaluate(autoencoder, unlabelled, [name])
    for name in ("elbo", "nll", "active_units"):
        with pytest.raises(InputError, match="the model has no `"):
            evaluate(autoencoder, digits, [name])
    with pytest.raises(InputError, match=r"shape \(8, 8, 1\).*Received: iris"):
        evaluate(autoencoder, iris, ["mse"])
    with pytest.raises(InputError, match="value range"):
        evaluate(ProbabilisticPCA(iris.train, 2), iris, ["psnr"])
    with pytest.raises(InputError, match="Received: str"):
        Subject("a model", digits)


# Reconstruction


def test_reconstruction(autoencoder, digits):
    measured = evaluate(autoencoder, digits, ["mse", "psnr", "psnr_per_image"])
    output = np.clip(autoencoder.reconstruct(digits.test)["reconstruction"], 0, 1)
    errors = np.square(digits.test - output).mean(axis=(1, 2, 3))
    assert measured["mse"].value == pytest.approx(errors.mean(), rel=1e-5)
    assert measured["psnr"].value == pytest.approx(-10 * np.log10(errors.mean()), abs=1e-4)
    per_image = (-10 * np.log10(errors)).mean()
    assert measured["psnr_per_image"].value == pytest.approx(per_image, abs=1e-4)


def test_pca_baseline_is_the_optimum_of_rank_d(digits):
    x = digits.train.reshape(-1, 64).astype("float64")
    test = digits.test.reshape(-1, 64)
    directions = np.linalg.svd(x - x.mean(axis=0))[2][:4]
    output = (test - x.mean(axis=0)) @ directions.T @ directions + x.mean(axis=0)
    wanted = np.square(np.clip(output, 0, 1) - test).mean()
    assert baselines.pca_reconstruction(digits, 4)["mse"] == pytest.approx(wanted, rel=1e-3)


def test_tables_are_measured_in_standard_units(iris):
    model = ProbabilisticPCA(iris.train, 2)
    mean, std = iris.train.mean(axis=0), iris.train.std(axis=0)
    difference = (iris.test - model.reconstruct(iris.test)["reconstruction"]) / std
    metric = evaluate(model, iris, ["mse"])["mse"]
    assert metric.value == pytest.approx(np.square(difference).mean(), rel=1e-4)
    z, test = (iris.train - mean) / std, (iris.test - mean) / std
    directions = np.linalg.svd(z.astype("float64"))[2][:2]
    wanted = np.square(test - test @ directions.T @ directions).mean()
    assert metric.baselines["pca_2"] == pytest.approx(wanted, rel=1e-3)


def test_uint8_counts_as_pixels(autoencoder, digits):
    def pixels(split):
        return np.round(getattr(digits, split) * 255).astype("uint8")

    names = ("train", "validation", "test")
    bytes_ = dataclasses.replace(digits, fingerprint="8" * 64, **{n: pixels(n) for n in names})
    a, b = (evaluate(autoencoder, d, ["mse"])["mse"] for d in (digits, bytes_))
    assert a.value == pytest.approx(b.value, rel=1e-2)
    assert a.baselines["pca_4"] == pytest.approx(b.baselines["pca_4"], rel=1e-2)


def test_streamed_data_are_measured_alike(autoencoder, digits):
    streams = {n: tf.data.Dataset.from_tensor_slices(getattr(digits, n)) for n in ("train", "test")}
    streamed = dataclasses.replace(digits, fingerprint="5" * 64, **streams)
    names = ["mse", "psnr_noise0.2", "knn"]
    a, b = (evaluate(autoencoder, d, names) for d in (digits, streamed))
    for name in names:
        assert a[name].value == pytest.approx(b[name].value, rel=1e-6)
        assert a[name].baselines == pytest.approx(b[name].baselines, rel=1e-6)


def test_denoising(autoencoder, digits):
    measured = evaluate(autoencoder, digits, ["psnr_noise0.5", "psnr_per_image_noise.5"])
    values = []
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal(digits.test.shape, dtype="float32")
        seen = np.clip(digits.test + np.float32(0.5) * noise, 0, 1)
        output = np.clip(autoencoder.reconstruct(seen)["reconstruction"], 0, 1)
        values.append(-10 * np.log10(np.square(output - digits.test).mean()))
    metric = measured["psnr_noise0.5"]
    assert metric.value == pytest.approx(np.mean(values), abs=1e-4)
    assert metric.std == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert metric.baselines["noisy_input"] < metric.baselines["linear_least_squares"] < 25
    other = measured["psnr_per_image_noise.5"]
    assert other.value > metric.value
    assert other.baselines["noisy_input"] > metric.baselines["noisy_input"]


# Likelihood


def test_nll_and_elbo_of_a_vae(vae, digits):
    measured = evaluate(vae, digits, ["elbo", "nll_k1", "nll_k20", "nll_k20_n100"])
    binary = binarize_static(digits.validation, digits.test)[1]
    nll = -vae.log_likelihood(binary, samples=20, seed=0)
    assert measured["nll_k20"].value == pytest.approx(nll.mean(), rel=1e-5)
    assert measured["nll_k20_n100"].value == pytest.approx(nll[:100].mean(), rel=1e-5)
    assert measured["nll_k20_n100"].n == 100
    elbos = [vae.evidence(binary, seed=s)["elbo"].mean() for s in range(3)]
    assert measured["elbo"].value == pytest.approx(np.mean(elbos), rel=1e-5)
    assert measured["elbo"].std == pytest.approx(np.std(elbos, ddof=1), rel=1e-2)
    limit = measured["nll_k20"].baselines["pixel_entropy_limit"]
    assert limit < measured["nll_k20"].value < measured["nll_k1"].value
    assert measured["nll_k1"].value == pytest.approx(-np.mean(elbos), abs=0.3)
    assert measured["elbo"].baselines["pixel_entropy_limit"] == -limit
    assert "K = 20 " in measured["nll_k20"].protocol and "seed(777)" in measured["elbo"].protocol


def test_nll_alone_has_5000_samples(vae, digits, monkeypatch):
    asked = []

    def answer(x, samples, seed):
        asked.append(samples)
        return np.full(len(x), -60.0)

    monkeypatch.setattr(vae, "log_likelihood", answer)
    assert "K = 5000 " in evaluate(vae, digits, ["nll"])["nll"].protocol
    assert asked == [5000]


def test_impossible_likelihood_is_a_bug(vae, digits, monkeypatch):
    monkeypatch.setattr(vae, "log_likelihood", lambda x, **_: np.full(len(x), -1.0))
    monkeypatch.setattr(vae, "evidence", lambda x, **_: {"elbo": np.full(len(x), -1.0)})
    for name in ("nll_k5", "elbo"):
        with pytest.raises(KerasunsupError, match="impossible"):
            evaluate(vae, digits, [name])


def test_grey_elbo_says_so(digits):
    model = VAE(networks.dense_backbone(SHAPE, [8]), networks.dense_decoder(2, SHAPE, [8]), 2)
    metric = evaluate(model, digits, ["elbo"])["elbo"]
    elbos = [model.evidence(digits.test, seed=s)["elbo"].mean() for s in range(3)]
    assert metric.value == pytest.approx(np.mean(elbos), rel=1e-5)
    assert "grey values as expected binary ones" in metric.protocol


def test_likelihood_against_the_closed_form(iris):
    model = ProbabilisticPCA(iris.train, 2)
    measured = evaluate(model, iris, ["elbo", "nll_k2000"])
    exact = model.marginal().logpdf(iris.test).mean()
    assert measured["elbo"].value == pytest.approx(exact, abs=1e-6)  # the posterior is exact
    assert measured["elbo"].std == pytest.approx(0, abs=1e-6)
    assert measured["nll_k2000"].value == pytest.approx(-exact, abs=0.02)
    gaussian = scipy.stats.multivariate_normal(
        iris.train.mean(axis=0), np.cov(iris.train.T, bias=True)
    )
    baseline = measured["nll_k2000"].baselines["full_gaussian"]
    assert baseline == pytest.approx(-gaussian.logpdf(iris.test).mean(), abs=1e-3)


def test_gaussian_baseline_is_in_the_units_of_the_model(iris):
    normalization = keras.layers.Normalization()
    normalization.adapt(iris.train)
    model = VAE(
        networks.dense_backbone((4,), [8]),
        networks.dense_decoder(2, (4,), [8]),
        2,
        likelihood="gaussian",
        normalization=normalization,
    )
    z, test = (np.asarray(normalization(x)) for x in (iris.train, iris.test))
    gaussian = scipy.stats.multivariate_normal(z.mean(axis=0), np.cov(z.T, bias=True))
    metric = evaluate(model, iris, ["nll_k5"])["nll_k5"]
    wanted = -gaussian.logpdf(test).mean()
    assert metric.baselines["full_gaussian"] == pytest.approx(wanted, abs=1e-3)
    assert "the model's units" in metric.protocol


def test_active_units(vae, digits):
    binary = binarize_static(digits.validation, digits.test)[1]
    variance = vae.encode(binary)["latent"].var(axis=0)
    metric = evaluate(vae, digits, ["active_units"])["active_units"]
    assert metric.value == (variance > 0.01).sum()


# Representations


def test_representations(autoencoder, digits):
    measured = evaluate(autoencoder, digits, ["linear_probe", "knn"])
    for metric in measured.values():
        assert 0.5 < metric.value < 1
        assert set(metric.baselines) == {"raw_features", "pca_4"}
        assert metric.baselines["raw_features"] > 0.93
    shuffled = {
        split: np.random.default_rng(0).permutation(y) for split, y in digits.labels.items()
    }
    chance = evaluate(autoencoder, dataclasses.replace(digits, labels=shuffled), ["knn"])["knn"]
    assert chance.value == pytest.approx(0.1, abs=0.06)
    assert chance.baselines["raw_features"] == pytest.approx(0.1, abs=0.06)  # not the cached one


# Anomalies


def test_one_class_auroc(digits):
    zeros = digits.only_class(0)
    model = make_autoencoder(zeros.train)
    metric = evaluate(model, zeros)["auroc"]
    scores = model.score(digits.test)["score"]
    assert metric.value == pytest.approx(auroc(scores, digits.labels["test"] != 0))
    assert metric.value > 0.9
    assert set(metric.baselines) == {"pca_4_error", "isolation_forest", "5nn_distance"}
    assert min(metric.baselines.values()) > 0.9
    labels = {**zeros.labels, "test": np.random.default_rng(0).permutation(zeros.labels["test"])}
    shuffled = evaluate(model, dataclasses.replace(zeros, labels=labels), ["auroc"])["auroc"]
    for value in (shuffled.value, *shuffled.baselines.values()):
        assert value == pytest.approx(0.5, abs=0.12)  # 3 standard errors with 35 normal


def test_one_class_data(digits):
    sevens = digits.only_class(7)
    for split in ("train", "validation"):
        wanted = getattr(digits, split)[digits.labels[split] == 7]
        np.testing.assert_array_equal(getattr(sevens, split), wanted)
        assert set(sevens.labels[split]) == {7} and len(sevens.labels[split]) == len(wanted)
    assert sevens.test is digits.test
    assert len({d.fingerprint for d in (digits, sevens, digits.only_class(8))}) == 3
    streams = {n: tf.data.Dataset.from_tensor_slices(getattr(digits, n)) for n in ("train", "test")}
    streamed = dataclasses.replace(digits, **streams)
    np.testing.assert_array_equal(streamed.only_class(7).train, sevens.train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kerasunsup.data.dataset.RESIDENT_BYTES", 1000)
        stream = streamed.only_class(7).train
        assert int(stream.cardinality()) == len(sevens.train)
        np.testing.assert_array_equal(list(stream.as_numpy_iterator()), sevens.train)
    for k in (10, -1):
        with pytest.raises(InputError, match="Received: "):
            digits.only_class(k)
    with pytest.raises(InputError, match="labelled data only"):
        dataclasses.replace(digits, labels={}).only_class(0)


# SavedModels


def test_folders(autoencoder, digits, tmp_path):
    run = tmp_path / "run"
    export(autoencoder, run / "saved_model" / "9")
    (run / "saved_model" / "10").mkdir()
    (run / "saved_model" / "10" / "saved_model.pb").touch()
    assert saved_model_folder(run).name == saved_model_folder(run / "saved_model").name == "10"
    names = ["mse", "knn", "psnr_noise0.2"]
    served = evaluate(run / "saved_model" / "9", "digits", names)
    direct = evaluate(autoencoder, digits, names)
    for name in names:
        assert served[name].value == pytest.approx(direct[name].value, rel=1e-3)
        assert served[name].protocol == direct[name].protocol
    with pytest.raises(InputError, match="Received: "):
        evaluate(tmp_path, digits)


# The cache of baselines


def test_baselines_are_computed_once(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def compute():
        calls.append(1)
        return {"value": np.float32(0.5)}

    assert baselines.cached(digits, "a", compute) == {"value": 0.5}
    assert baselines.cached(digits, "a", compute) == {"value": 0.5} and len(calls) == 1
    baselines.cached(digits, "b", compute)
    other = dataclasses.replace(digits, fingerprint="0" * 64)
    baselines.cached(other, "a", compute)
    assert len(calls) == 3
    path = tmp_path / "kerasunsup" / "baselines" / f"{digits.fingerprint[:16]}.json"
    entry = json.loads(path.read_text())["a"]
    assert set(entry["versions"]) == {"numpy", "scipy", "scikit-learn"}
    monkeypatch.setattr(baselines, "REVISION", baselines.REVISION + 1)
    baselines.cached(digits, "a", compute)
    assert len(calls) == 4


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 3}', "\x00"])
def test_bad_cache_costs_only_time(digits, tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = baselines.cache_path(digits)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert baselines.cached(digits, "a", lambda: {"value": 1.0}) == {"value": 1.0}
    assert json.loads(path.read_text())["a"]["values"] == {"value": 1.0}


def test_unwritable_cache_costs_only_time(digits, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert baselines.cached(digits, "a", lambda: {"value": 1.0}) == {"value": 1.0}


# Progress


def test_progress_leaves_nothing_behind(monkeypatch, capsys):
    import time

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("kerasunsup.evaluation.SECONDS_WITHOUT_PROGRESS", 0.05)
    with Display(True) as display, display.task("some work", 10) as advance:
        time.sleep(0.3)
        advance(10)
    assert "some work" in capsys.readouterr().err
    with Display(True) as display, display.task("quick work"):
        pass
    with Display(False) as display, display.task("silent work"):
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "")
