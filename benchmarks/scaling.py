"""One replica against two: weights, step times, bytes sent, and the cost of determinism.

    python -m benchmarks.scaling [differences] [speed] [determinism] [--write]

Prints Markdown tables; with --write they go into docs/distributed.md. What is measured runs
in processes of `benchmarks.measured`: one, one with two logical CPU devices, or a cluster of two
on loopback. Fashion-MNIST must be prepared (`kerasunsup data import`). 10 to 30 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, spread, table, write
from benchmarks.measured import FORMS

PAGE = ROOT / "docs" / "distributed.md"
POLICIES = ("float32", "mixed_bfloat16")
ROUNDS = 5
SECONDS = 1800.0  # after which a measurement has failed


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
            command = [sys.executable, "-m", "benchmarks.measured", form, str(answer)]
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
    rounds = []
    for i in range(ROUNDS):
        rounds.append({form: run(form, "times") for form in FORMS})
        print(f"round {i + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    return ratios(rounds)


def ratios(rounds: list[dict[str, list[dict[str, Any]]]]) -> str:
    """The table of step times of rounds, each form -> what its processes answered."""
    rows = []
    for name in rounds[0][FORMS[0]][0]:
        for form in FORMS:
            rows.append([name if form == FORMS[0] else "", form])
            for what, total in (("step", max), ("processor", sum)):
                ones = [one[FORMS[0]][0][name][what] for one in rounds]
                these = [total(answer[name][what] for answer in one[form]) for one in rounds]
                if form == FORMS[0]:
                    rows[-1].append(spread([1000 * value for value in these], " ms"))
                else:
                    rows[-1].append(spread([a / b for a, b in zip(these, ones, strict=True)]))
        sent = rounds[0][FORMS[2]][0][name]
        for row in rows[-3:-1]:
            row += ["", "", ""]
        rows[-1] += [f"{4 * sent['parameters']:,}", *map("{:,}".format, sent["reduced"])]
    heads = ("model", "form", "time of a step", "processor time", "bytes of gradients")
    return table([*heads, "all-reduces, in all", "bytes, in all"], rows)


def determinism() -> str:
    """Time of an epoch with op determinism as a ratio to without, and whether weights repeat."""
    answers: dict[str, list[Any]] = {"": [], "deterministic": []}
    for i in range(ROUNDS):
        for switch, those in answers.items():
            those += run(FORMS[0], "times", switch, threads=2)
        print(f"round {i + 1} of {ROUNDS}", file=sys.stderr, flush=True)
    rows = []
    for name in answers[""][0]:
        row = [name]
        for what in ("step", "processor"):
            usual, strict = ([one[name][what] for one in those] for those in answers.values())
            row.append(spread([b / a for a, b in zip(usual, strict, strict=True)]))
        seen = {one[name]["sha256"] for those in answers.values() for one in those}
        rows.append([*row, str(len(seen))])
    distinct = f"distinct results of {2 * ROUNDS} runs"
    heads = ("model", "time with / without", "processor time", distinct)
    return table(heads, rows)


def main() -> None:
    """Measures what is asked for, all by default."""
    tables = {one.__name__: one for one in (differences, speed, determinism)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=", ".join(tables), metavar="TABLE")
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    given = parser.parse_args()
    if set(given.tables) - set(tables):
        parser.error(f"tables are {', '.join(tables)}. Received: {' '.join(given.tables)}")
    for name in given.tables or tables:
        text = tables[name]()
        print(f"\n{text}\n", flush=True)
        if given.write:
            write(PAGE, name, text)


if __name__ == "__main__":
    main()
