"""The user's own examples: arrays, .npy, .npz, .csv, .parquet, images and folders of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kerasunsup.checks import check_array
from kerasunsup.data.dataset import Dataset, Rows, fingerprint
from kerasunsup.data.images import IMAGE_SUFFIXES, ImageFolder, read_images
from kerasunsup.data.readers import read_csv, read_npy, read_npz, read_parquet, table_arrays
from kerasunsup.data.splits import SPLITS, hold_out
from kerasunsup.data.unpacking import open_array
from kerasunsup.errors import InputError
from kerasunsup.files import sha256_of

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")

# Names of arrays in an .npz file or a mapping, by split.
_X_KEYS = {
    "train": ("train", "x_train", "x"),
    "validation": ("validation", "x_validation"),
    "test": ("test", "x_test"),
}
_Y_KEYS = {"train": ("y_train", "y"), "validation": ("y_validation",), "test": ("y_test",)}
_CHUNK_BYTES = 64 * 1024**2


def load(path: Path, *, validation: int | float | None = None, seed: int = 0) -> Dataset:
    """Loads a file or a folder of images; a seeded tenth each for a missing validation or test.

    Args:
        path: .npy, .npz (`train`, `validation`, `test`, `y_train` …), .csv or .parquet (numeric
            columns and an optional column `label`), or a folder of PNG and JPEG images of one
            size, directly or in one subfolder a class.
        validation: Validation examples to cut: a number, or a fraction of the examples.
        seed: Seed of the draws.

    Raises:
        InputError: Missing, unreadable or truncated; not numeric, finite, rectangular, in range.
    """
    parts, labels, class_names = _read(path)
    return _dataset(
        path.stem if path.is_file() else path.resolve().name,
        parts,
        labels,
        class_names,
        source=str(path),
        validation=validation,
        seed=seed,
    )


def from_arrays(arrays: Any) -> Dataset:
    """Makes a data set of an array, a pair (x, y) or a mapping with the keys of an .npz file.

    Raises:
        InputError: Not numeric, finite, rectangular, in range, or unknown keys.
    """
    if isinstance(arrays, tuple) and len(arrays) == 2:
        arrays = {"train": arrays[0], "y_train": arrays[1]}
    elif not isinstance(arrays, Mapping):
        arrays = {"train": arrays}
    x, y = _by_split(arrays, "arrays")
    parts = {split: _rows(value, split) for split, value in x.items()}
    return _dataset("arrays", parts, y, None, source="arrays in memory")


def read_inputs(path: str | Path, *, key: str = "x") -> np.ndarray:
    """Reads all examples of a file or folder, in its order; arguments as in `open_inputs`.

    Returns:
        `(batch, ...)`, uint8 or float32.
    """
    rows = open_inputs(path, key=key)
    return rows.read(np.arange(rows.count))


def open_inputs(path: str | Path, *, key: str = "x", scratch: Path | None = None) -> Rows:
    """Checks what a command runs a model on: the examples of a file or folder, in its order.

    They stay on disk: an .npz, .csv or .parquet file is unpacked to a temporary one.

    Args:
        path: .npy, .npz, .csv, .parquet, a PNG or JPEG image, or a folder of images.
        key: Which array of an .npz file with several.
        scratch: Folder of the temporary file; the system's when None.

    Raises:
        InputError: Missing, unreadable, truncated or not numeric, finite and rectangular.
        OutputError: No space for the temporary file.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return _rows(read_images([path]), str(path))
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return _rows(open_array(path, key, scratch), str(path))
    return _read(path)[0]["train"]


def image_files(path: str | Path) -> list[Path]:
    """The image files of a folder in its order, an image file itself; of other files, none.

    Raises:
        InputError: A folder without images.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return ImageFolder(path).paths
    return [path] if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() else []


def _read(path: Path) -> tuple[dict[str, Rows], dict[str, np.ndarray], tuple[str, ...] | None]:
    """Returns examples by split, labels by split and the classes' names where they are known."""
    if not path.exists():
        raise InputError(f"Expected a file or a folder of images. Received: {path} (not found)")
    if path.is_dir():
        folder = ImageFolder(path)
        return {"train": folder.rows()}, folder.labels(), folder.class_names
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = read_npy(path)
        return {"train": _rows(array, str(path), functools.partial(sha256_of, path))}, {}, None
    if suffix == ".npz":
        x, y = _by_split(read_npz(path), str(path))
        return {split: _rows(value, f"{path}: {split}") for split, value in x.items()}, y, None
    if suffix in (".csv", ".parquet"):
        table = read_csv(path) if suffix == ".csv" else read_parquet(path)
        array, label = table_arrays(table, path)
        return {"train": _rows(array, str(path))}, {} if label is None else {"train": label}, None
    raise InputError(
        f"Expected one of {', '.join(SUFFIXES)} or a folder of PNG or JPEG images. Received: {path}"
    )


