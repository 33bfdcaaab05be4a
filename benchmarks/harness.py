"""Processes that are measured in turn, and what is said of the measurements.

A shared machine slows one process and not the other: a unit counts only if what else ran took less
than `MOST_BUSY` of a core meanwhile, and nothing is reported from fewer than `LEAST_UNITS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
MOST_BUSY = 0.35
LEAST_UNITS = 3
TICKS = os.sysconf("SC_CLK_TCK")


class Worker:
    """A process that measures a unit of its work whenever it is asked to: see `units`."""

    def __init__(self, module: str, *arguments: object) -> None:
        self.name = f"{module} {' '.join(map(str, arguments[:2]))}"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `kill` closes it
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=environment(),
        )

    def unit(self) -> dict[str, Any]:
        """Measures a unit; `others` are the cores that other processes kept busy meanwhile."""
        assert self.process.stdin is not None and self.process.stdout is not None
        before = busy_seconds()
        with contextlib.suppress(BrokenPipeError):
            print("unit", file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self._failed()
        unit = json.loads(line)
        unit["others"] = (busy_seconds() - before - unit["processor"]) / unit["wall"]
        return unit

    def _failed(self) -> NoReturn:
        code = self.process.wait(60)
        self.log.seek(0)
        raise SystemExit(f"{self.name} ended with exit code {code}: {self.log.read()[-300:]}")

    def close(self) -> None:
        """Ends the process, whose exit code must be 0."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait(60):
            self._failed()

    def kill(self) -> None:
        """Ends the process if it still runs."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.log.close()


def environment() -> dict[str, str]:
    """That of every process measured: without GPUs, and with compiled modules kept on disk."""
    silent = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **silent}


def busy_seconds() -> float:
    """Seconds that all cores together have been busy since the machine started."""
    user, nice, system, _, _, *interrupts = _jiffies()
    return (user + nice + system + sum(interrupts)) / TICKS


def _jiffies() -> list[int]:
    return [int(count) for count in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]


def refuse_unless_free(seconds: float = 3.0) -> None:
    """Ends the program if the cores are not free."""
    before = busy_seconds()
    time.sleep(seconds)
    busy = (busy_seconds() - before) / seconds
    if busy > MOST_BUSY:
        raise SystemExit(
            f"The cores are not free: other processes keep {busy:.1f} of {os.cpu_count()} busy. "
            f"Stop them (at most {MOST_BUSY} is let pass) and start again."
        )


def in_turn(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Clean units of each worker, measured A B C A B C … after one of each that is not counted.

    A unit beside which others ran is measured again, twice at most.
    """
    units: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    try:
        for worker in workers.values():
            worker.unit()
        for _ in range(rounds):
            for name, worker in workers.items():
                for _ in range(3):
                    unit = worker.unit()
                    unit["clean"] = unit["others"] < MOST_BUSY
                    units[name].append(unit)
                    if unit["clean"]:
                        break
        for worker in workers.values():
            worker.close()
    finally:
        for worker in workers.values():
            worker.kill()
    return units


def clean(units: Sequence[Mapping[str, Any]], what: str) -> list[float]:
    """A figure of the units that count.

    Raises:
        SystemExit: They are too few.
    """
    values = [unit[what] for unit in units if unit["clean"]]
    if len(values) < LEAST_UNITS:
        raise SystemExit(
            f"Only {len(values)} of {len(units)} units ran while the cores were free, "
            f"{LEAST_UNITS} are needed: start again when the machine is quiet."
        )
    return values


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median, and the smallest and the largest value."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.2f}{unit} ({low:.2f}-{high:.2f})"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(page: Path, name: str, text: str) -> None:
    """Puts a table where `page` has the marks of its name."""
    marked = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    old = page.read_text()
    page.write_text(re.sub(marked, lambda m: f"{m[1]}{text}\n{m[2]}", old, flags=re.S))
