"""`kerasunsup train --workers N`: a cluster of processes on this machine, for trying."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

from kerasunsup.errors import TrainingError

SECONDS_TO_END = 60.0  # after another worker has


def run(workers: int, arguments: list[str]) -> None:
    """Runs `kerasunsup ARGUMENTS` in `workers` processes, on CPU; shows what the chief says.

    Raises:
        TrainingError: A worker failed.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    processes = [_start(i, addresses, arguments) for i in range(workers)]
    try:
        codes = _wait(processes)
    except KeyboardInterrupt:  # which the workers got as well
        codes = _wait(processes)
    finally:
        for process in processes:
            process.kill()
    failed = [f"{i} (exit code {code})" for i, code in enumerate(codes) if code]
    if failed:
        raise TrainingError(f"Failed: worker {', '.join(failed)}.")


def _start(index: int, addresses: list[str], arguments: list[str]) -> subprocess.Popen[bytes]:
    task = {"type": "worker", "index": index}
    config = {"cluster": {"worker": addresses}, "task": task}
    environment = {"TF_CONFIG": json.dumps(config), "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.Popen(
        [sys.executable, "-m", "kerasunsup", *arguments],
        env={**os.environ, **environment},
        stdout=None if index == 0 else subprocess.DEVNULL,
    )


def _wait(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Exit codes; who has not ended some time after another one failed is killed."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        if deadline == float("inf") and any(process.returncode for process in processes):
            deadline = time.monotonic() + SECONDS_TO_END
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    return [process.returncode for process in processes]
