"""Data sets: scikit-learn's embedded ones, TFDS's, and the user's own files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kerasunsup.data import embedded, files, tfds
from kerasunsup.data.dataset import Dataset
from kerasunsup.data.fashion_mnist import import_fashion_mnist
from kerasunsup.data.files import image_files, open_inputs, read_inputs
from kerasunsup.data.splits import check_seed
from kerasunsup.errors import InputError

__all__ = [
    "Dataset",
    "as_dataset",
    "image_files",
    "import_fashion_mnist",
    "load",
    "open_inputs",
    "read_inputs",
]


def load(
    source: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: int | float | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set by name or from the user's files.

    Args:
        source: "digits", "iris", "wine" or "breast_cancer" (inside scikit-learn); "fashion_mnist"
            or any other TFDS name, `[tfds:]NAME[/config][:version]`; or the path of an .npy, .npz,
            .csv or .parquet file or of a folder of images. For a folder that is called as one of
            the first four or fashion_mnist, write `./digits`.
        data_dir: Where TFDS keeps data sets. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        validation: Validation examples where the source brings none: a number, or a fraction of
            the examples that they are cut from. Default: .1 (embedded sets: .2; Fashion-MNIST:
            10,000). They are the last ones of train in the order of tensorflow-datasets, which
            shuffles when it prepares a set: always the same, but not upstream's order.
        seed: Seed of every split that is drawn.

    Raises:
        InputError: Unknown name, missing or unreadable file, unprepared set without network, or
            examples that are not numeric, finite, of one shape and in range.
        KerasunsupError: A download failed.
    """
    check_seed(seed)
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise InputError(f"Expected a data set's name or a path. Received: {source!r}")
    name = os.fspath(source)
    if isinstance(source, str):
        if name in embedded.NAMES:
            return embedded.load(name, validation=validation, seed=seed)
        if name == "fashion_mnist" or name.startswith("tfds:"):
            name = name.removeprefix("tfds:")
            return tfds.load(name, data_dir=data_dir, validation=validation, seed=seed)
    path = Path(name).expanduser()
    if isinstance(source, os.PathLike) or path.exists() or _looks_like_path(name):
        return files.load(path, validation=validation, seed=seed)
    return tfds.load(name, data_dir=data_dir, validation=validation, seed=seed)


def as_dataset(data: Any) -> Dataset:
    """Returns a Dataset as it is and makes one of anything else.

    Args:
        data: A Dataset; what `load` takes; an array, a pair (x, y), or a mapping of arrays with
            the keys of an .npz file (`train`, `validation`, `test`, `y_train` …). Of a split that
            is missing a seeded tenth of train is taken, as from a file.

    Raises:
        InputError: See `load`.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (str, os.PathLike)):
        return load(data)
    return files.from_arrays(data)


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).suffix.lower() in files.SUFFIXES
