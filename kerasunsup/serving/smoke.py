"""Asks a running server for everything and compares its answers with the stored ones.

    python -m kerasunsup.serving.smoke NAME=FOLDER … [--rest URL] [--grpc HOST:PORT]

FOLDER is the SavedModel that the server has as NAME. Status, metadata, and every warm-up request
over REST, by rows and by columns, and over gRPC. Exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from kerasunsup.errors import KerasunsupError
from kerasunsup.serving import scan, warmup
from kerasunsup.serving.warmup import Arrays

SECONDS = 60.0  # for the server to load its models


def check(name: str, folder: Path, rest: str, grpc_address: str | None) -> list[str]:
    """Asks for everything of one model.

    Args:
        name: The model's name on the server.
        folder: Its SavedModel, `<base>/<version>`.
        rest: URL of the REST port.
        grpc_address: host:port, or None to leave gRPC out.

    Returns:
        A line for each signature.

    Raises:
        KerasunsupError: The server does not answer, or answers something else.
    """
    _wait(f"{rest}/v1/models/{name}", folder.name)
    metadata = _get(f"{rest}/v1/models/{name}/metadata")["metadata"]["signature_def"]
    wanted = {
        signature: {kind: sorted(tensors) for kind, tensors in sides.items()}
        for signature, sides in scan.describe(scan.read(folder)).items()
    }
    served = {
        signature: {kind: sorted(sides[kind]) for kind in ("inputs", "outputs")}
        for signature, sides in metadata["signature_def"].items()
        if not signature.startswith("__")
    }
    if served != wanted:
        raise KerasunsupError(f"{name} must be served with {wanted}. Received: {served}")
    found: dict[str, dict[str, float]] = {}
    for signature, inputs, answer in warmup.read(folder):
        ways = {
            "rows": by_rows(rest, name, signature, inputs, answer),
            "columns": by_columns(rest, name, signature, inputs, answer),
        }
        if grpc_address:
            ways["gRPC"] = by_grpc(grpc_address, name, signature, inputs)
        for way, got in ways.items():
            difference = max(warmup.differences(answer, got).values())
            if difference > warmup.TOLERANCE:
                raise KerasunsupError(
                    f"{name} must answer `{signature}` over {way} as stored in "
                    f"{folder / warmup.WARMUP_FILE}. Received: a difference of {difference:.3g}"
                )
            best = found.setdefault(signature, {})
            best[way] = max(best.get(way, 0.0), difference)
    return [
        f"{name} {signature}: " + ", ".join(f"{way} {value:.1e}" for way, value in ways.items())
        for signature, ways in found.items()
    ]


# REST


def by_rows(rest: str, model: str, signature: str, inputs: Arrays, like: Arrays) -> Arrays:
    """Predicts with `instances`: an object for each row.

    Args:
        rest: URL of the REST port.
        model: The model's name on the server.
        signature: Name of the signature.
        inputs: Name -> array.
        like: Arrays with the names and dtypes of the outputs.
    """
    rows = len(next(iter(inputs.values())))
    plain = {name: _to_json(value) for name, value in inputs.items()}
    instances = [{name: value[i] for name, value in plain.items()} for i in range(rows)]
    body = {"signature_name": signature, "instances": instances}
    answer = _post(f"{rest}/v1/models/{model}:predict", body)["predictions"]
    if len(like) == 1:  # a single output comes without its name
        return _from_json(dict.fromkeys(like, answer), like)
    return _from_json({name: [row[name] for row in answer] for name in like}, like)


def by_columns(rest: str, model: str, signature: str, inputs: Arrays, like: Arrays) -> Arrays:
    """Predicts with `inputs`: an array for each input; arguments as in `by_rows`."""
    columns = {name: _to_json(value) for name, value in inputs.items()}
    body = {"signature_name": signature, "inputs": columns}
    answer = _post(f"{rest}/v1/models/{model}:predict", body)["outputs"]
    return _from_json(answer if len(like) > 1 else dict.fromkeys(like, answer), like)


def _to_json(value: np.ndarray) -> list[Any]:
    if value.dtype.kind == "O":
        return [{"b64": base64.b64encode(one).decode()} for one in value]
    return value.tolist()


def _from_json(columns: dict[str, Any], like: Arrays) -> Arrays:
    return {
        name: warmup.as_objects([text.encode() for text in columns[name]])
        if value.dtype.kind == "O"
        else np.asarray(columns[name], value.dtype)
        for name, value in like.items()
    }


def _wait(url: str, version: str) -> None:
    """Returns when the server has loaded this version."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            states = _get(url)["model_version_status"]
            if {"version": version, "state": "AVAILABLE"}.items() <= states[0].items():
                return
            reason = json.dumps(states)
        except KerasunsupError as error:
            reason = str(error)
        if time.monotonic() > end:
            raise KerasunsupError(f"{url} must have version {version}. Received: {reason}")
        time.sleep(0.5)


def _get(url: str) -> Any:
    return _ask(urllib.request.Request(url))


def _post(url: str, body: dict[str, Any]) -> Any:
    return _ask(urllib.request.Request(url, json.dumps(body).encode()))


def _ask(request: urllib.request.Request) -> Any:
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise KerasunsupError(
            f"{request.full_url} must answer. Received: {error.code} {error.read().decode()}"
        ) from error
    except (OSError, ValueError) as error:
        raise KerasunsupError(f"{request.full_url} must answer. Received: {error}") from error


# gRPC


def by_grpc(address: str, model: str, signature: str, inputs: Arrays) -> Arrays:
    """Predicts over gRPC; arguments as in `by_rows`."""
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            answer = stub.Predict(request, timeout=SECONDS)
        except grpc.RpcError as error:
            raise KerasunsupError(f"{address} must answer. Received: {error.details()}") from error
    return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}


def main(arguments: list[str]) -> int:
    """Checks every model that is named; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kerasunsup.serving.smoke")
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--rest", default="http://127.0.0.1:8501", metavar="URL")
    parser.add_argument("--grpc", default="127.0.0.1:8500", metavar="HOST:PORT")
    given = parser.parse_args(arguments)
    try:
        for one in given.models:
            name, _, folder = one.partition("=")
            print(*check(name, Path(folder), given.rest, given.grpc), sep="\n", flush=True)
    except KerasunsupError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
