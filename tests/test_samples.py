"""Measures of samples against closed forms and brute force; protocols with a stub extractor."""

from __future__ import annotations

import dataclasses
import json
import types

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from kerasunsup import data, extractor, sample_baselines, zoo
from kerasunsup.errors import InputError
from kerasunsup.evaluation import Subject, evaluate, protocols_for
from kerasunsup.extractor import Extractor, Images
from kerasunsup.metrics import health, samples

ROWS = {
    "train_images",
    "noise_0.1",
    "blur_1",
    "one_class_missing",
    "pca_64_gaussian",
    "pca_32_gmm_10",
}


@pytest.fixture(autouse=True, scope="module")
def cache_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Frechet distance


def with_moments(rng, mean, covariance, count=50):
    """Rows whose mean and covariance are exactly these."""
    x = rng.normal(size=(count, len(mean)))
    x = np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), (x - x.mean(axis=0)).T).T
    return mean + x @ scipy.linalg.sqrtm(covariance).real


def random_covariance(rng, size):
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_frechet_of_equal_and_shifted(rng):
    covariance, shift = random_covariance(rng, 6), rng.normal(size=6)
    a = with_moments(rng, np.zeros(6), covariance)
    assert samples.frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert samples.frechet_distance(a, a + shift) == pytest.approx(shift @ shift, rel=1e-10)
    other = with_moments(rng, shift, covariance, 70)
    assert samples.frechet_distance(a, other) == pytest.approx(shift @ shift, rel=1e-9)


def test_frechet_of_scaled(rng):
    covariance = random_covariance(rng, 5)
    a = with_moments(rng, np.ones(5), covariance)
    scaled = 1 + 3 * (a - 1)
    wanted = (3 - 1) ** 2 * np.trace(covariance)
    assert samples.frechet_distance(a, scaled) == pytest.approx(wanted, rel=1e-10)
    assert samples.total_variance(a) == pytest.approx(np.trace(covariance), rel=1e-12)


def test_frechet_of_commuting_covariances(rng):
    rotation = scipy.stats.ortho_group.rvs(4, random_state=0)
    one, two = np.array([4.0, 1.0, 0.25, 9.0]), np.array([1.0, 16.0, 0.04, 9.0])
    a, b = (with_moments(rng, np.zeros(4), rotation * v @ rotation.T) for v in (one, two))
    wanted = np.square(np.sqrt(one) - np.sqrt(two)).sum()
    assert samples.frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)


def test_frechet_of_rotated_covariances_in_the_plane(rng):
    """In two dimensions tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det A det B))."""
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    one = np.diag([3.0, 0.2])
    two = turn @ one @ turn.T
    a, b = (with_moments(rng, np.zeros(2), c) for c in (one, two))
    root = np.sqrt(np.trace(one @ two) + 2 * np.sqrt(np.linalg.det(one) * np.linalg.det(two)))
    wanted = np.trace(one) + np.trace(two) - 2 * root
    assert wanted > 1
    assert samples.frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert samples.frechet_distance(b, a) == pytest.approx(wanted, rel=1e-9)


def test_frechet_against_the_matrix_root_and_without_full_rank(rng):
    a, b = rng.normal(size=(90, 12)) @ rng.normal(size=(12, 12)), rng.random((80, 12))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    wanted = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    wanted += np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert samples.frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    few = rng.normal(size=(5, 40)).astype("float32")  # covariances of rank 4
    assert samples.frechet_distance(few, few + 2) == pytest.approx(4 * 40, rel=1e-6)


@pytest.mark.parametrize(
    ("real", "others", "message"),
    [
        (np.zeros((1, 3)), np.zeros((9, 3)), r"\(1, 3\) and \(9, 3\)"),
        (np.zeros((9, 3)), np.zeros((9, 2)), r"\(9, 3\) and \(9, 2\)"),
        (np.zeros((9, 3)), np.zeros((9, 3, 1)), "equal d"),
        (np.zeros((9, 3)), np.full((9, 3), np.nan), "must be finite"),
    ],
)
def test_features_that_are_refused(real, others, message):
    for measure in (
        samples.frechet_distance,
        samples.kernel_distance,
        samples.neighbour_measures,
    ):
        with pytest.raises(InputError, match=f"{message}") as error:
            measure(real, others)
        assert "Received: " in str(error.value)


