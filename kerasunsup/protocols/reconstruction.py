"""Protocols of reconstruction and denoising."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kerasunsup import baselines
from kerasunsup.errors import InputError
from kerasunsup.examples import split_batches, standard_units
from kerasunsup.metrics import Metric, reconstruction
from kerasunsup.metrics.denoising import noisy

if TYPE_CHECKING:
    from kerasunsup.evaluation import Subject

NOISE_SEEDS = 3

_MEASURES: Mapping[str, Callable[[np.ndarray, float], float]] = {
    "mse": lambda errors, peak: float(errors.mean()),
    "psnr": reconstruction.psnr,
    "psnr_per_image": reconstruction.psnr_per_image,
}
_MEANINGS = {
    "mse": "squared error averaged over values and examples",
    "psnr": "10 log10(range^2 / MSE) dB with the MSE averaged over the whole split",
    "psnr_per_image": "mean over examples of each one's 10 log10(range^2 / MSE) dB",
}


def measure_reconstruction(subject: Subject, match: re.Match[str]) -> Metric:
    """`mse`, `psnr` or `psnr_per_image` of `reconstruct` on the test split."""
    data, measure = subject.data, match[0]
    shift, scale = standard_units(data)
    errors = []
    for x, output in subject.run("reconstruct", "reconstruction", split_batches(data, "test")):
        x, output = (a.reshape(len(a), -1) for a in (x, baselines.clamped(output, data)))
        errors.append(reconstruction.squared_errors((x - shift) / scale, (output - shift) / scale))
    compared, fitted = _pca(subject, measure)
    units = "features standardised with the train split's mean and std"
    if data.value_range is not None:
        units = f"values in {list(data.value_range)}, outputs clamped"
    return Metric(
        _MEASURES[measure](np.concatenate(errors), subject.peak),
        None,
        f"test split, {units}; `reconstruct` of {subject.seen}; {_MEANINGS[measure]}; {fitted} "
        "fitted on train, clamped alike",
        subject.count("test"),
        compared,
    )


def _pca(subject: Subject, measure: str) -> tuple[dict[str, float], str]:
    """The row of a PCA as large as the latent, in values or in bits, and what it is in words."""
    if subject.has("bits"):
        bits = round(subject.keras_model.bits)
        with subject.display.task(f"baseline: PCA of {bits} bits"):
            values = baselines.pca_bits_reconstruction(subject.data, bits)
        return {f"pca_{bits}_bits": values[measure]}, (
            "PCA of equal bits, each spent on the component of the largest variance left (a bit "
            "leaves a quarter), components rounded by Lloyd-Max quantisers,"
        )
    dimension = subject.latent_size
    if not 0 < dimension < subject.rank:
        return {}, "PCA of equal dimension"
    with subject.display.task(f"baseline: PCA-{dimension}"):
        values = baselines.pca_reconstruction(subject.data, dimension)
    return {f"pca_{dimension}": values[measure]}, "PCA of equal dimension"


def measure_denoising(subject: Subject, match: re.Match[str]) -> Metric:
    """PSNR of `reconstruct` on the test split with Gaussian noise."""
    data, measure, sigma = subject.data, match["measure"], float(match["sigma"])
    if sigma <= 0:
        raise InputError(f"The noise must be positive, as in psnr_noise0.5. Received: {match[0]!r}")
    assert data.value_range is not None
    seeds = range(subject.seed, subject.seed + NOISE_SEEDS)
    values = []
    for seed in seeds:
        random = np.random.default_rng(seed)
        seen = (noisy(x, sigma, data.value_range, random) for x in split_batches(data, "test"))
        outputs = subject.run("reconstruct", "reconstruction", seen)
        errors = [
            reconstruction.squared_errors(x, baselines.clamped(output, data))
            for x, (_, output) in zip(split_batches(data, "test"), outputs, strict=True)
        ]
        values.append(_MEASURES[measure](np.concatenate(errors), subject.peak))
    with subject.display.task("baseline: linear denoiser"):
        found = baselines.linear_denoising(data, sigma, seeds)
    named = {"noisy_input": f"noisy_{measure}", "linear_least_squares": f"linear_{measure}"}
    return Metric(
        float(np.mean(values)),
        float(np.std(values, ddof=1)),
        f"test split + N(0, {sigma:g}^2) on each value, clipped to {list(data.value_range)} "
        f"(float32 numpy.random.default_rng(seed).standard_normal in test order, seeds {seeds[0]}.."
        f"{seeds[-1]}: mean and std); `reconstruct`, clamped; {_MEANINGS[measure]}, against the "
        "clean examples; linear least squares in closed form over the train split and all noise, "
        "clamped alike",
        subject.count("test"),
        {name: found[key] for name, key in named.items() if key in found},
    )
