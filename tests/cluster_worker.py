"""One worker of a cluster: python cluster_worker.py FOLDER JOB, with TF_CONFIG set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf
from replicated import CASES, SHAPE, examples, train

from kerasunsup import networks, strategies
from kerasunsup.errors import InputError
from kerasunsup.models import Autoencoder

REPLICAS = 2  # of a worker, in the job "replicas"


def main(folder: Path, job: str) -> None:
    if job == "replicas":
        cpu = tf.config.list_physical_devices("CPU")[0]
        devices = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
        tf.config.set_logical_device_configuration(cpu, devices)
    strategy = strategies.choose("auto")
    if job == "differing":
        return differing(folder, strategy)
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


def differing(folder: Path, strategy: tf.distribute.Strategy) -> None:
    """What each worker is told whose order of examples is not that of the others."""
    x = examples("vae")
    worker = strategy.cluster_resolver.task_id
    messages = []
    shuffled = tf.data.Dataset.from_tensor_slices(x).shuffle(99).batch(12)
    for seed, given in ((None, x), (1, shuffled)):
        keras.utils.set_random_seed(worker)
        with strategy.scope():
            model = Autoencoder(
                networks.dense_backbone(SHAPE, [8]),
                networks.dense_decoder(4, SHAPE, [8]),
                4,
                seed=seed,
            )
            model.compile("sgd")
        try:
            model.fit(given, verbose=0)
        except (InputError, tf.errors.InvalidArgumentError) as error:
            messages.append(str(error))
    np.savez(folder / f"differing-{worker}.npz", messages=messages)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
