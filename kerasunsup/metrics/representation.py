"""How much a representation holds: linear probe, nearest neighbours, active units."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

PROBE_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
PROBE_TOLERANCE = 1e-3
PROBE_ITERATIONS = 300
PROBE_PROTOCOL = (
    "features standardised with the train split's mean and std; multinomial logistic regression "
    f"(scikit-learn L-BFGS, L2, gradient tolerance {PROBE_TOLERANCE:g}, at most "
    f"{PROBE_ITERATIONS} iterations), C from {{{', '.join(f'{c:g}' for c in PROBE_C)}}} with the "
    "best accuracy on validation (smallest on ties), refitted on train + validation; accuracy on "
    "test"
)
ACTIVE_VARIANCE = 0.01


class Labelled(NamedTuple):
    """Features `(n, d)` and their integer labels `(n,)`."""

    x: np.ndarray
    y: np.ndarray


class Probe(NamedTuple):
    """Result of a linear probe: test accuracy and the C that validation chose."""

    accuracy: float
    c: float


def linear_probe(train: Labelled, validation: Labelled, test: Labelled) -> Probe:
    """Accuracy of logistic regression on frozen features: see `PROBE_PROTOCOL`.

    L-BFGS stopped after `PROBE_ITERATIONS` is accepted: it happens for large C only, and
    validation judges the fit as it is.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = standardization(train.x)
    train, validation, test = (
        Labelled((split.x - mean) / scale, split.y) for split in (train, validation, test)
    )

    def fit(data: Labelled, c: float) -> LogisticRegression:
        return LogisticRegression(C=c, tol=PROBE_TOLERANCE, max_iter=PROBE_ITERATIONS).fit(*data)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = [fit(train, c).score(*validation) for c in PROBE_C]
        best = PROBE_C[int(np.argmax(scores))]
        final = fit(merge(train, validation), best)
    return Probe(float(final.score(*test)), best)


def knn(reference: Labelled, test: Labelled, k: int = 5) -> float:
    """Accuracy of the majority among the `k` nearest by Euclidean distance (ties: lower label)."""
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(min(k, len(reference.y)), algorithm="brute")
    return float(classifier.fit(*reference).score(*test))


def active_units(latent_means: np.ndarray, threshold: float = ACTIVE_VARIANCE) -> int:
    """Number of latent dimensions in use: those with `Var_x(E_q(z|x)[z_d]) > threshold`.

    Burda et al. 2016, https://arxiv.org/abs/1509.00519, section 5.2.

    Args:
        latent_means: Posterior means, `(n, latent_dim)`.
        threshold: Smallest variance of an active unit, exclusive.
    """
    return int((np.var(latent_means, axis=0, dtype="float64") > threshold).sum())


def merge(*splits: Labelled) -> Labelled:
    """The splits one after another."""
    return Labelled(np.concatenate([s.x for s in splits]), np.concatenate([s.y for s in splits]))


def standardization(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature; 1 for a constant one."""
    mean = train.mean(axis=0, dtype="float64")
    scale = train.std(axis=0, dtype="float64")
    scale[scale < 1e-7 * (1 + np.abs(mean))] = 1.0
    return mean.astype("float32"), scale.astype("float32")
