"""Sets of images that stand beside samples: the floor, known damage, and simple samplers.

They say what a value means: how far real images are from real images, what noise, blur or a
missing class cost, and what a sampler without a deep network reaches.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kerasunsup.baselines import fit_pca
from kerasunsup.examples import features

if TYPE_CHECKING:
    from kerasunsup.data import Dataset

NOISE = 0.1  # standard deviation, pixels in [0, 1]
BLUR = 1  # standard deviation, pixels
MISSING_CLASS = 5
GAUSSIAN_DIMENSION = 64
MIXTURE_DIMENSION = 32
MIXTURE_COMPONENTS = 10


def calibration_sets(data: Dataset, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, float32 images) of each set, `count` images each where train has as many.

    `train_images`: a draw of train without replacement, and the floor; `noise_0.1` and `blur_1`:
    the same images damaged, sigma in units of the value range and in pixels;
    `one_class_missing`: a draw of train without class 5 (of fewer classes: the last);
    `pca_64_gaussian`: one Gaussian in the first principal components of train;
    `pca_32_gmm_10`: a mixture of 10 Gaussians there. To be clipped and rounded like samples.

    Args:
        data: Images in [0, 1].
        count: Number of images of a set.
    """
    from scipy.ndimage import gaussian_filter

    train = features(data, "train")
    shape = (-1, *data.input_shape)

    def draw(indices: np.ndarray) -> np.ndarray:
        chosen = np.random.default_rng(0).permutation(indices)[:count]
        return train[np.sort(chosen)].reshape(shape)

    real = draw(np.arange(len(train)))
    yield "train_images", real
    noise = np.random.default_rng(0).standard_normal(real.shape, dtype="float32")
    yield f"noise_{NOISE:g}", real + np.float32(NOISE) * noise
    yield f"blur_{BLUR}", gaussian_filter(real, (0, BLUR, BLUR, 0))
    labels = data.labels.get("train", np.zeros(0, "int64"))[: len(train)]
    if len(np.unique(labels)) > 1:
        yield "one_class_missing", draw(np.flatnonzero(labels != missing_class(data)))
    wide, narrow = (min(d, *train.shape) for d in (GAUSSIAN_DIMENSION, MIXTURE_DIMENSION))
    yield f"pca_{wide}_gaussian", gaussian(train, wide, count).reshape(shape)
    yield (
        f"pca_{narrow}_gmm_{MIXTURE_COMPONENTS}",
        mixture(train, narrow, count).reshape(shape),
    )


def missing_class(data: Dataset) -> int:
    """The class that `one_class_missing` leaves out: 5, or the last where there are fewer."""
    classes = np.unique(data.labels["train"])
    return MISSING_CLASS if MISSING_CLASS in classes else int(classes[-1])


def gaussian(train: np.ndarray, dimension: int, count: int) -> np.ndarray:
    """Samples `(count, d)` of one Gaussian in the first principal components of `train`."""
    pca = fit_pca(train, dimension)
    scale = np.sqrt(pca.explained_variance_)
    latent = scale * np.random.default_rng(0).standard_normal((count, dimension))
    return pca.inverse_transform(latent.astype("float32"))


def mixture(train: np.ndarray, dimension: int, count: int) -> np.ndarray:
    """Samples of a mixture of 10 full-covariance Gaussians in the principal components."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    pca = fit_pca(train, dimension)
    model = GaussianMixture(MIXTURE_COMPONENTS, covariance_type="full", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(pca.transform(train).astype("float64"))
    latent = np.random.default_rng(0).permutation(model.sample(count)[0])  # else by component
    return pca.inverse_transform(latent.astype("float32"))
