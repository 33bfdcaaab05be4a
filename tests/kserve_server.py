"""A SavedModel behind KServe, for the slow tests: v1 `:predict`, and v2 `infer` per signature.

python kserve_server.py PORT NAME FOLDER, with kserve and tensorflow installed, kerasunsup not.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput

V2_TYPES = {
    "float32": "FP32",
    "int32": "INT32",
    "bool": "BOOL",
    "int64": "INT64",
    "object": "BYTES",
}


class SavedModel(Model):
    """One signature over v2; over v1 the one that the request names."""

    def __init__(self, name: str, loaded: Any, signature: str) -> None:
        super().__init__(name)
        self.loaded, self.signature, self.ready = loaded, signature, True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        if isinstance(payload, InferRequest):
            outputs = self.run(self.signature, {i.name: i.as_numpy() for i in payload.inputs})
            found = []
            for name, value in outputs.items():
                output = InferOutput(name, list(value.shape), V2_TYPES[value.dtype.name])
                output.set_data_from_numpy(value, binary_data=False)
                found.append(output)
            return InferResponse(payload.id or "0", self.name, found)
        signature, rows = payload.get("signature_name", self.signature), payload["instances"]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        outputs = {name: _to_json(value) for name, value in self.run(signature, columns).items()}
        if len(outputs) == 1:
            return {"predictions": next(iter(outputs.values()))}
        names = list(outputs)
        answers = zip(*outputs.values(), strict=True)
        return {"predictions": [dict(zip(names, row, strict=True)) for row in answers]}

    def run(self, signature: str, columns: dict[str, Any]) -> dict[str, np.ndarray]:
        function = self.loaded.signatures[signature]
        try:
            tensors = {
                name: tf.constant(_values(columns[name]), spec.dtype)
                for name, spec in function.structured_input_signature[1].items()
            }
            return {name: value.numpy() for name, value in function(**tensors).items()}
        except (tf.errors.InvalidArgumentError, ValueError, KeyError) as error:
            raise InvalidInput(f"{error}") from error


def _values(column: Any) -> Any:
    if isinstance(column, list) and isinstance(column[0], dict):
        return [base64.b64decode(one["b64"]) for one in column]
    return column


def _to_json(value: np.ndarray) -> Any:
    return [one.decode() for one in value] if value.dtype == object else value.tolist()


if __name__ == "__main__":
    _, port, model_name, folder = sys.argv
    saved = tf.saved_model.load(folder)
    models = [SavedModel(model_name, saved, "serving_default")]
    models += [SavedModel(f"{model_name}-{name}", saved, name) for name in saved.signatures]
    assert "kerasunsup" not in sys.modules
    ModelServer(http_port=int(port), workers=1, enable_grpc=False).start(models)
