"""Pictures: files that open, panels for the verbs there are, exact pixels, no state left behind."""

from __future__ import annotations

import dataclasses

import matplotlib as mpl
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerasunsup import data as datasets
from kerasunsup import mosaic, pictures
from kerasunsup.errors import InputError, OutputError
from kerasunsup.layers import GaussianCorruption


class Fake:
    """Answers verbs with arrays of the right shape."""

    def __init__(self, shape, verbs, corruption=None, latent_dim=3):
        self.shape, self.verbs, self.latent_dim = shape, verbs, latent_dim
        self.corruption = corruption
        self.seen = None

    def check_ready(self, name):
        pass

    def encode(self, x):
        rng = np.random.default_rng(0)
        return {"latent": rng.normal(size=(len(x), self.latent_dim)).astype("float32")}

    def reconstruct(self, x):
        self.seen = x
        return {"reconstruction": np.asarray(x, "float32") * 0.9}

    def generate(self, count, seed=0):
        rng = np.random.default_rng(seed)
        return {"samples": rng.random((count, *self.shape), dtype="float32")}


ALL = ("encode", "reconstruct", "generate")


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def iris():
    return datasets.load("iris")


def size_of(path):
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.parametrize("verbs", [ALL, ("encode", "reconstruct"), ("generate",), ("encode",), ()])
@pytest.mark.parametrize("draw", [pictures.preview, pictures.progress])
def test_images_of_any_verbs(draw, verbs, digits, tmp_path):
    width, height = size_of(draw(Fake((8, 8, 1), verbs), digits, tmp_path / "a.png"))
    assert width > 700 and height > 80
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("verbs", [ALL, ("encode",), ("reconstruct",)])
@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
def test_tables(verbs, name, tmp_path):
    data = datasets.load(name)
    model = Fake(data.input_shape, verbs)
    assert min(size_of(pictures.preview(model, data, tmp_path / "a.png"))) > 400
    if "reconstruct" in verbs:
        assert min(size_of(pictures.progress(model, data, tmp_path / "b.png"))) > 400


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_latents_of_any_width(latent_dim, digits, tmp_path):
    pictures.preview(Fake((8, 8, 1), ALL, latent_dim=latent_dim), digits, tmp_path / "a.png")


def test_without_labels_with_many_and_from_a_stream(digits, tmp_path):
    pictures.preview(Fake((8, 8, 1), ALL), dataclasses.replace(digits, labels={}), tmp_path / "a")
    many = {**digits.labels, "test": np.arange(len(digits.test)) % 40}
    pictures.preview(Fake((8, 8, 1), ALL), dataclasses.replace(digits, labels=many), tmp_path / "b")
    stream = dataclasses.replace(digits, test=tf.data.Dataset.from_tensor_slices(digits.test))
    pictures.preview(Fake((8, 8, 1), ALL), stream, tmp_path / "c")


def test_a_denoising_model_reconstructs_what_is_corrupted(digits, tmp_path):
    corruption = GaussianCorruption(0.5, seed=3)
    state = corruption.noise.state.numpy()
    model = Fake((8, 8, 1), ALL, corruption)
    pictures.progress(model, digits, tmp_path / "a.png")
    first = model.seen
    pictures.progress(model, digits, tmp_path / "a.png")
    np.testing.assert_array_equal(first, model.seen)
    np.testing.assert_array_equal(state, corruption.noise.state.numpy())
    assert np.abs(first - pictures._one_of_each_class(digits.validation, None, 10)).std() > 0.1


def test_a_density_that_is_not_fitted_is_left_out(digits, tmp_path):
    model = Fake((8, 8, 1), ALL)

    def check_ready(name):
        raise InputError("not fitted")

    model.check_ready = check_ready
    model.generate = None
    pictures.progress(model, digits, tmp_path / "a.png")


def test_every_class_is_shown(digits):
    chosen = pictures._one_of_each_class(digits.test, digits.labels["test"], 10)
    firsts = [digits.test[digits.labels["test"] == label][0] for label in range(10)]
    np.testing.assert_array_equal(chosen, firsts)


def test_a_grid_has_the_images_pixels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3)).astype("uint8")
    with Image.open(pictures.grid(images, tmp_path / "grid.png")) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (3 * 4 + 2 * mosaic.GAP, 3 * 5 + 2 * mosaic.GAP, 3)
    np.testing.assert_array_equal(pixels[:4, :5], images[0])
    np.testing.assert_array_equal(pixels[-4:, :5], images[6])
    assert (pixels[-4:, 5:] == 255).all()
    grey = np.full((1, 2, 2, 1), 0.5, "float32")
    with Image.open(pictures.grid(grey, tmp_path / "grey.png")) as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), np.full((2, 2), 128))


def test_a_grid_of_what_is_no_image_is_refused(tmp_path):
    for wrong in (np.zeros((3, 4)), np.zeros((2, 4, 4, 2)), np.full((1, 2, 2, 1), 3.0)):
        with pytest.raises(InputError, match="Received"):
            pictures.grid(wrong, tmp_path / "grid.png")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write"):
        pictures.grid(np.zeros((1, 2, 2, 1)), tmp_path / "file" / "grid.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_callers_matplotlib_is_left_alone(digits, tmp_path):
    before = mpl.rcParams.copy()
    pictures.preview(Fake((8, 8, 1), ALL), digits, tmp_path / "a.png")
    assert mpl.rcParams == before
