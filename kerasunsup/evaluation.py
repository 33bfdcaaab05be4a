"""Model + data -> measured numbers, each with its protocol and its baselines."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kerasunsup import extractor
from kerasunsup.errors import InputError
from kerasunsup.examples import split_batches
from kerasunsup.metrics import Metric
from kerasunsup.metrics.likelihood import binarize_static
from kerasunsup.protocols import PROTOCOLS, Protocol, find

if TYPE_CHECKING:
    from kerasunsup.data import Dataset

__all__ = ["PROTOCOLS", "Protocol", "Subject", "evaluate", "protocols_for"]

SECONDS_WITHOUT_PROGRESS = 2.0


def evaluate(
    model_or_path: Any,
    data: Any,
    protocols: Sequence[str] | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Metric]:
    """Measures a model on the test split.

    A SavedModel is measured through its signatures; only likelihoods, which are no verb, come
    from the Keras model inside it.

    Args:
        model_or_path: A model of ours, a `ServedModel`, or a folder: a SavedModel, the versions
            of one, or a training run.
        data: A Dataset, or what `kerasunsup.data.as_dataset` takes.
        protocols: Names such as "mse", "psnr_noise0.5", "nll_k500_n1000" or "linear_probe"; None
            for those that fit the model and the data at little cost.
        seed: First seed of sampling and noise.
        progress: Show progress on a terminal after two seconds.

    Returns:
        Name as given -> Metric.

    Raises:
        InputError: An unknown protocol, or one that does not fit the model or the data.
        KerasunsupError: An impossible number was measured.
    """
    from kerasunsup.data import as_dataset

    if isinstance(protocols, str):
        raise InputError(f"`protocols` must be a list of names. Received: {protocols!r}")
    model = model_or_path
    if isinstance(model_or_path, str | Path):
        from kerasunsup.export import ServedModel

        model = ServedModel(saved_model_folder(Path(model_or_path)))
    with Display(progress) as display:
        subject = Subject(model, as_dataset(data), seed, display)
        names = protocols_for(subject) if protocols is None else protocols
        found = {name: find(name) for name in names}
        for name, (protocol, _) in found.items():
            misfit = protocol.misfit(subject)
            if misfit:
                raise InputError(
                    f"The protocol {name!r} does not fit: {misfit}. "
                    f"Received: {type(subject.keras_model).__name__} on {subject.data.name}"
                )
        return {
            name: protocol.function()(subject, match) for name, (protocol, match) in found.items()
        }


def protocols_for(subject: Subject) -> list[str]:
    """Names of the protocols that fit a model and its data and are measured unasked."""
    names = [p.default(subject) for p in PROTOCOLS.values() if not p.misfit(subject)]
    return [name for name in names if name]


def saved_model_folder(path: Path) -> Path:
    """The SavedModel in `path`: itself, its newest version, or that of a training run.

    Raises:
        InputError: There is none.
    """
    for base in (path, path / "saved_model"):
        if (base / "saved_model.pb").is_file():
            return base
        versions = [p for p in base.glob("*/saved_model.pb") if p.parent.name.isdecimal()]
        if versions:
            return max(versions, key=lambda p: int(p.parent.name)).parent
    raise InputError(
        "Expected the folder of a SavedModel, of its versions or of a finished training run. "
        f"Received: {path}"
    )


class Subject:
    """A model, the data it is measured on, and what protocols share.

    Args:
        model: What has the verbs: a model of ours or a `ServedModel`.
        data: Data set.
        seed: First seed of sampling and noise.
        display: Where progress is shown.

    Attributes:
        keras_model: The Keras model, for what is no verb.
    """

    def __init__(
        self, model: Any, data: Dataset, seed: int = 0, display: Display | None = None
    ) -> None:
        if not hasattr(model, "verbs"):
            raise InputError(
                "Expected a kerasunsup model, a ServedModel or a folder. "
                f"Received: {type(model).__name__}"
            )
        self.model = model
        self.keras_model = getattr(model, "model", model)
        self.data = data
        self.seed = seed
        self.display = display or Display(False)
        self._latents: dict[str, np.ndarray] = {}
        self._kept: dict[str, Any] = {}
        shape = tuple(self.keras_model.input_shape[1:])
        if shape != tuple(data.input_shape):
            raise InputError(
                f"The model takes examples of shape {shape}: give it data like those it was "
                f"trained on. Received: {data.name} with examples of shape "
                f"{tuple(data.input_shape)}"
            )

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """What `compute()` returned the first time that a protocol asked for `key`."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    # The data

    def count(self, split: str) -> int:
        """Number of examples of a split."""
        source = getattr(self.data, split)
        return len(source) if isinstance(source, np.ndarray) else int(source.cardinality())

    @property
    def rank(self) -> int:
        """Largest number of principal components of the train split."""
        return min(self.count("train"), math.prod(self.data.input_shape))

    @property
    def peak(self) -> float:
        """Width of the value range."""
        low, high = self.data.value_range or (0.0, 1.0)
        return high - low

    @cached_property
    def grey_test(self) -> np.ndarray:
        """The test split, scaled."""
        return np.concatenate(list(split_batches(self.data, "test")))

    @cached_property
    def binary_test(self) -> np.ndarray:
        """The test split, binarised once and for all."""
        validation = np.concatenate(list(split_batches(self.data, "validation")))
        return binarize_static(validation, self.grey_test)[1]

    # The extractor

    @cached_property
    def extractor_entry(self) -> str:
        """Name of the classifier that looks at samples of these data, "" if there is none."""
        return extractor.entry_for(self.data)

    @cached_property
    def extractor(self) -> extractor.Extractor:
        """That classifier."""
        return extractor.load(self.extractor_entry)

    # The model

    def has(self, name: str) -> bool:
        """Whether the model has this verb, or the Keras model this method or property."""
        if name in self.model.verbs:
            return True
        member = getattr(type(self.keras_model), name, None)
        return isinstance(member, property) or (
            not hasattr(member, "argument") and callable(getattr(self.keras_model, name, None))
        )

    @property
    def binarized(self) -> bool:
        """Whether the model was trained on binary examples drawn from grey ones."""
        model = self.keras_model
        return getattr(model, "likelihood", "") == "bernoulli" and model.binarization != "none"

    @property
    def seen(self) -> str:
        """What `encode` and `reconstruct` are given, in words."""
        grey = "unbinarised examples" if self.binarized else "examples"
        return f"{grey}, through the posterior mean" if self.has("evidence") else grey

    def run(
        self, verb: str, output: str, batches: Iterable[np.ndarray], split: str = "test"
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (batch, the named output of a verb on it), with progress."""
        with self.display.task(verb, self.count(split)) as advance:
            for batch in batches:
                yield batch, getattr(self.model, verb)(batch)[output]
                advance(len(batch))

    def outputs(self, verb: str, output: str, split: str) -> np.ndarray:
        """One output of a verb on a whole split."""
        batches = split_batches(self.data, split)
        return np.concatenate([y for _, y in self.run(verb, output, batches, split)])

    def latents(self, split: str) -> np.ndarray:
        """Flat latents of a split, `(n, d)`; computed once."""
        if split not in self._latents:
            latent = self.outputs("encode", "latent", split)
            self._latents[split] = latent.reshape(len(latent), -1)
        return self._latents[split]

    @property
    def latent_size(self) -> int:
        """Number of values of a latent, 0 for a model without `encode`."""
        return self.latents("test").shape[1] if self.has("encode") else 0


class Display:
    """Progress bars on a terminal, from the third second on.

    Args:
        show: Whether to show anything.
    """

    def __init__(self, show: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        disable = not (show and console.is_terminal)
        self._bars = Progress(*columns, console=console, transient=True, disable=disable)
        self._timer = threading.Timer(SECONDS_WITHOUT_PROGRESS, self._bars.start)
        self._timer.daemon = True

    def __enter__(self) -> Display:
        if not self._bars.disable:
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._timer.is_alive():
            self._timer.join()
        if self._bars.live.is_started:
            self._bars.stop()

    @contextlib.contextmanager
    def task(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Shows a bar while the block runs; call what is yielded with the examples done."""
        task = self._bars.add_task(description, total=total)
        try:
            yield lambda count: self._bars.advance(task, count)
        finally:
            self._bars.remove_task(task)
