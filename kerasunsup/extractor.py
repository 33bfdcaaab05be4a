"""The frozen classifier that looks at samples, itself an entry of the zoo.

A number measured with it holds for this one network only, so each protocol names the sha256 of
its files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kerasunsup.errors import InputError

if TYPE_CHECKING:
    from kerasunsup.data import Dataset

FAMILY = "classifier"


@dataclass(frozen=True)
class Extractor:
    """A frozen classifier.

    Attributes:
        model: Answers `encode` (output `latent`) and `classify` (output `label`).
        name: What it is called in protocols.
        identity: 8 hex digits that stand for its weights: `Card.identity`.
    """

    model: Any
    name: str
    identity: str

    def __str__(self) -> str:
        return f"{self.name} {self.identity}"


class Images:
    """uint8 images, and what an extractor makes of them when it is asked.

    Args:
        images: `(n, height, width, channels)`: uint8, or float in [0, 1], which is clipped and
            rounded so that no rounding tells samples from data.
        extractor: Called when features or labels are needed.

    Raises:
        InputError: A value is NaN or infinite.
    """

    def __init__(self, images: np.ndarray, extractor: Callable[[], Extractor]) -> None:
        if images.dtype != np.uint8:
            if not np.isfinite(images).all():
                raise InputError(
                    "Samples must be finite to be measured. Received: "
                    f"{int((~np.isfinite(images)).sum())} NaN or infinite of {images.size} values"
                )
            images = np.rint(np.clip(images, 0, 1) * np.float32(255)).astype("uint8")
        self.pixels = images
        self._extractor = extractor

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def flat(self) -> np.ndarray:
        """float32 pixels in [0, 1], `(n, d)`."""
        return self.pixels.reshape(len(self), -1) / np.float32(255)

    @cached_property
    def features(self) -> np.ndarray:
        """Features of the extractor, `(n, d)`."""
        return self._extractor().model.encode(self.pixels)["latent"].reshape(len(self), -1)

    @cached_property
    def labels(self) -> np.ndarray:
        """Most probable class under the extractor, `(n,)`."""
        return np.ravel(self._extractor().model.classify(self.pixels)["label"])


def entry_for(data: Dataset) -> str:
    """Name of the trained classifier of exactly these data, "" if there is none.

    A classifier that was trained on another split may have seen test examples, so the
    fingerprints must agree. Of several, `classifier_<data set>` is taken, else the first by name.
    """
    from kerasunsup import zoo  # an extractor is an entry: the one import against the direction

    found = []
    for name in zoo.list_models(family=FAMILY):
        try:
            if zoo.card(name).data_fingerprint == data.fingerprint:
                found.append(name)
        except InputError:  # a recipe that has not been trained
            continue
    own = f"{FAMILY}_{data.name}"
    return own if own in found else min(found, default="")


def load(name: str) -> Extractor:
    """The extractor of an entry, its files checked against the card.

    Raises:
        InputError: No such entry, or it has not been trained.
        IntegrityError: A file differs from its card.
    """
    from kerasunsup import zoo
    from kerasunsup.export import ServedModel

    return Extractor(ServedModel(zoo.saved_model(name)), name, zoo.card(name).identity)
