"""A stub with TensorFlow Serving's two APIs over the C session: for the clients, not for users.

python stub_server.py NAME FOLDER: prints its REST and gRPC ports, serves until stdin ends.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np

# By its folder: kerasunsup must not be imported here.
sys.path.append(str(Path(__file__).parents[1] / "kerasunsup" / "serving"))

from c_session import TYPES, Failure, Session, from_proto, to_proto
from google.protobuf import json_format
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

NAME, FOLDER = sys.argv[1], Path(sys.argv[2])
SESSION = Session(FOLDER)
LOCK = threading.Lock()


def answer(model: str, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if model != NAME:
        raise Failure(5, f"Servable not found for request: Latest({model})")
    with LOCK:
        return SESSION.run(signature or "serving_default", inputs)


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """gRPC: Predict."""

    def Predict(self, request: Any, context: Any) -> Any:
        response = predict_pb2.PredictResponse()
        inputs = {name: from_proto(value) for name, value in request.inputs.items()}
        spec = request.model_spec
        try:
            outputs = answer(spec.name, spec.signature_name, inputs)
        except Failure as error:
            code = next(one for one in grpc.StatusCode if one.value[0] == error.code)
            context.abort(code, str(error))
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(to_proto(value))
        return response


class Handler(BaseHTTPRequestHandler):
    """REST: status, metadata, predict by rows and by columns."""

    def do_GET(self) -> None:
        if self.path == f"/v1/models/{NAME}":
            state = {"version": FOLDER.name, "state": "AVAILABLE"}
            self.reply(200, {"model_version_status": [state]})
        elif self.path == f"/v1/models/{NAME}/metadata":
            signatures = {
                name: json_format.MessageToDict(value, preserving_proto_field_name=True)
                for name, value in SESSION.signatures.items()
            }
            self.reply(200, {"metadata": {"signature_def": {"signature_def": signatures}}})
        else:
            self.reply(404, {"error": f"Malformed request: GET {self.path}"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        signature = body.get("signature_name", "serving_default")
        model = self.path.removeprefix("/v1/models/").removesuffix(":predict")
        by_rows = "instances" in body
        try:
            columns = body.get("inputs")
            if by_rows:
                keys = body["instances"][0]
                columns = {key: [row[key] for row in body["instances"]] for key in keys}
            wanted = SESSION.signatures[signature].inputs
            inputs = {key: decode(value, wanted[key].dtype) for key, value in columns.items()}
            outputs = {
                key: to_json(value) for key, value in answer(model, signature, inputs).items()
            }
        except Failure as error:
            self.reply(404 if error.code == 5 else 400, {"error": str(error)})
            return
        single = next(iter(outputs.values())) if len(outputs) == 1 else None
        if not by_rows:
            self.reply(200, {"outputs": outputs if single is None else single})
        elif single is None:
            rows = zip(*outputs.values(), strict=True)
            objects = [dict(zip(outputs, row, strict=True)) for row in rows]
            self.reply(200, {"predictions": objects})
        else:
            self.reply(200, {"predictions": single})

    def reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def decode(value: list[Any], dtype: int) -> np.ndarray:
    if TYPES[dtype] == "object":
        array = np.empty(len(value), object)
        array[:] = [base64.b64decode(one["b64"]) for one in value]
        return array
    return np.array(value, TYPES[dtype])


def to_json(value: np.ndarray) -> list[Any]:
    return [one.decode() for one in value] if value.dtype == object else value.tolist()


def main() -> None:
    rest = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    server = grpc.server(ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert not {"keras", "kerasunsup", "tensorflow.python"} & set(sys.modules)
    print(rest.server_address[1], port, flush=True)
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
