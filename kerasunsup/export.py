"""Model -> SavedModel with its verbs as signatures, ready for TensorFlow Serving.

A folder holds the graph with a signature per verb and `serving_default` (the family's main verb),
and in `assets.extra/` the Keras model without optimiser, `model.keras`, to finetune or go on from,
and the warm-up requests. What a server could not run is refused before anything is published.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasunsup.checks import check_labels
from kerasunsup.data.images import why_unreadable
from kerasunsup.errors import InputError, KerasunsupError
from kerasunsup.files import atomic_folder
from kerasunsup.models import UnsupervisedModel
from kerasunsup.models.verbs import BoundVerb, as_array
from kerasunsup.serving import scan, warmup
from kerasunsup.serving.signatures import BYTES, DEFAULT, signatures_of

KERAS_FILE = Path("assets.extra", "model.keras")
FILES_AT_ONCE = 256


def export(model: UnsupervisedModel, folder: str | Path) -> Path:
    """Writes `model` as one SavedModel, checked against the model, atomically.

    Signatures take `x` (float32, in the model's value range), `latent` (float32) or `seed`
    (int32 `(batch, 2)`, one row (seed, index) a sample), those of a conditional model also `label`
    (int32 `(batch,)`), and return dicts of named outputs. Those of a model of images come again
    as `<verb>_bytes`, which take PNG or JPEG files `(batch,)` as `image_bytes`. Every input and
    output has a free batch dimension, rows do not influence each other, and a bad request gets an
    error that names the input.

    Args:
        model: A trained model of any family, or your own subclass with verbs.
        folder: Where the SavedModel goes: replaced if it is there.

    Returns:
        The folder.

    Raises:
        InputError: Not a model of ours, a verb that is not ready, or one that a server could not
            run: XLA, Python or custom ops, a fixed batch, variables written, stateful randomness,
            rows that influence each other. Names the layer.
        OutputError: The folder cannot be written.
    """
    if not isinstance(model, UnsupervisedModel):
        raise InputError(f"`model` must be a kerasunsup model. Received: {type(model).__name__}")
    for name in model.verbs:
        model.check_ready(name)
    folder = Path(folder)
    finished = model.without_training_state()
    with atomic_folder(folder) as temporary:
        write_graph(finished, temporary)
        graph = scan.read(temporary)
        _refuse(finished, scan.problems(graph))
        path = temporary / KERAS_FILE
        path.parent.mkdir()
        finished.save(path)
        answers = _check_answers(model, tf.saved_model.load(str(temporary)).signatures)
        _refuse(finished, scan.fixed_batches(graph))
        warmup.write(temporary, answers)
    return folder


def write_graph(model: UnsupervisedModel, folder: Path) -> None:
    """Writes the SavedModel alone: graph, signatures and weights."""
    archive = keras.export.ExportArchive()
    for name, (graph, specs) in signatures_of(model).items():
        archive.add_endpoint(name, graph, specs)
    # In the model's order, under names that do not change from export to export.
    archive.add_variable_collection("weights", [weight.value for weight in model.weights])
    archive.write_out(str(folder), verbose=False)


class ServedModel:
    """A SavedModel of ours, its verbs answered by the signatures.

    Args:
        folder: A SavedModel written by `export`.

    Attributes:
        model: The Keras model of `assets.extra/model.keras`, loaded in safe mode.
        verbs: Names of the verbs.

    Example:

        served = ServedModel("saved_models/vae_digits/1")
        served.encode(images)["latent"]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "saved_model.pb").is_file():
            raise InputError(
                "Expected a SavedModel folder of kerasunsup.export (saved_model.pb inside). "
                f"Received: {self.folder}"
            )
        if not (self.folder / KERAS_FILE).is_file():
            raise InputError(f"{self.folder} lacks {KERAS_FILE}: export the model again.")
        self.model: UnsupervisedModel = keras.saving.load_model(self.folder / KERAS_FILE)
        self._loaded = tf.saved_model.load(str(self.folder))
        self.verbs = self.model.verbs

    def verb(self, name: str) -> BoundVerb:
        """The verb called `name`, answered by its signature."""
        definition = self.model.verb(name).definition
        return definition.bind(self.model, self._signature(name))

    def from_files(
        self, name: str, files: Sequence[Path], label: int | None = None
    ) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """The verb `name` on PNG and JPEG files, as a server answers their bytes.

        Args:
            name: A verb that takes examples.
            files: The files.
            label: The class of all, for a conditional model.

        Returns:
            Outputs of the files that could be read, in order; and for the others the place in
            `files` and the reason.

        Raises:
            InputError: The model does not take images, or lacks a class.
        """
        classes = self.model.verb(name).classes
        if (classes is None) != (label is None):
            raise InputError(
                f"`{name}` of {'an un' if classes is None else 'a '}conditional model takes "
                f"{'no' if classes is None else 'a'} `label`. Received: label={label!r}"
            )
        more = {} if classes is None else {"label": check_labels(label, classes, "label")}
        signature = self._loaded.signatures.get(name + BYTES)
        if signature is None:
            shape = self.model.input_shape[1:]
            raise InputError(
                f"`{name}` of this model takes no image files but examples of shape {shape}. "
                f"Received: {files[0]}"
            )
        parts: list[dict[str, np.ndarray]] = []
        failed: dict[int, str] = {}

        def answer(places: list[int]) -> None:
            """Answers many at once or, if that fails, each for itself."""
            try:
                contents = tf.constant([files[i].read_bytes() for i in places])
                labels = {key: tf.fill([len(places)], value) for key, value in more.items()}
                outputs = signature(image_bytes=contents, **labels)
                parts.append({key: as_array(value) for key, value in outputs.items()})
            except (tf.errors.OpError, OSError) as error:
                if len(places) == 1:
                    failed[places[0]] = why_unreadable(files[places[0]]) or str(error)
                else:
                    for place in places:
                        answer([place])

        for start in range(0, len(files), FILES_AT_ONCE):
            answer(list(range(len(files)))[start : start + FILES_AT_ONCE])
        keys = parts[0] if parts else ()
        return {key: np.concatenate([part[key] for part in parts]) for key in keys}, failed

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.verbs:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self.verb(name)

    def _signature(self, name: str) -> Callable[..., dict[str, Any]]:
        signature = self._loaded.signatures[name]
        specs = self.model.verb(name).input_specs

        def run(*tensors: tf.Tensor) -> dict[str, Any]:
            inputs = {}
            for spec, tensor in zip(specs, tensors, strict=True):
                pixels = tensor.dtype == tf.uint8 and self.model.value_range == (0.0, 1.0)
                cast = tf.cast(tensor, spec.dtype)
                inputs[spec.name] = cast / 255.0 if pixels else cast
            return signature(**inputs)

        return run


