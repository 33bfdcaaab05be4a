"""Verbs: one graph method becomes a method on arrays, a SavedModel signature and a CLI command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import tensorflow as tf

from kerasunsup.checks import check_array, check_labels, check_whole_numbers
from kerasunsup.errors import InputError

if TYPE_CHECKING:
    from kerasunsup.models.base import UnsupervisedModel

Run = Callable[..., dict[str, tf.Tensor]]

VOCABULARY = (
    "encode",
    "decode",
    "reconstruct",
    "generate",
    "score",
    "assign",
    "classify",
    "predict",
    "discriminate",
)


class verb:  # a decorator, named like one
    """Makes a verb of a graph method `method(self, x) -> dict of tensors`.

    The name of the method's argument says what it takes: `x` (examples, already scaled as the
    networks want them), `latent`, `codes` (whole numbers), or `seed` (int32 `(batch, 2)`: seed and
    index of each sample).
    A second argument `label` (int32 `(batch,)`) is there for models that condition on classes.
    On an instance the verb takes arrays or a batched tf.data.Dataset, checks them, runs them in
    batches through one compiled function and returns a dict of named NumPy arrays:

        @verb
        def encode(self, x):
            return {"latent": self.encoder(x, training=False)}

        model.encode(images, batch_size=256)["latent"]

    A verb whose name Keras uses already is made with `verb(method, name="predict")`.
    """

    def __init__(self, method: Callable[..., dict[str, Any]], name: str = "") -> None:
        self.method = method
        self.name = name
        _, self.argument, *self.conditions = inspect.signature(method).parameters
        self.__doc__ = method.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    @overload
    def __get__(self, model: None, owner: type) -> verb: ...
    @overload
    def __get__(self, model: UnsupervisedModel, owner: type) -> BoundVerb: ...
    def __get__(self, model: UnsupervisedModel | None, owner: type) -> verb | BoundVerb:
        return self if model is None else self.bind(model)

    def bind(self, model: UnsupervisedModel, run: Run | None = None) -> BoundVerb:
        """The verb of `model`, run by its own graph or by `run` (a loaded signature)."""
        kind = GeneratingVerb if self.argument == "seed" else BoundVerb
        return kind(self, model, run)


class BoundVerb:
    """A verb of one model: call it with arrays or a tf.data.Dataset of batches."""

    def __init__(self, definition: verb, model: UnsupervisedModel, run: Run | None = None) -> None:
        self.definition = definition
        self.model = model
        self.run = run
        self.argument = definition.argument
        self.classes = (
            model.labels if definition.conditions else None
        )  # those that `label` chooses from
        self.__doc__ = definition.__doc__
        self.__name__ = definition.name

    @property
    def input_specs(self) -> list[tf.TensorSpec]:
        """What it takes: one named spec for each input of the signature."""
        names = [self.argument, *(self.definition.conditions if self.classes else [])]
        return [self.model.input_spec_of(name) for name in names]

    def __call__(self, x: Any, batch_size: int = 256, label: Any = None) -> dict[str, np.ndarray]:
        spec = self.model.input_spec_of(self.argument)
        shape = tuple(spec.shape[1:])
        check = check_whole_numbers if spec.dtype.is_integer else check_array
        limits = self.model.limits_of(self.argument)
        checked = (
            check(batch, shape=shape, value_range=limits, name=self.argument)
            for batch in batches(x, batch_size, len(shape))
        )
        return self._run(checked, label)

    def graph(self, tensor: Any, *conditions: Any) -> dict[str, Any]:
        """The verb on one batch of raw inputs, inside a graph: what is exported."""
        if self.argument == "x":
            tensor = self.model.preprocess(tensor)
        return self.definition.method(self.model, tensor, *conditions)

    def _run(self, checked: Iterator[np.ndarray], label: Any) -> dict[str, np.ndarray]:
        self.model.check_ready(self.__name__)
        parts = []
        for inputs in self._with_labels(checked, label):
            tensors = [_as_tensor(array) for array in inputs]
            outputs = (self.run or self._compiled(tensors[0].dtype))(*tensors)
            parts.append({name: as_array(value) for name, value in outputs.items()})
        if not parts:
            raise InputError(f"`{self.argument}` must hold at least one batch. Received: none")
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _with_labels(
        self, checked: Iterator[np.ndarray], label: Any
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Each batch, for a conditional model with the classes asked for."""
        if self.classes is None:
            if label is not None:
                raise InputError(f"This model has no classes: leave out label={label!r}.")
            yield from ((batch,) for batch in checked)
            return
        if label is None:
            raise InputError(
                f"`{self.__name__}` of a conditional model needs `label`, one class each."
            )
        labels, start = check_labels(label, self.classes, "label"), 0
        for batch in checked:
            part = (
                labels[start : start + len(batch)] if labels.ndim else np.full(len(batch), labels)
            )
            start += len(batch)
            if len(part) == len(batch):
                yield batch, part
        if labels.ndim and len(labels) != start:
            raise InputError(
                "`label` must be one class, or one for each example. "
                f"Received: {len(labels)} labels for {start} examples"
            )

    def _compiled(self, dtype: tf.DType) -> Any:
        """The compiled graph, kept on the model: tracing costs more than most requests."""
        cache, key = self.model.compiled_verbs, f"{self.__name__}_{dtype.name}"
        if key not in cache:
            first, *others = self.input_specs
            signature = [tf.TensorSpec(first.shape, dtype, name=first.name), *others]
            graph = tf.autograph.experimental.do_not_convert(self.graph)
            cache[key] = tf.function(graph).get_concrete_function(*signature)
        return cache[key]


