"""Verbs in other runtimes' formats: ONNX, LiteRT, OpenVINO; each file checked against the model.

One file a verb, names of inputs and outputs kept, batch free. Outputs of text, the names of
classes, are left out: `class_names.txt` has them, a line for each class. Needs an extra:
pip install 'kerasunsup[onnx]', [litert] or [openvino].
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from kerasunsup.errors import InputError
from kerasunsup.files import atomic_folder
from kerasunsup.models import UnsupervisedModel
from kerasunsup.serving import warmup
from kerasunsup.serving.warmup import Arrays

BATCHES = (1, 3)
CLASS_NAMES = "class_names.txt"


@dataclass(frozen=True)
class Format:
    """How verbs are written in one format, and read back.

    Attributes:
        packages: Modules that it needs, those of the extra of its name.
        suffix: Of its files.
        write: (graph, specs, weights, file) writes one verb.
        read: file -> function from named arrays to named arrays.
    """

    packages: tuple[str, ...]
    suffix: str
    write: Callable[[Any, list[tf.TensorSpec], list[Any], Path], None]
    read: Callable[[Path], Callable[[Arrays], Arrays]]


def convert(
    model: UnsupervisedModel, folder: str | Path, name: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Writes every verb that the format can hold to a file of its own, atomically.

    Args:
        model: A trained model.
        folder: Where the files go: replaced if it is there.
        name: "onnx", "litert" or "openvino".

    Returns:
        Verb -> largest difference from the model (see `warmup.differences`), for those written;
        verb -> why, for those that the format has no operations for.

    Raises:
        InputError: An unknown format, a package is missing, or no verb can be converted.
        OutputError: The folder cannot be written.
    """
    if name not in FORMATS:
        known = ", ".join(["savedmodel", *FORMATS])
        raise InputError(f"`format` must be one of {known}. Received: {name!r}")
    chosen = FORMATS[name]
    for package in chosen.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                f"The format {name} needs more packages: pip install 'kerasunsup[{name}]'. "
                f"Received: {error}"
            ) from error
    written: dict[str, float] = {}
    left_out: dict[str, str] = {}
    weights = [weight.value for weight in model.weights]
    with atomic_folder(folder) as temporary:
        for verb in model.verbs:
            model.check_ready(verb)
            bound = model.verb(verb)
            path = temporary / f"{verb}{chosen.suffix}"
            graph = tf.function(
                numbers_only(bound.graph), input_signature=bound.input_specs, autograph=False
            )
            try:
                with _quiet():
                    chosen.write(graph, bound.input_specs, weights, path)
                    written[verb] = _check(model, verb, chosen.read(path))
            except Exception as error:  # whatever a converter or runtime raises
                reason = str(error).replace(f"{temporary}/", "").strip() or type(error).__name__
                left_out[verb] = reason.splitlines()[0][:200]
                for file in temporary.glob(f"{verb}.*"):
                    file.unlink()
        if getattr(model, "class_names", None):
            (temporary / CLASS_NAMES).write_text("\n".join(model.class_names) + "\n", "utf-8")
        if not written:
            raise InputError(f"No verb can be converted to {name}. Received: {left_out}")
    return written, left_out


def numbers_only(graph: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The graph of a verb without its outputs of text, which other runtimes lack or read badly."""
    return lambda *tensors: {
        name: value for name, value in graph(*tensors).items() if value.dtype != tf.string
    }


def _check(model: UnsupervisedModel, verb: str, run: Callable[[Arrays], Arrays]) -> float:
    """The largest difference from the model over several batch sizes."""
    bound, found = model.verb(verb), 0.0
    for batch in BATCHES:
        inputs = warmup.example_inputs(model, bound.input_specs, batch)
        graph = numbers_only(bound.graph)(*(tf.constant(value) for value in inputs.values()))
        wanted = {key: value.numpy() for key, value in graph.items()}
        found = max(found, *warmup.differences(wanted, run(inputs)).values())
    if found > warmup.TOLERANCE:
        raise ValueError(f"answers differ from the model's by {found:.3g}")
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what converters print and log, those in C++ too: what matters is raised."""
    sys.stdout.flush()
    sys.stderr.flush()
    terminals = {stream: os.dup(stream) for stream in (1, 2)}
    logging.disable(logging.ERROR)
    try:
        with open(os.devnull, "wb") as nothing:
            for stream in terminals:
                os.dup2(nothing.fileno(), stream)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        for stream, terminal in terminals.items():
            os.dup2(terminal, stream)
            os.close(terminal)


# ONNX


def _write_onnx(graph: Any, specs: list[tf.TensorSpec], weights: list[Any], path: Path) -> None:
    import tf2onnx

    tf2onnx.convert.from_function(graph, input_signature=specs, output_path=str(path))


def _read_onnx(path: Path) -> Callable[[Arrays], Arrays]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


# LiteRT


def _write_litert(graph: Any, specs: list[tf.TensorSpec], weights: list[Any], path: Path) -> None:
    owner = tf.Module()
    owner.weights, owner.graph = weights, graph
    concrete = graph.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    path.write_bytes(converter.convert())


def _read_litert(path: Path) -> Callable[[Arrays], Arrays]:
    from ai_edge_litert.interpreter import Interpreter

    answer = Interpreter(model_path=str(path)).get_signature_runner()
    return lambda inputs: answer(**inputs)


# OpenVINO


def _write_openvino(graph: Any, specs: list[tf.TensorSpec], weights: list[Any], path: Path) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(graph), path, compress_to_fp16=False)


def _read_openvino(path: Path) -> Callable[[Arrays], Arrays]:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Arrays) -> Arrays:
        # Names with a colon are TensorFlow's own, kept beside ours.
        return {
            next(name for name in port.names if ":" not in name): value
            for port, value in compiled(inputs).items()
        }

    return run


FORMATS = {
    "onnx": Format(("tf2onnx", "onnx", "onnxruntime"), ".onnx", _write_onnx, _read_onnx),
    "litert": Format(("ai_edge_litert",), ".tflite", _write_litert, _read_litert),
    "openvino": Format(("openvino",), ".xml", _write_openvino, _read_openvino),
}
