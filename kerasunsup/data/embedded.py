"""The data sets inside scikit-learn: no network, no files."""

from __future__ import annotations

import numpy as np

from kerasunsup.data.dataset import Dataset, fingerprint
from kerasunsup.data.splits import stratified

_UCI = "https://archive.ics.uci.edu/dataset"
_SOURCES = {
    "digits": f"scikit-learn; {_UCI}/80/optical+recognition+of+handwritten+digits",
    "iris": f"scikit-learn; {_UCI}/53/iris",
    "wine": f"scikit-learn; {_UCI}/109/wine",
    "breast_cancer": f"scikit-learn; {_UCI}/17/breast+cancer+wisconsin+diagnostic",
}
NAMES = tuple(_SOURCES)


def load(name: str, *, validation: int | float | None = None, seed: int = 0) -> Dataset:
    """Loads one of NAMES, split 60/20/20 with equal shares of the classes.

    `digits` are images `(8, 8, 1)`, float32 pixels / 16 in [0, 1]; the others are float32 tables
    in their own units.

    Args:
        name: One of NAMES.
        validation: Validation examples: a number, or a fraction of all. Default: .2.
        seed: Seed of the split.

    Raises:
        InputError: Wrong `validation` or `seed`.
    """
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    x = bunch.data.astype("float32")
    if name == "digits":
        x = x.reshape(-1, 8, 8, 1) / np.float32(16)
    parts = stratified(bunch.target, validation, seed)
    examples = {split: x[indices] for split, indices in parts.items()}
    return Dataset(
        name=name,
        train=examples["train"],
        validation=examples["validation"],
        test=examples["test"],
        labels={split: bunch.target[indices].astype("int64") for split, indices in parts.items()},
        class_names=tuple(str(c) for c in bunch.target_names),
        input_shape=x.shape[1:],
        value_range=(0.0, 1.0) if name == "digits" else None,
        fingerprint=fingerprint(examples),
        license="CC BY 4.0 (UCI)",
        source=_SOURCES[name],
    )
