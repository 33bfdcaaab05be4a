"""One replica against two: weights, step times, bytes sent, and the cost of determinism.

    python -m benchmarks.scaling [differences] [speed] [determinism] [--write]

Prints Markdown tables; with --write they go into docs/distributed.md. Everything measured runs in
processes of its own: one, one with two logical CPU devices, or a cluster of two on loopback.
Fashion-MNIST must be prepared (`kerasunsup data import`). Minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "distributed.md"
FORMS = ("1 replica", "Mirrored x2", "2 workers")
POLICIES = ("float32", "mixed_bfloat16")
ROUNDS = 5
TIMED_EPOCHS = 3
SECONDS = 1800.0  # after which a measurement has failed


# In the parent


def run(form: str, task: str, *arguments: str, threads: int = 1) -> list[dict[str, Any]]:
    """What each process of one form answers to a task, the chief first."""
    count = 2 if form == "2 workers" else 1
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        environment = {**os.environ, **_quiet(threads)}
        ports = _free_ports(count)
        for index in range(count):
            answer = Path(folder, str(index))
            if count > 1:
                cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
                config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
                environment["TF_CONFIG"] = json.dumps(config)
            command = [sys.executable, "-m", "benchmarks.scaling", "--child", form, str(answer)]
            processes.append(
                subprocess.Popen([*command, task, *arguments], env=environment, cwd=ROOT)
            )
        try:
            codes = [process.wait(SECONDS) for process in processes]
        finally:
            for process in processes:
                process.kill()
        if any(codes):
            raise SystemExit(f"{form}, {task} {arguments}: exit codes {codes}")
        return [json.loads(Path(folder, str(index)).read_text()) for index in range(count)]


def _quiet(threads: int) -> dict[str, str]:
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **dict.fromkeys(names, str(threads)),
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def differences() -> str:
    """Family x form x precision: the largest difference of a weight from one replica's."""
    with tempfile.TemporaryDirectory() as folder:
        for policy in POLICIES:
            for form in FORMS:
                run(form, "weights", policy, f"{folder}/{policy} {form}")
                print(f"{policy}, {form}: trained", file=sys.stderr, flush=True)
        return compare(Path(folder))


def compare(folder: Path) -> str:
    """The table of differences between the weights in `folder`."""
    import numpy as np

    def load(policy: str, form: str, case: str, index: int = 0) -> list[np.ndarray]:
        with np.load(folder / f"{policy} {form} {case} {index}.npz") as arrays:
            return [arrays[name] for name in arrays.files]

    def largest(one: list[np.ndarray], other: list[np.ndarray]) -> float:
        return max(float(np.abs(p - q).max()) for p, q in zip(one, other, strict=True))

    rows, worst = [], [0.0] * 6
    for case in json.loads((folder / "cases.json").read_text()):
        one = load("float32", FORMS[0], case)
        numbers = [largest(load("float32", "start", case), one)]
        for policy in POLICIES:
            single = load(policy, FORMS[0], case)
            numbers.append(largest(single, load(policy, FORMS[1], case)))
            workers = (load(policy, FORMS[2], case, index) for index in range(2))
            numbers.append(max(largest(single, weights) for weights in workers))
        numbers.append(largest(one, load("mixed_bfloat16", FORMS[0], case)))
        worst = [max(pair) for pair in zip(worst, numbers, strict=True)]
        rows.append([case, *(f"{number:.0e}" for number in numbers)])
    rows.append(["*largest*", *(f"{number:.0e}" for number in worst)])
    heads = ["family", "moved by", *FORMS[1:], *(f"{form}, bf16" for form in FORMS[1:])]
    return table([*heads, "bf16 from float32"], rows)


def speed() -> str:
    """Step times and processor times as ratios to one replica's, runs taken in turn."""
    answers: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    for i in range(ROUNDS):
        for form in FORMS:
            workers = run(form, "times")
            answer = workers[0]
            for name, measured in answer.items():
                measured["processor"] = sum(worker[name]["processor"] for worker in workers)
            answers[form].append(answer)
        print(f"round {i + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    rows = []
    for name in answers["1 replica"][0]:
        for form in FORMS:
            row = [name if form == FORMS[0] else "", form]
            for what in ("step", "processor"):
                ones = [answer[name][what] for answer in answers["1 replica"]]
                these = [answer[name][what] for answer in answers[form]]
                if form == FORMS[0]:
                    row.append(_spread([1000 * value for value in these], " ms"))
                else:
                    row.append(_spread([a / b for a, b in zip(these, ones, strict=True)]))
            rows.append(row if form == FORMS[2] else [*row, "", "", ""])
        counted = answers["2 workers"][0][name]
        rows[-1] += [f"{4 * counted['parameters']:,}", *map("{:,}".format, counted["reduced"])]
    heads = (
        *("model", "form", "time of a step", "processor time"),
        *("bytes of gradients", "all-reduces, in all", "bytes, in all"),
    )
    return table(heads, rows)


def determinism() -> str:
    """Time of an epoch with op determinism as a ratio to without, and whether weights repeat."""
    switches = ("", "deterministic")
    answers: dict[str, list[Any]] = {switch: [] for switch in switches}
    for i in range(ROUNDS):
        for switch in switches:
            answers[switch] += run("1 replica", "times", switch, threads=2)
        print(f"round {i + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    rows = []
    for name in answers[""][0]:
        times = [[answer[name]["step"] for answer in answers[switch]] for switch in switches]
        ratios = [b / a for a, b in zip(*times, strict=True)]
        kinds = [len({answer[name]["sha256"] for answer in answers[s]}) for s in switches]
        rows.append([name, _spread(ratios), *(f"{kind} in {ROUNDS} runs" for kind in kinds)])
    heads = ("model", "time, ratio", "different weights without", "different weights with")
    return table(heads, rows)


def _spread(values: list[float], unit: str = "") -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.2f}{unit} ({low:.2f}-{high:.2f})"


def table(heads: Any, rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# In the measured processes


def child(form: str, task: str, arguments: list[str]) -> dict[str, Any]:
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
            model.compile()
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


def main() -> None:
    """Measures what is asked for, all by default."""
    tables = {table.__name__: table for table in (differences, speed, determinism)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=", ".join(tables), metavar="TABLE")
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        form, answer = given.child
        Path(answer).write_text(json.dumps(child(form, given.tables[0], given.tables[1:])))
        return
    if set(given.tables) - set(tables):
        parser.error(f"tables are {', '.join(tables)}. Received: {' '.join(given.tables)}")
    for name in given.tables or tables:
        text = tables[name]()
        print(f"\n{text}\n", flush=True)
        if given.write:
            marked = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
            page = re.sub(marked, lambda m: m[1] + text + m[2], PAGE.read_text(), flags=re.S)  # noqa: B023
            PAGE.write_text(page)


if __name__ == "__main__":
    main()
