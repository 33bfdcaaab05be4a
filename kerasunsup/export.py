"""Model -> SavedModel with its verbs as signatures, ready for TensorFlow Serving.

A folder holds the graph with a signature per verb and `serving_default` (the family's main verb),
and in `assets.extra/model.keras` the Keras model without optimiser, to finetune or go on from.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasunsup.errors import InputError, KerasunsupError
from kerasunsup.files import atomic_folder
from kerasunsup.models import UnsupervisedModel
from kerasunsup.models.verbs import BoundVerb

KERAS_FILE = Path("assets.extra", "model.keras")
TOLERANCE = 1e-4


def export(model: UnsupervisedModel, folder: str | Path) -> Path:
    """Writes `model` as one SavedModel, checked against the model, atomically.

    Signatures take `x` (float32, in the model's value range), `latent` (float32) or `seed`
    (int32 `(batch, 2)`, one row (seed, index) a sample), those of a conditional model also `label`
    (int32 `(batch,)`), and return dicts of named outputs. Every
    input and output has a free batch dimension.

    Args:
        model: A trained model of any family, or your own subclass with verbs.
        folder: Where the SavedModel goes: replaced if it is there.

    Returns:
        The folder.

    Raises:
        InputError: Not a model of ours, or a verb that is not ready.
        OutputError: The folder cannot be written.
    """
    if not isinstance(model, UnsupervisedModel):
        raise InputError(f"`model` must be a kerasunsup model. Received: {type(model).__name__}")
    for name in model.verbs:
        model.check_ready(name)
    folder = Path(folder)
    finished = model.without_training_state()
    with atomic_folder(folder) as temporary:
        archive = keras.export.ExportArchive()
        for name in finished.verbs:
            bound = finished.verb(name)
            archive.add_endpoint(name, bound.graph, bound.input_specs)
        main = finished.verb(finished.main_verb)
        archive.add_endpoint("serving_default", main.graph, main.input_specs)
        archive.write_out(str(temporary), verbose=False)
        path = temporary / KERAS_FILE
        path.parent.mkdir()
        finished.save(path)
        _compare(model, ServedModel(temporary))
    return folder


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


def _compare(model: UnsupervisedModel, served: ServedModel) -> None:
    """Raises unless every signature answers as the model does."""
    rng = np.random.default_rng(0)
    for name in model.verbs:
        bound = model.verb(name)
        label = [0, 1, 0] if bound.classes else None
        given: Any = 3
        if bound.argument != "seed":
            given = rng.random((3, *bound.input_specs[0].shape[1:]), dtype="float32")
            if bound.argument == "x" and model.value_range:
                low, high = model.value_range
                given = low + (high - low) * given
        wanted, got = bound(given, label=label), served.verb(name)(given, label=label)
        for output in wanted:
            if not np.allclose(
                wanted[output], got[output], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
            ):
                raise KerasunsupError(
                    f"The exported signature `{name}` differs from the model in `{output}`: a "
                    "verb must be deterministic and must not depend on Python state."
                )


class _CallableModule(types.ModuleType):
    """Makes `kerasunsup.export` the function as well as this module, in every order of imports."""

    def __call__(self, model: UnsupervisedModel, folder: str | Path) -> Path:
        return export(model, folder)


sys.modules[__name__].__class__ = _CallableModule
