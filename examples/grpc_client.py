"""Asks TensorFlow Serving over gRPC: the anomaly scores of image files, and four samples.

    pip install tensorflow-serving-api pillow
    python grpc_client.py 127.0.0.1:8500 vae_fashion_mnist photo.png photo.jpg

Writes the samples to samples.png.
"""

import sys
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def predict(stub, model, signature, **inputs):
    """Calls one signature: named arrays in, a dict of named arrays out."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    answer = stub.Predict(request, timeout=10.0)
    return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}


def main(address, model, *files):
    """Scores the files, then draws."""
    # Python's gRPC takes answers of up to 4 MB unless told otherwise.
    channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    contents = [Path(file).read_bytes() for file in files]
    answer = predict(stub, model, "score_bytes", image_bytes=contents)
    for file, score, strange in zip(files, answer["score"], answer["is_anomaly"], strict=True):
        print(f"{file}: {score:.4f}{' (an anomaly)' if strange else ''}")

    seed = np.array([[7, i] for i in range(4)], "int32")  # a row (seed, index) for each sample
    samples = predict(stub, model, "generate", seed=seed)["samples"]
    row = np.concatenate(list(np.rint(255 * samples).astype("uint8")), axis=1)
    Image.fromarray(row.squeeze(-1) if row.shape[-1] == 1 else row).save("samples.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