def _dataset(
    name: str,
    parts: dict[str, Rows],
    labels: Mapping[str, np.ndarray],
    class_names: tuple[str, ...] | None,
    *,
    source: str,
    validation: int | float | None = None,
    seed: int = 0,
) -> Dataset:
    train = parts["train"]
    for split, rows in parts.items():
        if (rows.shape, rows.dtype) != (train.shape, train.dtype):
            raise InputError(
                f"{source}: every split must have the shape and dtype of train, "
                f"{train.dtype} {train.shape}. Received: {split} {rows.dtype} {rows.shape}"
            )
    labels, found_names = _classes(labels, parts, source)
    cut = hold_out(
        train.count,
        has_validation="validation" in parts,
        has_test="test" in parts,
        validation=validation,
        seed=seed,
    )
    places = {split: ("train", indices) for split, indices in cut.items()}
    places |= {s: (s, np.arange(parts[s].count)) for s in parts if s != "train"}
    splits: dict[str, Any] = {
        split: parts[places[split][0]].take(places[split][1]) for split in SPLITS
    }
    contents: dict[str, np.ndarray | str] = {}
    for split, examples in splits.items():
        origin, indices = places[split]
        contents[split] = (
            examples
            if isinstance(examples, np.ndarray)
            else f"{parts[origin].identity()} {fingerprint({'indices': indices})}"
        )
    return Dataset(
        name=name,
        **splits,
        labels={s: labels[o][indices] for s, (o, indices) in places.items() if o in labels},
        class_names=class_names or found_names,
        input_shape=train.shape,
        value_range=_value_range(train.shape, train.dtype),
        fingerprint=fingerprint(contents),
        license="the user's own",
        source=source,
    )


def _rows(source: Any, name: str, identity: Callable[[], str] | None = None) -> Rows:
    """Checks an array, or a function that maps it anew, and makes examples of it."""
    array = source() if callable(source) else source
    if not isinstance(array, np.ndarray):
        array = check_array(array, name=name)
    if array.ndim < 2 or array.size == 0 or array.dtype.kind not in "uifb":
        check_array(array, name=name)
        raise InputError(
            f"{name}: expected (batch, features) or (batch, height, width, channels); one feature? "
            f"x[:, None]. Received: shape {array.shape}"
        )
    probe = _examples(array[:1])
    shape, value_range = probe.shape[1:], _value_range(probe.shape[1:], probe.dtype)
    count, step = len(array), max(1, _CHUNK_BYTES // (4 * math.prod(shape)))
    reopen = source if callable(source) else lambda: array
    for first in range(0, count, step):
        check_array(_examples(reopen()[first : first + step]), value_range=value_range, name=name)
    return Rows(
        count=count,
        shape=shape,
        dtype=probe.dtype,
        read=lambda indices: _examples(reopen()[indices]),
        identity=identity or (lambda: fingerprint({"all": reopen()})),
    )


def _examples(array: np.ndarray) -> np.ndarray:
    """Returns uint8 pixels as they are, grey ones with a channel axis, anything else float32."""
    if array.dtype == np.uint8:
        return np.asarray(array)[..., None] if array.ndim == 3 else np.asarray(array)
    with np.errstate(over="ignore"):
        return np.asarray(array, "float32")


def _value_range(shape: tuple[int, ...], dtype: np.dtype) -> tuple[float, float] | None:
    return (0.0, 1.0) if len(shape) == 3 or dtype == np.uint8 else None


def _by_split(arrays: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Sorts arrays into examples and labels by split."""
    if len(arrays) == 1 and "arr_0" in arrays:
        arrays = {"train": arrays["arr_0"]}
    x = {s: arrays[k] for s, keys in _X_KEYS.items() for k in reversed(keys) if k in arrays}
    y = {s: arrays[k] for s, keys in _Y_KEYS.items() for k in reversed(keys) if k in arrays}
    allowed = [k for keys in (*_X_KEYS.values(), *_Y_KEYS.values()) for k in keys]
    used = len(x) + len(y)
    if "train" not in x or used != len(arrays) or not set(y) <= set(x):
        raise InputError(
            f"{name} must hold `train` (or `x_train`, `x`) and may hold validation, test, y_train, "
            f"y_validation, y_test, each once and no others. "
            f"Received: {sorted(map(str, arrays))}"
            + (
                ""
                if set(map(str, arrays)) - set(allowed)
                else " (two names for one split, or y without x)"
            )
        )
    return x, {split: np.asarray(value) for split, value in y.items()}


def _classes(
    labels: Mapping[str, np.ndarray], parts: Mapping[str, Rows], source: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns labels as int64 and the classes' names; classes 0, 1, … keep their numbers."""
    if not labels:
        return {}, ()
    flat = {split: y.reshape(len(y)) if y.size == len(y) else y for split, y in labels.items()}
    for split, y in flat.items():
        whole = y.dtype.kind in "uib" or (y.dtype.kind == "f" and bool((y == np.floor(y)).all()))
        if y.shape != (parts[split].count,) or not (whole or y.dtype.kind in "UT"):
            raise InputError(
                f"{source}: labels must be one whole number or text for each of the "
                f"{parts[split].count} {split} examples. Received: {y.dtype} {y.shape}"
            )
    everything = np.concatenate(list(flat.values()))
    if everything.dtype.kind != "U" and 0 <= everything.min() <= everything.max() < len(everything):
        names = tuple(str(i) for i in range(int(everything.max()) + 1))
        return {split: y.astype("int64") for split, y in flat.items()}, names
    values = np.unique(everything)
    ids = {split: np.searchsorted(values, y).astype("int64") for split, y in flat.items()}
    return ids, tuple(str(v) for v in values)
