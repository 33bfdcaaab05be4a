"""What runs in the processes that `benchmarks.scaling` measures.

python -m benchmarks.measured FORM ANSWER weights|times [ARGUMENT …]
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FORMS = ("1 replica", "Mirrored x2", "2 workers")
TIMED_EPOCHS = 3


def measure(form: str, task: str, arguments: list[str]) -> dict[str, Any]:
    """Runs a task on the replicas of a form."""
    import tensorflow as tf

    if form == "Mirrored x2":  # before TensorFlow starts
        devices = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], devices
        )
    from kerasunsup import strategies

    strategy = strategies.choose("auto")  # a cluster meets before anything else
    sys.path.insert(0, str(ROOT / "tests"))
    import replicated

    if form == "Mirrored x2":
        strategy = replicated.mirrored(2)
    answer = {"weights": _train_families, "times": _train_on_images}[task](strategy, *arguments)
    strategies.wait_for_all(strategy)
    return answer


def _train_families(strategy: Any, policy: str, target: str) -> dict[str, Any]:
    import keras
    import numpy as np
    from replicated import CASES, examples, train

    from kerasunsup.models.base import dtype_policy

    index = getattr(strategy.extended, "_id_in_cluster", 0)
    start = Path(target).with_name(f"{policy} start")
    Path(target).with_name("cases.json").write_text(json.dumps(list(CASES)))
    for case, make in CASES.items():
        with dtype_policy(policy), strategy.scope():
            if target.endswith(FORMS[0]):
                keras.utils.set_random_seed(0)
                np.savez(f"{start} {case} 0.npz", *make().get_weights())
            model, _ = train(make, examples(case))
        np.savez(f"{target} {case} {index}.npz", *model.get_weights())
    return {}


def _train_on_images(strategy: Any, switch: str = "") -> dict[str, Any]:
    import keras
    import tensorflow as tf

    from kerasunsup import data

    if switch:
        tf.config.experimental.enable_op_determinism()

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.begun = time.perf_counter(), time.process_time()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            ended = time.perf_counter(), time.process_time()
            epochs.append([b - a for a, b in zip(self.begun, ended, strict=True)])

    images = data.load("fashion_mnist").train
    measured = {}
    for name, make, batch, steps in (
        ("dense autoencoder 784-128-64-12, batch 128", _dense, 128, 384),
        ("DCGAN 28x28, batch 64", _dcgan, 64, 48),
    ):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            model = make()
            model.compile(jit_compile=False)  # as several replicas must
        epochs: list[list[float]] = []
        plan = {"batch_size": batch, "steps_per_epoch": steps, "epochs": 1 + TIMED_EPOCHS}
        model.fit(images, **plan, callbacks=[Clock()], verbose=0)
        wall, processor = zip(*epochs[1:], strict=True)  # the first one traces and warms up
        weights = hashlib.sha256(b"".join(value.tobytes() for value in model.get_weights()))
        measured[name] = {
            "step": statistics.median(wall) / steps,
            "processor": statistics.median(processor) / steps,
            "parameters": model.parameters,
            "reduced": _all_reduces(strategy, model, images[:batch]),
            "sha256": weights.hexdigest(),
        }
    return measured


def _dense() -> Any:
    from kerasunsup import Autoencoder, networks

    backbone = networks.dense_backbone((28, 28, 1), [128, 64])
    decoder = networks.dense_decoder(12, (28, 28, 1), [64, 128], output_activation="sigmoid")
    return Autoencoder(backbone, decoder, 12, seed=1)


def _dcgan() -> Any:
    from kerasunsup import GAN, networks

    generator = networks.dcgan_generator(64, (28, 28, 1), [48, 24, 12])
    discriminator = networks.dcgan_discriminator((28, 28, 1), [24, 48])
    return GAN(generator, discriminator, 64, ema=0.999, value_range=(0, 1), seed=1)


def _all_reduces(strategy: Any, model: Any, batch: Any) -> tuple[int, int]:
    """Number and bytes of the collective operations in the graph of a step: 0 in one process."""
    import tensorflow as tf
    from tensorflow.python.ops import collective_ops

    sent, reduce = [], collective_ops.all_reduce_v2

    def counted(tensor: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(tensor.shape.num_elements() * tensor.dtype.size)
        return reduce(tensor, *arguments, **options)

    collective_ops.all_reduce_v2 = counted
    step = tf.autograph.experimental.do_not_convert(
        lambda rows: strategy.run(model.train_step, (rows,))
    )
    tf.function(step).get_concrete_function(tf.TensorSpec(batch.shape, batch.dtype))
    collective_ops.all_reduce_v2 = reduce
    return len(sent), sum(sent)


if __name__ == "__main__":
    form, answer, task, *arguments = sys.argv[1:]
    Path(answer).write_text(json.dumps(measure(form, task, arguments)))
