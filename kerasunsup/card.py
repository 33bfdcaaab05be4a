"""Cards: what an entry is and how good it was measured. No TensorFlow, no NumPy."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kerasunsup.errors import InputError, IntegrityError
from kerasunsup.files import atomic_write, sha256_of
from kerasunsup.metrics import Metric
from kerasunsup.parity import Parity
from kerasunsup.recipe import Recipe, suggest

COPY = "assets.extra/card.json"
"""Where a published SavedModel holds its own card, so that the folder says what it is."""


class UnknownMetricError(InputError, KeyError):
    """No metric, or several, of this name."""

    __str__ = Exception.__str__


class Metrics(Mapping[str, Metric]):
    """Name of a protocol -> measurement; a prefix that fits one name finds it too.

    Example:

        card.metrics["nll"].value    # finds nll_k5000
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = dict(metrics)

    def __getitem__(self, name: str) -> Metric:
        if name in self._metrics:
            return self._metrics[name]
        found = [full for full in self._metrics if full.startswith(name)]
        if len(found) == 1:
            return self._metrics[found[0]]
        if found:
            raise UnknownMetricError(
                f"Several metrics begin with {name!r}: name one of {', '.join(sorted(found))}. "
                f"Received: {name!r}"
            )
        raise UnknownMetricError(
            f"No such metric was measured. {suggest(name, self._metrics)} Received: {name!r}"
        )

    def __contains__(self, name: object) -> bool:
        return any(full.startswith(str(name)) for full in self._metrics)

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def __repr__(self) -> str:
        return f"Metrics({self._metrics!r})"


@dataclass(frozen=True)
class InputSpec:
    """What one example must be."""

    shape: tuple[int, ...]
    dtype: str
    value_range: tuple[float, float] | None


@dataclass(frozen=True)
class Card:
    """A measurement of one version of an entry, with all that is needed to repeat it.

    Attributes:
        recipe: How it was trained.
        verbs: What the model can do.
        metrics: Name of a protocol -> Metric; see `Metrics`.
        sha256: Path inside the SavedModel's folder -> hex digest, for every file.
        input: Shape, dtype and value range of one example.
        data_fingerprint: sha256 of the data set.
        versions: python, tensorflow, keras, kerasunsup.
        wall_time_s: Seconds of training.
        parameters: Number of trainable parameters.
        git_commit: Commit of the code that measured it, where known.
        calibration: Constants fitted after training, for example the anomaly threshold.
        health: Findings about a GAN in words, none for a healthy one; None for other families.
        class_names: Names of the classes that `classify` answers, in the order of their numbers.
        parity: How other runtimes answer it, where that was measured.
        first_identity: The `identity` that these weights were first published with.
    """

    recipe: Recipe
    verbs: tuple[str, ...]
    metrics: Mapping[str, Metric]
    sha256: Mapping[str, str]
    input: InputSpec
    data_fingerprint: str
    versions: Mapping[str, str]
    wall_time_s: float
    parameters: int
    git_commit: str | None = None
    calibration: Mapping[str, float] = field(default_factory=dict)
    health: tuple[str, ...] | None = None
    class_names: tuple[str, ...] = ()
    parity: Parity | None = None
    first_identity: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", Metrics(self.metrics))

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def family(self) -> str:
        return self.recipe.family

    @property
    def dataset(self) -> str:
        return self.recipe.data.name

    @property
    def version(self) -> int:
        return self.recipe.version

    @property
    def license(self) -> str:
        return self.recipe.license

    @property
    def seed(self) -> int:
        return self.recipe.train.seed

    @property
    def identity(self) -> str:
        """8 hex digits that protocols call its weights by.

        Of a sha256 over the files, or those that the same weights had before they were exported
        anew.
        """
        files = json.dumps(dict(self.sha256), sort_keys=True)
        return self.first_identity or hashlib.sha256(files.encode()).hexdigest()[:8]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Card:
        """Reads a card.json.

        Raises:
            InputError: Missing, truncated or not a card.
        """
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                recipe=Recipe.load(table["recipe"]),
                verbs=tuple(table["verbs"]),
                metrics={name: Metric(**value) for name, value in table["metrics"].items()},
                sha256=dict(table["sha256"]),
                input=InputSpec(
                    tuple(table["input"]["shape"]),
                    table["input"]["dtype"],
                    _pair(table["input"]["value_range"]),
                ),
                data_fingerprint=table["data_fingerprint"],
                versions=dict(table["versions"]),
                wall_time_s=table["wall_time_s"],
                parameters=table["parameters"],
                git_commit=table["git_commit"],
                calibration=dict(table["calibration"]),
                health=None if table.get("health") is None else tuple(table["health"]),
                class_names=tuple(table.get("class_names", ())),
                parity=Parity.from_dict(table["parity"]) if "parity" in table else None,
                first_identity=table.get("first_identity"),
            )
        except OSError as error:
            raise InputError(f"Cannot read the card {path}. Received: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} must be a card written by kerasunsup: write it again with "
                f"`kerasunsup evaluate`. Received: {type(error).__name__}: {error}"
            ) from error

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes a card.json, atomically.

        Raises:
            OutputError: The file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        atomic_write(Path(path), text + "\n")

    def to_dict(self) -> dict[str, Any]:
        """The card as the tables of its JSON file."""
        return {
            "name": self.name,
            "version": self.version,
            "family": self.family,
            "dataset": self.dataset,
            "license": self.license,
            "verbs": list(self.verbs),
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "input": {
                "shape": list(self.input.shape),
                "dtype": self.input.dtype,
                "value_range": self.input.value_range and list(self.input.value_range),
            },
            "parameters": self.parameters,
            "calibration": dict(self.calibration),
            **({} if self.health is None else {"health": list(self.health)}),
            **({"class_names": list(self.class_names)} if self.class_names else {}),
            **({} if self.parity is None else {"parity": self.parity.to_dict()}),
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "data_fingerprint": self.data_fingerprint,
            "versions": dict(self.versions),
            "git_commit": self.git_commit,
            "wall_time_s": self.wall_time_s,
            "sha256": dict(self.sha256),
            **({} if self.first_identity is None else {"first_identity": self.first_identity}),
        }


def hash_folder(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Path below `folder` -> sha256 of every file in it but its card, sorted."""
    folder = Path(folder)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: sha256_of(path)
        for name, path in sorted(files.items())
        if path.is_file() and name != COPY
    }


def check_folder(folder: str | os.PathLike[str], card_path: str | os.PathLike[str]) -> None:
    """Compares every file of a SavedModel with what its card records, its copy of it included.

    Args:
        folder: The SavedModel.
        card_path: Its card.json.

    Raises:
        IntegrityError: A file is missing, changed, or not on the card; names the first.
    """
    sha256, actual = Card.read(card_path).sha256, hash_folder(folder)
    for name in sorted({*sha256, *actual}):
        path = Path(folder, name)
        if name not in actual:
            raise IntegrityError(f"{path} must exist: install again or restore it. Received: none")
        if name not in sha256:
            raise IntegrityError(f"{path} is not on the entry's card: remove it. Received: a file")
        if actual[name] != sha256[name]:
            raise IntegrityError(
                f"{path} has changed since its card was written: install again or restore it. "
                f"Expected sha256 {sha256[name]}. Received: {actual[name]}"
            )
    copy = Path(folder, COPY)
    if copy.is_file() and copy.read_bytes() != Path(card_path).read_bytes():
        raise IntegrityError(
            f"{copy} must be equal to {card_path}: install again or restore it. "
            "Received: another content"
        )


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))