# KID


def test_kernel_distance_of_two_subsets_is_the_unbiased_estimate(rng):
    a, b = rng.normal(size=(14, 3)), rng.normal(0.5, 1, size=(10, 3))
    order = np.random.default_rng(5)
    first, second = order.permutation(14), order.permutation(10)
    values = []
    for half in range(2):
        x, y = a[first[7 * half : 7 * half + 7]], b[second[5 * half : 5 * half + 5]]

        def k(u, v):
            return (sum(i * j for i, j in zip(u, v, strict=True)) / 3 + 1) ** 3

        within_x = np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
        within_y = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
        values.append(within_x + within_y - 2 * np.mean([k(u, v) for u in x for v in y]))
    value, error = samples.kernel_distance(a, b, subsets=2, seed=5)
    assert value == pytest.approx(np.mean(values))
    assert error == pytest.approx(abs(values[0] - values[1]) / 2)


def test_kernel_distance_is_unbiased_and_knows_its_error():
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found.append(samples.kernel_distance(rng.normal(size=(60, 4)), rng.normal(size=(60, 4))))
    values, errors = np.transpose(found)
    assert values.mean() == pytest.approx(0, abs=3 * values.std() / np.sqrt(60))
    assert (values < 0).any()
    assert errors.mean() == pytest.approx(values.std(), rel=0.3)
    rng = np.random.default_rng(0)
    value, error = samples.kernel_distance(rng.normal(size=(200, 4)), rng.normal(1, 1, (200, 4)))
    assert value > 5 * error > 0
    with pytest.raises(InputError, match="Received: 10 subsets of 19"):
        samples.kernel_distance(np.zeros((19, 2)), np.zeros((30, 2)))


# Precision, recall, density, coverage


def brute_force(real, fake, k):
    def distance(a, b):
        return np.sqrt(np.sum((a - b) ** 2))

    def radii(x):
        return [sorted(distance(p, q) for j, q in enumerate(x) if j != i)[k - 1]
                for i, p in enumerate(x)]  # fmt: skip

    around_real, around_fake = radii(real), radii(fake)
    inside = [[distance(f, r) <= around_real[i] for i, r in enumerate(real)] for f in fake]
    precision = np.mean([any(row) for row in inside])
    recall = np.mean([
        any(distance(r, f) <= around_fake[j] for j, f in enumerate(fake)) for r in real
    ])  # fmt: skip
    density = np.sum(inside) / (k * len(fake))
    coverage = np.mean([any(row[i] for row in inside) for i in range(len(real))])
    return precision, recall, density, coverage


@pytest.mark.parametrize(("k", "density_k"), [(1, 4), (3, 5), (5, 2)])
@pytest.mark.parametrize("chunk", [7, 500])
def test_neighbours_against_brute_force(rng, monkeypatch, k, density_k, chunk):
    monkeypatch.setattr(samples, "CHUNK", chunk)
    real, fake = rng.normal(size=(23, 4)), rng.normal(0.6, 0.7, size=(31, 4))
    fake[:3] = real[:3]
    found = samples.neighbour_measures(real, fake, k, density_k)
    wanted = (*brute_force(real, fake, k)[:2], *brute_force(real, fake, density_k)[2:])
    assert found == pytest.approx(wanted)
    assert 0 < found.precision < 1 and 0 < found.recall < 1


