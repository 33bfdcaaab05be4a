"""One worker of a cluster: python cluster_worker.py FOLDER JOB, with TF_CONFIG set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf
from replicated import CASES, examples, train

from kerasunsup import strategies

REPLICAS = 2  # of a worker, in the job "replicas"


def main(folder: Path, job: str) -> None:
    if job == "replicas":
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
        tf.config.set_logical_device_configuration(cpu, devices)
    strategy = strategies.choose("auto")
    for case in ("vae", "dcgan") if job == "replicas" else job.split(","):
        options = {"stream": True, "steps_per_execution": 3} if case == "stream" else {}
        name = "vae" if case == "stream" else case
        with strategy.scope():
            model, history = train(CASES[name], examples(name), **options)
        arrays = {f"weight_{i}": value for i, value in enumerate(model.get_weights())}
        if name == "autoencoder":
            arrays["predicted"] = model.predict(examples(name), batch_size=12, verbose=0)
            arrays["evaluated"] = model.evaluate(examples(name), batch_size=12, verbose=0)
        if strategies.is_chief(strategy):
            np.savez(folder / f"{case}.npz", **arrays, **history)
    strategies.wait_for_all(strategy)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
