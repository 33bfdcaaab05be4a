"""Likelihoods in nats: the fixed binarisation, what no model can beat, and what any model should.

The binarisation is the one of the VampPrior and Exemplar-VAE code (Tomczak & Welling 2018,
Norouzi et al. 2020): `np.random.seed(777)`, validation first, then test.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, xlog1py, xlogy

from kerasunsup.errors import KerasunsupError

BINARIZATION_SEED = 777
CHUNK = 1000


def binarize_static(validation: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One fixed Bernoulli draw of the validation and the test examples.

    `np.random.binomial(1, x)` from NumPy's legacy stream with seed 777, validation first. Binary
    examples stay as they are.

    Args:
        validation: Probabilities in [0, 1], `(n, ...)`.
        test: The same for the test split.

    Returns:
        Both splits as float32 zeros and ones.
    """
    random = np.random.RandomState(BINARIZATION_SEED)
    return _draw(random, validation), _draw(random, test)


def _draw(random: np.random.RandomState, x: np.ndarray) -> np.ndarray:
    binary = np.empty(x.shape, "float32")
    for start in range(0, len(x), CHUNK):
        binary[start : start + CHUNK] = random.binomial(1, x[start : start + CHUNK])
    return binary


def pixel_entropy(x: np.ndarray) -> np.ndarray:
    """Entropy in nats of the Bernoulli draw from each grey example, `(n,)`.

    Its mean is a floor: the expected NLL of binarised examples cannot be lower under any model,
    because knowing the grey image is the best a model could do. 189.86 nats on Fashion-MNIST's
    test images.
    """
    p = np.asarray(x, "float64").reshape(len(x), -1)
    return -(xlogy(p, p) + xlog1py(1 - p, -p)).sum(axis=1)


def check_above_floor(nll: np.ndarray, grey: np.ndarray, name: str = "nll") -> None:
    """Raises if a Bernoulli NLL is lower than binarisation noise allows.

    The test is paired: the mean over images of `nll - entropy` must not lie more than three of
    its standard errors below zero.

    Args:
        nll: Negative log-likelihood (or negative ELBO) of each binarised example, `(n,)` nats.
        grey: The grey examples that were binarised, `(n, ...)` in [0, 1].
        name: What the message calls the number.

    Raises:
        KerasunsupError: The number is impossible.
    """
    entropy = pixel_entropy(grey)
    gap = np.asarray(nll, "float64") - entropy
    error = gap.std() / np.sqrt(len(gap))
    if not gap.mean() >= -3 * error - 1e-6 * (1 + entropy.mean()):
        raise KerasunsupError(
            f"`{name}` is impossible: binarisation alone costs {entropy.mean():.2f} nats on these "
            "examples. The likelihood or the binarisation has a bug, or the model saw the test "
            f"draw. Received: {np.mean(nll):.2f} nats (standard error of the gap {error:.2f})"
        )


def log_mean_exp(log_weights: np.ndarray, axis: int = -1) -> np.ndarray:
    """`log(mean(exp(log_weights)))` without overflow: the IWAE estimate from log-weights.

    Burda et al. 2016, https://arxiv.org/abs/1509.00519, equation 8.
    """
    log_weights = np.asarray(log_weights, "float64")
    return logsumexp(log_weights, axis=axis) - np.log(log_weights.shape[axis])


def marginal_nll(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """NLL of a model of independent pixels, `(n,)` nats; 385.02 on Fashion-MNIST.

    Args:
        train: Grey or binary examples in [0, 1], whose mean (plus half a count each of 0 and 1,
            so that no pixel is impossible) gives the probability of each pixel.
        test: Binary examples.
    """
    train = train.reshape(len(train), -1)
    test = np.asarray(test, "float64").reshape(len(test), -1)
    p = (train.sum(axis=0, dtype="float64") + 0.5) / (len(train) + 1)
    return -(test @ np.log(p) + (1 - test) @ np.log1p(-p))


def gaussian_nll(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """NLL of one Gaussian with full covariance fitted to `train`, `(n,)` nats.

    Raises:
        numpy.linalg.LinAlgError: The covariance of `train` is singular.
    """
    train = np.asarray(train, "float64").reshape(len(train), -1)
    test = np.asarray(test, "float64").reshape(len(test), -1)
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(train, rowvar=False, bias=True)))
    whitened = np.linalg.solve(factor, (test - train.mean(axis=0)).T)
    log_determinant = 2 * np.log(np.diag(factor)).sum()
    constant = test.shape[1] * np.log(2 * np.pi)
    return 0.5 * (np.square(whitened).sum(axis=0) + log_determinant + constant)
