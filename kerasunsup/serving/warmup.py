"""Requests that a server replays before it takes others, kept with the answers they must get.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of `PredictionLog`s, each signature at
batch 1 and 8. TensorFlow Serving runs them when it loads a version; a request that fails keeps the
version from being served. It ignores the answers, by which we prove that a runtime computes right.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from kerasunsup.errors import InputError
from kerasunsup.models.verbs import seed_rows

if TYPE_CHECKING:
    from kerasunsup.models import UnsupervisedModel

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
BATCHES = (1, 8)
TOLERANCE = 1e-4

Arrays = dict[str, np.ndarray]


def example_inputs(
    model: UnsupervisedModel, specs: list[tf.TensorSpec], rows: int, seed: int = 0
) -> Arrays:
    """Valid inputs of a signature, drawn by `seed`: name -> array of `rows` rows."""
    rng = np.random.default_rng(seed)
    return {spec.name: _example_input(model, spec, rows, rng) for spec in specs}


def _example_input(
    model: Any, spec: tf.TensorSpec, rows: int, rng: np.random.Generator
) -> np.ndarray:
    if spec.name == "seed":
        return seed_rows(rows, int(rng.integers(2**31)))
    if spec.name == "image_bytes":
        pixels = rng.integers(0, 256, (rows, *model.input_shape[1:])).astype("uint8")
        return as_objects([_png(one) for one in pixels])
    shape = (rows, *spec.shape[1:])
    low, high = model.limits_of(spec.name) or (0, 1)
    if spec.dtype.is_integer:
        return rng.integers(low, high + 1, shape).astype("int32")
    values = low + (high - low) * rng.integers(0, 256, shape) / 255  # as pixels
    return values.astype(spec.dtype.as_numpy_dtype)


def as_objects(values: list[Any]) -> np.ndarray:
    """Byte strings as an array that does not cut them at zeros."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _png(pixels: np.ndarray) -> bytes:
    from kerasunsup.mosaic import as_image

    file = io.BytesIO()
    as_image(pixels).save(file, "PNG")
    return file.getvalue()


# The file


def write(folder: Path, answers: Mapping[tuple[str, int], tuple[Arrays, Arrays]]) -> None:
    """Writes the warm-up file of a SavedModel.

    Args:
        folder: The SavedModel.
        answers: (signature, batch) -> inputs and outputs.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for (signature, _), (inputs, outputs) in answers.items():
            log = prediction_log_pb2.PredictionLog()
            request, response = log.predict_log.request, log.predict_log.response
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString(deterministic=True))


def read(folder: str | Path) -> Iterator[tuple[str, Arrays, Arrays]]:
    """Yields (signature, inputs, wanted outputs) of a SavedModel's warm-up file.

    Raises:
        InputError: There is no such file, or it is damaged.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    path = Path(folder) / WARMUP_FILE
    if not path.is_file():
        raise InputError(f"{path} must exist: export the model again. Received: none")
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record).predict_log
            yield (
                log.request.model_spec.signature_name,
                {name: tf.make_ndarray(value) for name, value in log.request.inputs.items()},
                {name: tf.make_ndarray(value) for name, value in log.response.outputs.items()},
            )
    except tf.errors.DataLossError as error:
        raise InputError(f"{path} is damaged: export the model again. Received: {error}") from error


def differences(wanted: Arrays, got: Arrays) -> dict[str, float]:
    """Largest difference of each output, as a part of its largest value where that exceeds 1.

    Infinite where an output is missing or has another shape; texts differ by 0 or infinity.
    """
    found = {}
    for name in {*wanted, *got}:
        one, other = wanted.get(name), got.get(name)
        if one is None or other is None or one.shape != other.shape:
            found[name] = float("inf")
        elif one.dtype.kind in "fiub":
            one, other = one.astype("float64"), other.astype("float64")
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            gap = np.where(same, 0.0, np.nan_to_num(np.abs(one - other), nan=np.inf))
            scale = np.abs(one[np.isfinite(one)]).max(initial=1.0)
            found[name] = float(gap.max(initial=0.0) / scale)
        else:
            found[name] = 0.0 if np.array_equal(one, other) else float("inf")
    return found
