"""Which tf.distribute strategy trains a run, and how the workers of a cluster find each other.

One worker, the chief, writes files; all read them, so that the run's folder must be one that all
of them see.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kerasunsup.errors import InputError, TrainingError
from kerasunsup.replicas import values_of_all, worker_count

NAMES = ("auto", "none", "mirrored", "multiworker", "tpu")
SECONDS_TO_MEET = 300.0
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


@dataclass(frozen=True)
class Cluster:
    """What TF_CONFIG says.

    Attributes:
        workers: Job and address, "host:port", of every worker, the chief first.
        own: This process' place among them.
    """

    workers: tuple[tuple[str, str], ...]
    own: int


def choose(strategy: str | tf.distribute.Strategy) -> tf.distribute.Strategy:
    """The tf.distribute strategy that a name stands for.

    Args:
        strategy: "auto", "none", "mirrored", "multiworker", "tpu" or a tf.distribute.Strategy.
            "auto" is multi-worker where TF_CONFIG is set, mirrored where there are several GPUs.
            Multi-worker must be chosen before TensorFlow runs anything.

    Raises:
        InputError: An unknown name, a TF_CONFIG that makes no sense, or no TPU.
        TrainingError: A worker of the cluster cannot be reached.
    """
    if isinstance(strategy, tf.distribute.Strategy):
        return strategy
    if strategy == "auto":
        if "TF_CONFIG" in os.environ:
            strategy = "multiworker"
        else:
            several = len(tf.config.list_logical_devices("GPU")) > 1
            strategy = "mirrored" if several else "none"
    match strategy:
        case "none":
            return tf.distribute.get_strategy()
        case "mirrored":
            return tf.distribute.MirroredStrategy()
        case "multiworker":
            meet(read_tf_config(os.environ.get("TF_CONFIG")))
            return tf.distribute.MultiWorkerMirroredStrategy()
        case "tpu":
            return _tpu()
    raise InputError(
        f"`strategy` must be {', '.join(NAMES)} or a tf.distribute.Strategy. Received: {strategy!r}"
    )


def _tpu() -> tf.distribute.Strategy:
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(
            "strategy=tpu needs a TPU, and TensorFlow for TPUs: set TPU_NAME, or run on its host. "
            f"Received: TPU_NAME={name}, {str(error).splitlines()[0]}"
        ) from error


def describe(strategy: tf.distribute.Strategy, batch_size: int) -> str:
    """One line: the strategy, how many replicas there are, and the batch of each."""
    replicas = strategy.num_replicas_in_sync
    name = type(strategy).__name__
    if strategy is tf.distribute.get_strategy():
        name = "none"
    elif isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        name = "MultiWorkerMirroredStrategy"  # its class has an older name
    workers = worker_count(strategy)
    where = f" on {workers} workers" if workers > 1 else ""
    each = f"{batch_size / replicas:g}" if batch_size % replicas else f"{batch_size // replicas}"
    return (
        f"Strategy: {name}, {replicas} replica{'s' * (replicas > 1)}{where}; "
        f"batch {batch_size}, {each} for each replica"
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files."""
    return bool(strategy.extended.should_checkpoint)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns when every worker has come here."""
    values_of_all(strategy, 0)


@contextlib.contextmanager
def lost_workers_named(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns TensorFlow's errors about a worker that has gone into one that says what to do.

    Raises:
        TrainingError: A worker of the cluster has gone.
    """
    try:
        yield
    except RuntimeError as error:  # TensorFlow's, of Ctrl-C while it waits for other workers
        if "KeyboardInterrupt" not in str(error):
            raise
        raise TrainingError("Stopped while waiting for the other workers.") from None
    except LOST as error:
        if worker_count(strategy) == 1:
            raise
        raise TrainingError(
            "The cluster has lost a worker. The last checkpoint is kept: start all workers again, "
            f"with --resume. Received: {type(error).__name__}, {_cause(error)}"
        ) from None


def _cause(error: Exception) -> str:
    """The sentence in TensorFlow's message that says what happened, without nodes and traces."""
    lines = [line.strip() for line in str(error).splitlines()]
    sentences = [
        line for line in lines if line and not line.startswith(("[[", "File ", "Detected"))
    ]
    return sentences[-1][:300] if sentences else "no message"


# TF_CONFIG


def read_tf_config(text: str | None) -> Cluster:
    """Reads and checks a TF_CONFIG.

    Raises:
        InputError: It is missing, no JSON, or makes no sense.
    """
    example = (
        '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    if not text:
        raise InputError(f"A cluster needs TF_CONFIG, as {example}. Received: TF_CONFIG is not set")
    try:
        return _cluster_of(json.loads(text))
    except json.JSONDecodeError as error:
        problem = f"no JSON ({error})"
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{error.args[0] if error.args else error}"
    raise InputError(f"TF_CONFIG must look like {example}. Received: {problem} in {text}")


def _cluster_of(config: Any) -> Cluster:
    if not isinstance(config, dict) or not isinstance(config.get("cluster"), dict):
        raise ValueError("no table `cluster`")
    jobs, task = config["cluster"], config.get("task")
    unknown = sorted(set(jobs) - {"chief", "worker"})
    if unknown:
        raise ValueError(f"job `{unknown[0]}`, where only chief and worker train synchronously,")
    workers = []
    for job in ("chief", "worker"):
        addresses = jobs.get(job, [])
        if not isinstance(addresses, list):
            raise ValueError(f"no list in `cluster.{job}`")
        for address in addresses:
            host, _, port = str(address).rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"address {address!r}, which is not host:port,")
            workers.append((job, str(address)))
    addresses = [address for _, address in workers]
    if not workers or len(set(addresses)) < len(addresses):
        raise ValueError("no worker" if not workers else "an address twice")
    if not isinstance(task, dict) or task.get("type") not in jobs:
        raise ValueError("a `task.type` that is not in the cluster, or none,")
    index, count = task.get("index"), len(jobs[task["type"]])
    if type(index) is not int or not 0 <= index < count:
        raise ValueError(f"`task.index` {index!r}, which is not from 0 to {count - 1},")
    before = len(jobs.get("chief", [])) if task["type"] == "worker" else 0
    return Cluster(tuple(workers), before + index)


def meet(cluster: Cluster, seconds: float = SECONDS_TO_MEET) -> None:
    """Returns when each of the other workers answers at its address, or has.

    TensorFlow itself would wait for ever. Until all are found, this process listens at its own
    address; TensorFlow's server takes it over.

    Raises:
        InputError: The own port is in use.
        TrainingError: Somebody did not come within `seconds`; names them.
    """
    missing = [worker for i, worker in enumerate(cluster.workers) if i != cluster.own]
    port = int(cluster.workers[cluster.own][1].rpartition(":")[2])
    until = time.monotonic() + seconds
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise InputError(
                f"TF_CONFIG gives this worker port {port}, which must be free. "
                f"Received: {error.strerror}"
            ) from error
        listener.listen(len(cluster.workers))
        while missing:
            missing = [worker for worker in missing if not _answers(worker[1])]
            if missing and time.monotonic() > until:
                names = ", ".join(f"{job} at {address}" for job, address in missing)
                raise TrainingError(
                    f"No answer within {seconds:g} s from {names}: start every worker of TF_CONFIG "
                    "and open its port."
                )
            time.sleep(0.1 if missing else 0)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False
