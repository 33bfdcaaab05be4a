"""Protocols of likelihood, in nats, and of the use of the latent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from kerasunsup import baselines
from kerasunsup.errors import InputError
from kerasunsup.examples import pieces, standard_units
from kerasunsup.metrics import Metric
from kerasunsup.metrics.likelihood import check_above_floor, pixel_entropy
from kerasunsup.metrics.representation import ACTIVE_VARIANCE, active_units

if TYPE_CHECKING:
    from kerasunsup.evaluation import Subject

DEFAULT_SAMPLES = 5000
SAMPLING_SEEDS = 3


def measure_elbo(subject: Subject, match: re.Match[str]) -> Metric:
    """Mean evidence lower bound with beta = 1, over three sampling seeds."""
    model = subject.keras_model
    binary = subject.binarized
    x = subject.binary_test if binary else subject.grey_test
    seeds = range(subject.seed, subject.seed + SAMPLING_SEEDS)
    means = []
    for seed in seeds:
        with subject.display.task(f"evidence, seed {seed}"):
            elbo = model.evidence(x, seed=seed)["elbo"].astype("float64")
        if model.likelihood == "bernoulli":
            check_above_floor(-elbo, subject.grey_test, "-elbo")
        means.append(elbo.mean())
    return Metric(
        float(np.mean(means)),
        float(np.std(means, ddof=1)),
        f"nats per example, test split, {_observed(subject, binary)}; E_q[log p(x|z)] - "
        "KL(q(z|x) || p(z)) with one draw of z, beta = 1, no free bits; mean and std over sampling "
        f"seeds {seeds[0]}..{seeds[-1]}",
        len(x),
        {name: -value for name, value in _baselines(subject, len(x), binary).items()},
    )


def measure_nll(subject: Subject, match: re.Match[str]) -> Metric:
    """Importance-weighted estimate of -log p(x)."""
    model = subject.keras_model
    samples = int(match["samples"] or DEFAULT_SAMPLES)
    total = subject.count("test")
    count = int(match["count"] or total)
    if count > total:
        raise InputError(f"The test split has {total} examples. Received: {match[0]!r}")
    binary = model.likelihood == "bernoulli"
    x = (subject.binary_test if binary else subject.grey_test)[:count]
    with subject.display.task(f"log-likelihood of {count} examples, {samples} samples each"):
        log_likelihood = model.log_likelihood(x, samples=samples, seed=subject.seed)
    nll = -log_likelihood.astype("float64")
    if binary:
        check_above_floor(nll, subject.grey_test[:count], match[0])
    which = "test split" if count == total else f"first {count} of the test split"
    return Metric(
        float(nll.mean()),
        None,
        f"nats per example, {which}, {_observed(subject, binary)}; -log of the mean of "
        f"K = {samples} importance weights p(x, z) / q(z|x), z ~ q(z|x) (Burda et al. 2016, "
        f"eq. 8): an upper bound that falls with K; seed {subject.seed}",
        count,
        _baselines(subject, count, binary),
    )


def measure_active_units(subject: Subject, match: re.Match[str]) -> Metric:
    """Number of latent dimensions whose posterior mean varies."""
    means = subject.latents("test")
    inputs = "unbinarised"
    if subject.binarized:
        inputs = "binarised once (seed 777)"
        chunks = subject.run("encode", "latent", pieces(subject.binary_test))
        means = np.concatenate([latent for _, latent in chunks])
    return Metric(
        float(active_units(means)),
        None,
        f"number of the {means.shape[1]} latent dimensions whose posterior mean has a variance "
        f"above {ACTIVE_VARIANCE:g} over the test split, {inputs} (Burda et al. 2016)",
        len(means),
    )


def _observed(subject: Subject, binary: bool) -> str:
    model = subject.keras_model
    if binary:
        return (
            "binarised once (np.random.seed(777), np.random.binomial(1, x), validation then test, "
            "in the order of kerasunsup.data); "
            f"Bernoulli likelihood, trained with binarization={model.binarization!r}"
        )
    if model.likelihood == "bernoulli":
        return (
            "grey values as expected binary ones (cross-entropy, linear in x: the expected binary "
            "bound of an encoder that sees grey)"
        )
    units = "the data's units"
    if model.normalization is not None:
        units = "the model's units (standardised with the train split's mean and variance)"
    return f"Gaussian likelihood, log density in {units}"


def _baselines(subject: Subject, count: int, binary: bool) -> dict[str, float]:
    """NLL of models without a latent on the same examples; the limit of a binarised set."""
    data, model = subject.data, subject.keras_model
    if model.likelihood == "bernoulli":
        with subject.display.task("baseline: independent pixels"):
            return {
                "pixel_entropy_limit": float(pixel_entropy(subject.grey_test[:count]).mean()),
                "independent_pixels": baselines.independent_pixels(data, count, binary),
            }
    nll = None if data.value_range is not None else baselines.full_gaussian(data, count)
    if nll is None:
        return {}
    scale = np.ravel(standard_units(data)[1])
    own = np.ones_like(scale)
    if model.normalization is not None:
        own = np.sqrt(np.ravel(np.asarray(model.normalization.variance)))
    return {"full_gaussian": nll + float(np.log(scale / own).sum())}
