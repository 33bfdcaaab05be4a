"""Data sets of TensorFlow Datasets (TFDS): any registered or prepared name."""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasunsup.checks import check_array
from kerasunsup.data.dataset import Dataset, fingerprint, fits_in_memory
from kerasunsup.data.embedded import NAMES
from kerasunsup.data.fashion_mnist import DEBIAN_FOLDER
from kerasunsup.data.splits import SPLITS, hold_out
from kerasunsup.data.tfds_reader import Reader
from kerasunsup.errors import InputError, KerasunsupError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

REACH_SECONDS = 3.0
"""How long the download host may take to answer before the machine counts as offline."""

# What TFDS does not say itself.
_VALIDATION = {"fashion_mnist": 10_000}
_LICENSES = {"fashion_mnist": "MIT"}


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    validation: int | float | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a TFDS data set; downloads it, saying so, when it is not prepared yet.

    Splits are TFDS's own. Where there is none, validation is the last tenth of train in TFDS's
    order (Fashion-MNIST: the last 10,000), and test is a seeded tenth.

    Args:
        name: `NAME[/config][:version]`.
        data_dir: Where TFDS keeps data sets. Default: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        validation: Validation examples to cut: a number, or a fraction of train.
        seed: Seed of the draw of test examples.

    Raises:
        InputError: Unknown name, not prepared and offline, or no numeric examples of one shape.
        KerasunsupError: The download failed.
    """
    builder = _builder(name, data_dir)
    if not (builder.data_path.exists() and builder.is_prepared()):
        _prepare(builder)
    full_name = builder.name + (f"/{builder.builder_config.name}" if builder.builder_config else "")
    if validation is None:
        validation = _VALIDATION.get(full_name)
    reader = Reader(builder)
    places = _places(builder, validation, seed)
    splits: dict[str, Any] = {}
    labels: dict[str, Callable[[], np.ndarray]] = {}
    contents: dict[str, np.ndarray | str] = {}
    for split in SPLITS:
        origin, indices = places[split]
        if fits_in_memory(len(indices), reader.shape, reader.dtype):
            splits[split], y = reader.arrays(origin, indices)
            check_array(splits[split], name=f"{full_name} {split}")
            contents[split] = splits[split]
            if y is not None:
                labels[split] = functools.partial(np.asarray, y)
        else:
            splits[split] = reader.stream(origin, indices)
            digest = fingerprint({"indices": indices})
            contents[split] = f"{builder.info.full_name} {reader.dtype} {reader.shape} {digest}"
            if reader.label:
                labels[split] = functools.partial(reader.read_labels, origin, indices)
    return Dataset(
        name=full_name,
        **splits,
        labels=_Labels(labels),
        class_names=reader.class_names,
        input_shape=reader.shape,
        value_range=(0.0, 1.0) if reader.is_pixels else None,
        fingerprint=fingerprint(contents),
        license=_license(builder),
        source=builder.info.homepage or f"TFDS {builder.info.full_name}",
    )


class _Labels(Mapping[str, np.ndarray]):
    """Labels by split name, read when first asked for: a streamed split's need a pass."""

    def __init__(self, readers: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._readers = readers
        self._read: dict[str, np.ndarray] = {}

    def __getitem__(self, split: str) -> np.ndarray:
        if split not in self._read:
            self._read[split] = self._readers[split]()
        return self._read[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    bare = re.split("[/:]", name)[0]
    if not re.fullmatch(r"\w+(/[^:]+)?(:[\d.*]+)?", name):
        raise InputError(
            f"Expected a TFDS name as NAME, NAME/CONFIG or NAME:VERSION. Received: {name!r}"
        )
    if data_dir is not None:
        data_dir = os.path.expanduser(data_dir)
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        if bare in tfds.list_builders(with_community_datasets=False):
            hint = f"that configuration or version of {bare} does not exist here"
        else:
            known = [*NAMES, *tfds.list_builders(with_community_datasets=False)]
            close = difflib.get_close_matches(bare, known, n=3)
            hint = f"the closest names are {', '.join(close)}" if close else "no name comes near"
        raise InputError(
            f"Expected a file, a folder of images or a data set's name ({', '.join(NAMES)}, "
            f"fashion_mnist or one of https://www.tensorflow.org/datasets); {hint}. "
            f"Received: {name!r}"
        ) from error
    except (ValueError, AssertionError, RuntimeError, ImportError) as error:
        reason = _one_line(error).rpartition('}": ')[2].rstrip(".:")
        raise InputError(f"TFDS cannot open this set: {reason}. Received: {name!r}") from error


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    url = next(iter(builder.url_infos or {}), "https://storage.googleapis.com")
    if not _reachable(url):
        if builder.name == "fashion_mnist":
            remedy = (
                "run `kerasunsup data import fashion_mnist FOLDER` with a folder of its four "
                f"files; Debian's package dataset-fashion-mnist puts them in {DEBIAN_FOLDER}"
            )
        else:
            remedy = (
                f"run `tfds build {builder.name}` on a machine with network and copy the prepared "
                f"folder to {builder.data_path}"
            )
        raise InputError(
            f"{builder.info.full_name} is not prepared and its host cannot be reached: {remedy}. "
            f"Received: no answer from {url}"
        )
    print(f"Downloading {builder.info.full_name} to {builder.data_path}", file=sys.stderr)
    try:
        builder.download_and_prepare()
    except Exception as error:  # any builder's code and its downloads
        raise KerasunsupError(
            f"TFDS could not download and prepare {builder.info.full_name}: check the network and "
            f"free space in {builder.data_path.parent}. Received: {_one_line(error)}"
        ) from error


def _reachable(url: str) -> bool:
    """Whether the host of `url` answers within REACH_SECONDS, through the environment's proxies."""
    import requests

    answers: list[bool] = []

    def ask() -> None:
        try:
            status = requests.head(url, timeout=REACH_SECONDS).status_code
            answers.append(status < 500 and status != 407)  # else a proxy refuses
        except requests.exceptions.InvalidSchema:
            answers.append(True)  # ftp: only TFDS can tell
        except (requests.exceptions.RequestException, OSError):
            answers.append(False)

    # In a thread because looking up the host's address obeys no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return any(answers)


def _places(
    builder: tfds.core.DatasetBuilder, validation: int | float | None, seed: int
) -> dict[str, tuple[str, np.ndarray]]:
    """Returns the TFDS split and the indices in it of each of our splits."""
    sizes = {name: int(split.num_examples) for name, split in builder.info.splits.items()}
    sizes = {name: size for name, size in sizes.items() if size}
    train = "train" if "train" in sizes or len(sizes) != 1 else next(iter(sizes))
    if train not in sizes:
        raise InputError(
            f"Expected {builder.info.full_name} to have a split `train` with examples. "
            f"Received: splits {sorted(sizes)}"
        )
    own = [s for s in SPLITS[1:] if s in sizes and s != train]
    parts = hold_out(
        sizes[train],
        has_validation="validation" in own,
        has_test="test" in own,
        validation=validation,
        seed=seed,
        last=True,
    )
    places = {split: (train, indices) for split, indices in parts.items()}
    return places | {split: (split, np.arange(sizes[split])) for split in own}


def _license(builder: tfds.core.DatasetBuilder) -> str:
    stated = getattr(builder.info.redistribution_info, "license", "")
    return _LICENSES.get(builder.name) or stated or "not stated by TFDS"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