class GeneratingVerb(BoundVerb):
    """A verb that draws: equal seeds give equal samples, and sample i does not depend on count.

    A conditional model draws classes in turn unless `label` (one, or one for each sample) is given.
    """

    def __call__(  # type: ignore[override]
        self, count: int, seed: int = 0, batch_size: int = 256, label: Any = None
    ) -> dict[str, np.ndarray]:
        rows = seed_rows(count, seed)
        if label is None and self.classes:
            label = np.arange(count) % self.classes
        return self._run(iter(_split(rows, check_batch_size(batch_size))), label)


def as_array(value: tf.Tensor) -> np.ndarray:
    """A tensor as an array; texts as `str`."""
    array = value.numpy()
    return np.strings.decode(array.astype(bytes), "utf-8") if array.dtype == object else array


def seed_rows(count: int, seed: int) -> np.ndarray:
    """Rows (seed, index) for `count` samples, int32 `(count, 2)`.

    Raises:
        InputError: `count` is not positive, or `seed` is not in [0, 2**31).
    """
    if not isinstance(count, int | np.integer) or count < 1:
        raise InputError(f"`count` must be a whole number of at least 1. Received: {count!r}")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**31:
        raise InputError(f"`seed` must be a whole number in [0, 2**31). Received: {seed!r}")
    return np.stack([np.full(count, seed), np.arange(count)], axis=1).astype("int32")


def check_batch_size(batch_size: Any) -> int:
    """Returns `batch_size` if it is a positive whole number."""
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise InputError(
            f"`batch_size` must be a whole number of at least 1. Received: {batch_size!r}"
        )
    return int(batch_size)


def drop_labels(x: Any) -> Any:
    """`x`, `(x,)` or `(x, y)` -> x. Labels are not used; dicts are refused.

    Raises:
        InputError: A dict, or a tuple of more than two.
    """
    if isinstance(x, dict):
        raise InputError(
            "Batches must be `x`, `(x,)` or `(x, y)`; pick the feature out of the dict, for "
            f"example dataset.map(lambda d: d['image']). Received: a dict with keys {sorted(x)}"
        )
    if isinstance(x, tuple):
        if len(x) not in (1, 2) and (len(x) != 3 or x[2] is not None):
            raise InputError(
                f"Batches must be `x`, `(x,)` or `(x, y)`. Received: a tuple of {len(x)}"
            )
        return drop_labels(x[0])
    return x


def labels_of(data: Any) -> Any:
    """`(x, y)` -> y.

    Raises:
        InputError: There are no labels.
    """
    if not isinstance(data, tuple) or len(data) < 2 or data[1] is None:
        raise InputError("This model trains on labels: give batches (x, y). Received: no labels")
    return data[1]


def batches(x: Any, batch_size: int, rank: int) -> Iterator[Any]:
    batch_size = check_batch_size(batch_size)
    x = drop_labels(x)
    if not isinstance(x, tf.data.Dataset):
        array = check_array(x, name="x")
        yield from _split(array, batch_size)
        return
    if drop_labels(x.element_spec).shape.rank == rank:
        x = x.batch(batch_size)
    for batch in x.as_numpy_iterator():
        yield drop_labels(batch)


def _split(array: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(array), batch_size):
        yield array[start : start + batch_size]


def _as_tensor(batch: np.ndarray) -> tf.Tensor:
    kept = batch.dtype in (np.uint8, np.int32)
    return tf.convert_to_tensor(batch if kept else batch.astype("float32", copy=False))
