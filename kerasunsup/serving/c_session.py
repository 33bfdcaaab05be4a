"""A SavedModel through TensorFlow's C session loader, as TensorFlow Serving loads it.

`TF_LoadSessionFromSavedModel` and `TF_SessionRun` of the library in the wheel, by ctypes: no Python
TensorFlow, no Keras, no kerasunsup. Only TensorFlow's generated protocol buffers are imported.
Importing the real `tensorflow` in the same process crashes it, so this runs as a script, started by
`kerasunsup.serving.runtime`.
"""

from __future__ import annotations

import ctypes as c
import hashlib  # noqa: F401  before the library: its own OpenSSL symbols break a later import
import importlib.util
import os
import pickle
import ssl  # noqa: F401
import sys
import time
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

INSTALLED = Path(str(importlib.util.find_spec("tensorflow").origin)).parent  # type: ignore[union-attr]
ROOT = Path(os.environ.get("LIBTENSORFLOW", "") or INSTALLED)

# The protocol buffers without the package around them.
_stand_in = types.ModuleType("tensorflow")
_stand_in.__path__ = [str(INSTALLED)]
sys.modules["tensorflow"] = _stand_in

from tensorflow.core.framework import tensor_pb2  # noqa: E402
from tensorflow.core.protobuf import meta_graph_pb2  # noqa: E402

STRING = 7
TYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 7: "object", 9: "int64", 10: "bool"}
OK, INVALID_ARGUMENT = 0, 3