def _refuse(model: UnsupervisedModel, problems: list[scan.Problem]) -> None:
    """Raises for the first problem; names the layer."""
    for problem in problems:
        names = {layer.name for layer in model._flatten_layers(include_self=False)}
        parts = problem.node.split("/")  # Keras numbers the scopes of a layer that is called again
        layers = [n for part in parts for n in (part, re.sub(r"_\d+$", "", part)) if n in names]
        where = f"layer {layers[-1]!r}, {problem.node}" if layers else problem.node
        raise InputError(
            f"The signature `{problem.signature}` cannot be served: {where} {problem.reason}. "
            f"Received: {type(model).__name__}"
        )


def _check_answers(model: UnsupervisedModel, loaded: Any) -> Any:
    """Raises unless every signature answers as the model does, each row for itself.

    Returns:
        (signature, batch) -> inputs and outputs, for the warm-up file.
    """
    answers = {}
    for name, (_, specs) in signatures_of(model).items():
        bound = model.verb(model.main_verb if name == DEFAULT else name.removesuffix(BYTES))
        three = warmup.example_inputs(model, specs, 3)
        got = _answer(loaded[name], three, name)
        if "image_bytes" not in three:
            tensors = [tf.constant(value) for value in three.values()]
            wanted = bound.graph(*tensors)
            _agree(name, {key: np.asarray(value) for key, value in wanted.items()}, got)
        _agree(name, got, _answer(loaded[name], three, name))
        one = {key: value[1:2] for key, value in three.items()}
        _agree(
            name, {key: value[1:2] for key, value in got.items()}, _answer(loaded[name], one, name)
        )
        for batch in warmup.BATCHES:  # equal rows: the file stays small
            inputs = {key: np.repeat(value[:1], batch, axis=0) for key, value in three.items()}
            answers[name, batch] = inputs, _answer(loaded[name], inputs, name)
    return answers


def _answer(signature: Any, inputs: warmup.Arrays, name: str) -> warmup.Arrays:
    tensors = {key: tf.constant(value) for key, value in inputs.items()}
    try:
        outputs = {key: value.numpy() for key, value in signature(**tensors).items()}
    except tf.errors.OpError as error:
        raise InputError(
            f"The signature `{name}` must take batches of any size. Received, for a batch of "
            f"{len(next(iter(inputs.values())))}: {' '.join(error.message.split())}"
        ) from error
    rows = len(next(iter(inputs.values())))
    for key, value in outputs.items():
        if value.ndim == 0 or len(value) != rows:
            raise InputError(
                f"The output `{key}` of the signature `{name}` must have a row for each of the "
                f"request's. Received: shape {value.shape} for {rows} rows"
            )
    return outputs


def _agree(name: str, wanted: warmup.Arrays, got: warmup.Arrays) -> None:
    for output, difference in warmup.differences(wanted, got).items():
        if difference > warmup.TOLERANCE:
            raise KerasunsupError(
                f"The exported signature `{name}` differs from the model, from call to call or "
                f"with the other rows of a batch, in `{output}`: a verb must be deterministic, "
                f"must not depend on Python state, and must treat every row for itself. "
                f"Received: a difference of {difference:.3g}"
            )


class _CallableModule(types.ModuleType):
    """Makes `kerasunsup.export` the function as well as this module, in every order of imports."""

    def __call__(self, model: UnsupervisedModel, folder: str | Path) -> Path:
        return export(model, folder)


sys.modules[__name__].__class__ = _CallableModule