def test_neighbours_of_what_is_known(rng):
    a, b = rng.normal(size=(2, 600, 3))
    same = samples.neighbour_measures(a, a)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert samples.neighbour_measures(a, a + 100) == (0, 0, 0, 0)
    fresh = samples.neighbour_measures(a, b)
    assert fresh.density == pytest.approx(1, abs=0.1)
    assert fresh.coverage == pytest.approx(1 - 2**-5, abs=0.03)
    collapsed = samples.neighbour_measures(a, a[:1] + 1e-3 * b)
    assert collapsed.precision > 0.9 and collapsed.recall < 0.01 and collapsed.coverage < 0.1


# Classes and memorisation


def test_class_entropy():
    assert samples.class_entropy(np.repeat(np.arange(10), 7)) == pytest.approx(np.log(10))
    assert samples.class_entropy(np.full(50, 3)) == 0
    wanted = scipy.stats.entropy([0.5, 0.25, 0.25])
    assert samples.class_entropy(np.array([0, 7, 0, 2])) == pytest.approx(wanted)


def test_nearest_distance(rng, monkeypatch):
    monkeypatch.setattr(samples, "CHUNK", 4)
    train, x = rng.normal(size=(30, 5)), rng.normal(size=(9, 5))
    x[4] = train[7]
    wanted = np.sqrt(((x[:, None] - train[None]) ** 2).sum(axis=-1)).min(axis=1)
    found = samples.nearest_distance(train, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    assert found[4] == 0


def test_memorization(rng):
    train, test, new = rng.normal(size=(3, 1000, 6))
    near_test = samples.nearest_distance(train, test)

    def memorized(x):
        return samples.memorization(samples.nearest_distance(train, x), near_test)

    assert memorized(test) == pytest.approx(0.01)
    assert memorized(new) == pytest.approx(0.01, abs=0.01)
    assert memorized(train) == 1
    assert memorized(train + 1e-3) == 1
    assert memorized(np.concatenate([train[:300], new[:700]])) == pytest.approx(0.3, abs=0.02)


# Protocols


class Classifier:
    """Stands in for a trained one: a random ReLU layer, and the nearest class mean."""

    def __init__(self, data):
        self.weights = np.random.default_rng(0).normal(size=(64, 24))
        train = data.train.reshape(-1, 64)
        self.means = np.stack([train[data.labels["train"] == k].mean(axis=0) for k in range(10)])
        self.calls = []

    def encode(self, x):
        assert x.dtype == np.uint8
        self.calls.append(len(x))
        latent = np.maximum(x.reshape(len(x), 64) / 255 @ self.weights, 0)
        return {"latent": latent.astype("float32")}

    def classify(self, x):
        distance = np.square((x.reshape(len(x), 1, 64) / 255) - self.means).sum(axis=-1)
        return {"label": distance.argmin(axis=1), "probabilities": None}


class Copier:
    """Generates training images, with as much noise as told."""

    verbs = ("generate",)
    input_shape = (None, 8, 8, 1)

    def __init__(self, data, noise=0.0):
        self.data, self.noise, self.calls = data, noise, []

    def generate(self, count, seed=0, batch_size=256):
        self.calls.append((count, seed))
        random = np.random.default_rng(seed)
        x = self.data.train[random.integers(0, len(self.data.train), count)]
        return {"samples": x + np.float32(self.noise) * random.normal(size=x.shape)}


class ConditionalCopier(Copier):
    labels = 10

    def generate(self, count, seed=0, batch_size=256, label=None):
        random = np.random.default_rng(seed)
        labels = self.data.labels["train"]
        rows = [random.choice(np.flatnonzero(labels == k)) for k in label]
        return {"samples": self.data.train[rows]}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture
def classifier(digits, monkeypatch):
    model = Classifier(digits)
    monkeypatch.setattr(extractor, "entry_for", lambda data: "classifier_stub")
    monkeypatch.setattr(extractor, "load", lambda name: Extractor(model, name, "0123abcd"))
    return model


ALL = [
    "fcd",
    "fcd_relative",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "class_entropy",
    "memorization",
]


def test_all_protocols(classifier, digits):
    model = Copier(digits)
    measured = evaluate(model, digits, ALL)
    assert model.calls == [(360, seed) for seed in range(3)]  # drawn once for all
    assert classifier.calls == [360] * (1 + 3 + 6)  # seen once for all
    for name, metric in measured.items():
        json.dumps(dataclasses.asdict(metric), allow_nan=False)
        assert set(metric.baselines) == ROWS and next(iter(metric.baselines)) == "train_images"
        assert metric.n == 360 and metric.std >= 0
        assert "360 samples of `generate`, clipped" in metric.protocol
        assert ("classifier_stub 0123abcd" in metric.protocol) == (name != "memorization")
    value = {name: metric.value for name, metric in measured.items()}
    rows = {name: metric.baselines for name, metric in measured.items()}
    # copies of train are as good as train
    assert value["fcd"] < 3 * rows["fcd"]["train_images"]
    assert rows["fcd"]["train_images"] < min(v for k, v in rows["fcd"].items() if k[:5] != "train")
    assert abs(value["kid"]) < 5 * measured["kid"].std
    assert value["precision"] > 0.5 and rows["precision"]["noise_0.1"] < value["precision"]
    assert value["recall"] > 0.5 > rows["recall"]["blur_1"]
    assert value["class_entropy"] == pytest.approx(np.log(10), abs=0.03)
    assert rows["class_entropy"]["one_class_missing"] < rows["class_entropy"]["train_images"]
    # and are found out
    assert value["memorization"] == rows["memorization"]["train_images"] == 1
    assert rows["memorization"]["pca_64_gaussian"] < 0.05
    again = evaluate(Copier(digits), digits, ALL)
    assert {n: (m.value, m.baselines) for n, m in again.items()} == {
        n: (m.value, m.baselines) for n, m in measured.items()
    }
    assert classifier.calls[10:] == [360] * 4  # baselines came from the cache


def test_values_are_those_of_the_metrics(classifier, digits):
    measured = evaluate(Copier(digits, 0.2), digits, ["fcd", "fcd_relative", "recall"])

    def look(x):
        pixels = np.rint(np.clip(x, 0, 1) * 255).astype("uint8")
        return classifier.encode(pixels)["latent"]

    real = look(digits.test)
    fakes = [look(Copier(digits, 0.2).generate(360, seed)["samples"]) for seed in range(3)]
    distances = [samples.frechet_distance(real, fake) for fake in fakes]
    assert measured["fcd"].value == pytest.approx(np.mean(distances))
    assert measured["fcd"].std == pytest.approx(np.std(distances, ddof=1))
    scale = np.trace(np.cov(real.T.astype("float64")))
    assert measured["fcd_relative"].value == pytest.approx(np.mean(distances) / scale)
    for name, value in measured["fcd"].baselines.items():
        assert measured["fcd_relative"].baselines[name] == pytest.approx(value / scale)
    recalls = [samples.neighbour_measures(real, fake).recall for fake in fakes]
    assert measured["recall"].value == pytest.approx(np.mean(recalls))


def test_number_of_samples(classifier, digits):
    model = Copier(digits)
    metric = evaluate(model, digits, ["kid_n40"])["kid_n40"]
    assert metric.n == 40 and model.calls[0] == (40, 0)
    assert "40 samples" in metric.protocol and "first 40 images of the test" in metric.protocol
    with pytest.raises(InputError, match="360 examples. Received: 'fcd_n361'"):
        evaluate(model, digits, ["fcd_n361"])
    with pytest.raises(InputError, match="20 or more. Received: 'fcd_n19'"):
        evaluate(model, digits, ["fcd_n19"])


def test_class_accuracy(classifier, digits):
    model = ConditionalCopier(digits)
    metric = evaluate(model, digits, ["class_accuracy"])["class_accuracy"]
    assert metric.value == pytest.approx(metric.baselines["test_images"], abs=0.05)
    assert 0.8 < metric.value < 1
    assert "sample i of class i % 10" in metric.protocol
    with pytest.raises(InputError, match="what class it is asked for"):
        evaluate(Copier(digits), digits, ["class_accuracy"])


def test_defaults_are_cheap_and_need_an_extractor(classifier, digits, monkeypatch):
    assert protocols_for(Subject(Copier(digits), digits)) == ["kid", "class_entropy"]
    conditional = Subject(ConditionalCopier(digits), digits)
    assert protocols_for(conditional) == ["kid", "class_entropy", "class_accuracy"]
    many = dataclasses.replace(digits, test=np.zeros((1001, 8, 8, 1), "float32"))
    assert protocols_for(Subject(Copier(many), many)) == ["kid_n1000", "class_entropy_n1000"]
    monkeypatch.setattr(extractor, "entry_for", lambda data: "")
    assert protocols_for(Subject(Copier(digits), digits)) == []


def test_without_an_extractor(digits, monkeypatch):
    monkeypatch.setattr(extractor, "entry_for", lambda data: "")
    with pytest.raises(InputError, match=r"no trained classifier of exactly these.*Received: "):
        evaluate(Copier(digits), digits, ["fcd"])
    unlabelled = dataclasses.replace(digits, labels={})
    metric = evaluate(Copier(digits), unlabelled, ["memorization"])["memorization"]
    assert metric.value == 1
    assert set(metric.baselines) == ROWS - {"one_class_missing"}


def test_data_that_are_no_images(classifier):
    iris = data.load("iris")
    model = types.SimpleNamespace(verbs=("generate",), input_shape=(None, 4))
    for name in ("fcd", "memorization"):
        with pytest.raises(InputError, match=r"images with values in \[0, 1\]"):
            evaluate(model, iris, [name])


# The extractor


def test_entry_for_these_data_only(digits, monkeypatch):
    cards = {
        "another": types.SimpleNamespace(data_fingerprint=digits.fingerprint),
        "classifier_digits": types.SimpleNamespace(data_fingerprint=digits.fingerprint),
        "other_split": types.SimpleNamespace(data_fingerprint="0" * 64),
    }

    def card(name):
        if name not in cards:
            raise InputError("untrained")
        return cards[name]

    monkeypatch.setattr(zoo, "list_models", lambda family: ["untrained", *cards])
    monkeypatch.setattr(zoo, "card", card)
    assert extractor.entry_for(digits) == "classifier_digits"
    assert extractor.entry_for(digits.only_class(3)) == ""
    del cards["classifier_digits"]
    assert extractor.entry_for(digits) == "another"


def test_images_are_rounded_once():
    def refuse():
        raise AssertionError("not asked for")

    floats = np.array([-0.5, 0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1, 2]).reshape(7, 1, 1, 1)
    images = Images(floats, refuse)
    assert images.pixels.ravel().tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert Images(images.pixels, refuse).pixels is images.pixels
    every = np.arange(256, dtype="uint8").reshape(256, 1, 1, 1)
    np.testing.assert_array_equal(Images(every / np.float32(255), refuse).pixels, every)
    assert len(images) == 7 and images.flat.shape == (7, 1)


# Baselines


def test_calibration_sets(digits):
    sets = dict(sample_baselines.calibration_sets(digits, 200))
    assert set(sets) == ROWS
    real = sets["train_images"]
    for name, x in sets.items():
        assert x.shape == (200, 8, 8, 1) and x.dtype == np.float32, name
        assert np.mean(x) == pytest.approx(real.mean(), abs=0.03)
    train = {x.tobytes() for x in digits.train}
    assert all(x.tobytes() in train for x in real)
    assert len({x.tobytes() for x in real}) > 195
    fives = {x.tobytes() for x in digits.train[digits.labels["train"] == 5]}
    assert any(x.tobytes() in fives for x in real)
    assert not any(x.tobytes() in fives for x in sets["one_class_missing"])
    assert (sets["noise_0.1"] - real).std() == pytest.approx(0.1, rel=0.05)
    again = dict(sample_baselines.calibration_sets(digits, 200))
    for name, x in sets.items():
        np.testing.assert_array_equal(again[name], x)


def test_simple_samplers_have_the_moments_of_the_data(rng):
    train = rng.normal(size=(2000, 3)) @ rng.normal(size=(3, 3)) + 1
    train = train.astype("float32")
    for sampler in (sample_baselines.gaussian, sample_baselines.mixture):
        drawn = sampler(train, 3, 20000)
        np.testing.assert_allclose(drawn.mean(axis=0), train.mean(axis=0), atol=0.1)
        np.testing.assert_allclose(np.cov(drawn.T), np.cov(train.T), atol=0.2)


# Health of a GAN


@pytest.fixture
def real(rng):
    return rng.random((300, 6, 6, 1))


def test_a_healthy_gan(rng, real):
    new = rng.random((300, 6, 6, 1))
    overlapping = rng.normal(1, 1, 300), rng.normal(-1, 1, 300)
    assert health.diagnose(real, new, *overlapping, earlier_samples=rng.random(new.shape)) == []
    strong_early = rng.normal(3, 0.5, (300, 1)), rng.normal(-3, 0.5, (300, 1))
    assert health.diagnose(real, new, *strong_early) == []


def test_a_healthy_wasserstein_critic_is_no_false_alarm(rng, real):
    """It separates perfectly, has any offset, and a slope of one."""
    fake = 0.8 * rng.random((300, 6, 6, 1))
    direction = (real.mean(axis=0) - fake.mean(axis=0)).ravel()
    direction /= np.linalg.norm(direction)
    for offset in (-30, 0, 30):
        logits = [x.reshape(300, -1) @ direction * 1.3 + offset for x in (real, fake)]
        assert health.diagnose(real, fake, *logits, loss="wasserstein") == []
    dark = np.zeros_like(real) + 0.01 * fake  # the first steps: AUROC 1
    logits = [10 * np.linalg.norm(x.reshape(300, -1), axis=1) / 4 for x in (real, dark)]
    assert health.steep_critic(real, dark, *logits) == ""
    steep = health.steep_critic(real, dark, *(10 * x for x in logits))
    assert "critic is too steep" in steep


def test_saturated_discriminator(rng):
    finding = health.saturated_discriminator(rng.normal(9, 1, 300), rng.normal(-9, 1, 300))
    assert "saturated" in finding and "AUROC 1.0000" in finding
    decided_but_fooled = np.concatenate([rng.normal(-9, 1, 295), rng.normal(9, 1, 5)])
    assert health.saturated_discriminator(rng.normal(9, 1, 300), decided_but_fooled) == ""
    assert health.saturated_discriminator(np.zeros(300), np.zeros(300)) == ""


def test_mode_collapse(rng, real):
    assert health.mode_collapse(real, rng.random(real.shape)) == ""
    one = real[:1] + 0.01 * rng.normal(size=real.shape)
    assert "collapsed" in health.mode_collapse(real, one)
    few = real[rng.integers(0, 20, 300)]  # as far apart as data, but twenty only
    assert "100% of them have a near-duplicate" in health.mode_collapse(real, few)
    assert "collapsed" in health.mode_collapse(real, np.zeros_like(real))
    assert "collapsed" in health.diagnose(real, one, np.zeros(300), np.zeros(300))[0]


def test_stalled_generator(rng, real):
    now = rng.random(real.shape)
    assert health.stalled_generator(real, now, now + 0.1 * rng.normal(size=now.shape)) == ""
    assert "stalled" in health.stalled_generator(real, now, now)
    findings = health.diagnose(real, now, np.zeros(300), np.zeros(300), now + 1e-4)
    assert len(findings) == 1 and "moved by 0.0%" in findings[0]
    with pytest.raises(InputError, match=r"same seeds. Received: \(300, 6, 6, 1\) and \(9, 6, 6,"):
        health.stalled_generator(real, now, now[:9])
    with pytest.raises(InputError, match="5 values not finite"):
        health.mode_collapse(
            real, np.where(np.arange(300)[:, None, None, None] < 5, np.nan, 0)[..., :1, :1, :]
        )