class Failure(Exception):
    """An error of the runtime, with its code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Output(c.Structure):
    _fields_ = (("operation", c.c_void_p), ("index", c.c_int))


class _Buffer(c.Structure):
    _fields_ = (("data", c.c_void_p), ("length", c.c_size_t), ("deallocator", c.c_void_p))


class _String(c.Structure):  # TF_TString
    _fields_ = (("bytes", c.c_ubyte * 24),)


def _library() -> c.CDLL:
    c.CDLL(str(ROOT / "libtensorflow_framework.so.2"), mode=c.RTLD_GLOBAL)
    library = c.CDLL(str(ROOT / "libtensorflow_cc.so.2"), mode=c.RTLD_GLOBAL)
    pointer, text, size = c.c_void_p, c.c_char_p, c.c_size_t
    for name, result, arguments in (
        ("TF_Version", text, []),
        ("TF_NewStatus", pointer, []),
        ("TF_DeleteStatus", None, [pointer]),
        ("TF_GetCode", c.c_int, [pointer]),
        ("TF_Message", text, [pointer]),
        ("TF_NewSessionOptions", pointer, []),
        ("TF_NewGraph", pointer, []),
        ("TF_NewBuffer", c.POINTER(_Buffer), []),
        (
            "TF_LoadSessionFromSavedModel",
            pointer,
            [
                *(pointer, pointer, text, c.POINTER(text), c.c_int),
                *(pointer, c.POINTER(_Buffer), pointer),
            ],
        ),
        ("TF_GraphOperationByName", pointer, [pointer, text]),
        ("TF_AllocateTensor", pointer, [c.c_int, c.POINTER(c.c_int64), c.c_int, size]),
        ("TF_DeleteTensor", None, [pointer]),
        ("TF_TensorType", c.c_int, [pointer]),
        ("TF_NumDims", c.c_int, [pointer]),
        ("TF_Dim", c.c_int64, [pointer, c.c_int]),
        ("TF_TensorData", pointer, [pointer]),
        ("TF_TensorByteSize", size, [pointer]),
        ("TF_StringInit", None, [pointer]),
        ("TF_StringCopy", None, [pointer, text, size]),
        ("TF_StringGetDataPointer", pointer, [pointer]),
        ("TF_StringGetSize", size, [pointer]),
        (
            "TF_SessionRun",
            None,
            [
                *(pointer, pointer),
                *(c.POINTER(_Output), c.POINTER(pointer), c.c_int) * 2,
                *(pointer, c.c_int, pointer, pointer),
            ],
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


LIBRARY = _library()
VERSION = LIBRARY.TF_Version().decode()


class Session:
    """A loaded SavedModel; `session.run("encode", {"x": array})` gives a dict of arrays.

    Args:
        folder: The SavedModel's folder.

    Raises:
        Failure: It does not load.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._graph = LIBRARY.TF_NewGraph()
        buffer, options = LIBRARY.TF_NewBuffer(), LIBRARY.TF_NewSessionOptions()
        tags = (c.c_char_p * 1)(b"serve")
        with _Status() as status:
            self._session = LIBRARY.TF_LoadSessionFromSavedModel(
                options, None, os.fsencode(folder), tags, 1, self._graph, buffer, status
            )
        content = c.string_at(buffer.contents.data, buffer.contents.length)
        meta = meta_graph_pb2.MetaGraphDef.FromString(content)
        self.signatures = {
            name: signature
            for name, signature in meta.signature_def.items()
            if not name.startswith("__")
        }

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answers one request, with the checks of keys and dtypes that TensorFlow Serving makes.

        Raises:
            Failure: The request is refused.
        """
        if signature not in self.signatures:
            raise Failure(9, f'Serving signature key "{signature}" not found.')
        definition = self.signatures[signature]
        if set(inputs) != set(definition.inputs):
            wanted, got = sorted(definition.inputs), sorted(inputs)
            raise Failure(INVALID_ARGUMENT, f"expected inputs {wanted}, received {got}")
        for name, info in definition.inputs.items():
            if inputs[name].dtype != TYPES[info.dtype]:
                received = f"expected {TYPES[info.dtype]}, received {inputs[name].dtype}"
                raise Failure(INVALID_ARGUMENT, f"input {name}: {received}")
        outputs = list(definition.outputs)
        given = [_to_tensor(inputs[name]) for name in definition.inputs]
        answers = (c.c_void_p * len(outputs))()
        try:
            with _Status() as status:
                LIBRARY.TF_SessionRun(
                    *(self._session, None),
                    self._places(definition.inputs.values()),
                    (c.c_void_p * len(given))(*given),
                    len(given),
                    self._places(definition.outputs.values()),
                    answers,
                    *(len(outputs), None, 0, None, status),
                )
        finally:
            for tensor in given:
                LIBRARY.TF_DeleteTensor(tensor)
        return {name: _to_array(answer) for name, answer in zip(outputs, answers, strict=True)}

    def _places(self, infos: Iterable[Any]) -> c.Array[_Output]:
        names = [info.name.split(":") for info in infos]
        found = [
            _Output(LIBRARY.TF_GraphOperationByName(self._graph, name.encode()), int(index))
            for name, index in names
        ]
        return (_Output * len(found))(*found)


class _Status:
    """A TF_Status that raises on leaving the block."""

    def __enter__(self) -> int:
        self._status = LIBRARY.TF_NewStatus()
        return self._status

    def __exit__(self, *error: object) -> None:
        code, message = LIBRARY.TF_GetCode(self._status), LIBRARY.TF_Message(self._status)
        message = message.decode(errors="replace")
        LIBRARY.TF_DeleteStatus(self._status)
        if code != OK:
            raise Failure(code, message)


def _to_tensor(array: np.ndarray) -> int:
    number = next(number for number, name in TYPES.items() if name == array.dtype)
    shape = (c.c_int64 * array.ndim)(*array.shape)
    length = array.size * c.sizeof(_String) if number == STRING else array.nbytes
    tensor = LIBRARY.TF_AllocateTensor(number, shape, array.ndim, length)
    data = LIBRARY.TF_TensorData(tensor)
    if number == STRING:
        for i, value in enumerate(array.flat):
            place = data + i * c.sizeof(_String)
            LIBRARY.TF_StringInit(place)
            LIBRARY.TF_StringCopy(place, value, len(value))
    else:
        c.memmove(data, np.ascontiguousarray(array).ctypes.data, length)
    return tensor


def _to_array(tensor: int) -> np.ndarray:
    number = LIBRARY.TF_TensorType(tensor)
    shape = [LIBRARY.TF_Dim(tensor, i) for i in range(LIBRARY.TF_NumDims(tensor))]
    data = LIBRARY.TF_TensorData(tensor)
    array = np.empty(shape, TYPES[number])
    if number == STRING:
        for i in range(array.size):
            place = data + i * c.sizeof(_String)
            array.flat[i] = c.string_at(
                LIBRARY.TF_StringGetDataPointer(place), LIBRARY.TF_StringGetSize(place)
            )
    else:
        c.memmove(array.ctypes.data, data, LIBRARY.TF_TensorByteSize(tensor))
    LIBRARY.TF_DeleteTensor(tensor)
    return array


# Tensors of requests


def from_proto(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """A TensorProto as TensorFlow writes it -> array."""
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.dtype == STRING:
        return np.array([*proto.string_val, None], object)[:-1].reshape(shape)
    dtype = TYPES[proto.dtype]
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    fields = {"float32": "float_val", "float64": "double_val", "int64": "int64_val"}
    values = getattr(proto, "bool_val" if dtype == "bool" else fields.get(dtype, "int_val"))
    values = np.array(values, dtype)
    return np.resize(values, shape) if values.size else np.zeros(shape, dtype)


def to_proto(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Array -> TensorProto."""
    proto = tensor_pb2.TensorProto()
    proto.dtype = next(number for number, name in TYPES.items() if name == array.dtype)
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if proto.dtype == STRING:
        proto.string_val.extend(array.flat)
    else:
        proto.tensor_content = np.ascontiguousarray(array).tobytes()
    return proto


# The process


def main() -> None:
    """Answers pickled (folder, signature, inputs) from stdin on stdout until stdin ends.

    With None for the signature it loads the folder, be it loaded or not.
    """
    loaded: tuple[str, Session] | None = None
    while True:
        try:
            folder, signature, inputs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: object = {}
        try:
            began = time.perf_counter()
            if signature is None or loaded is None or loaded[0] != folder:
                loaded = folder, Session(folder)
            if signature is not None:
                began = time.perf_counter()
                answer = loaded[1].run(signature, inputs)
        except Failure as error:
            answer = error.code, str(error)
        seconds = time.perf_counter() - began
        foreign = {"keras", "kerasunsup", "tensorflow.python"} & set(sys.modules)
        pickle.dump((VERSION, sorted(foreign), seconds, answer), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
