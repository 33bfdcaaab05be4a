"""Measures an entry in every runtime that is installed, beside the SavedModel called from Python.

Differences are over random valid inputs. Times are the best of calls made in turn with the
SavedModel's, so that a busy machine slows both; each runtime runs with its defaults. Still, ratios
are worth quoting only from a machine that has little else to do: its load is kept with them.
"""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasunsup import formats
from kerasunsup.errors import InputError
from kerasunsup.export import KERAS_FILE
from kerasunsup.models import UnsupervisedModel
from kerasunsup.models.verbs import as_array
from kerasunsup.parity import Parity, Runtime
from kerasunsup.serving import runtime, warmup
from kerasunsup.serving.warmup import Arrays

EXAMPLES = 32
TURNS, SECONDS_OF_A_TURN = 5, 0.2
LOADS = 2

Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Candidate:
    """One runtime with the model in it.

    Attributes:
        version: Of the runtime.
        bytes: Size of the files that it reads.
        load: Loads the model and returns the seconds.
        verbs: Verb -> function from named arrays to named arrays.
        seconds: Runs a verb once and returns the seconds.
    """

    version: str
    bytes: int
    load: Callable[[], float]
    verbs: dict[str, Run]
    seconds: Callable[[str, Arrays], float]


def measure(folder: str | Path) -> Parity:
    """Measures Keras, the C session and, where their packages are installed, other formats.

    Args:
        folder: A SavedModel written by `kerasunsup.export`. The classes of its model must be
            registered.
    """
    folder, load_average = Path(folder), os.getloadavg()[0]
    model: UnsupervisedModel = keras.saving.load_model(folder / KERAS_FILE)
    main = model.main_verb
    base = _saved_model(folder, model)
    inputs = {verb: _inputs(model, verb, EXAMPLES) for verb in model.verbs}
    wanted = {verb: run(inputs[verb]) for verb, run in base.verbs.items()}
    seconds = {
        "load": _best_load(base),
        **{f"batch_{n}": _turn(base, main, _inputs(model, main, n)) for n in (1, 256)},
    }
    runtimes = {}
    with ExitStack() as stack:
        for name, candidate in _candidates(folder, model, stack):
            timed = main if main in candidate.verbs else next(iter(candidate.verbs))
            runtimes[name] = Runtime(
                version=candidate.version,
                verbs=tuple(candidate.verbs),
                difference=_rounded(
                    max(
                        difference
                        for verb, run in candidate.verbs.items()
                        for difference in _differences(wanted[verb], run(inputs[verb]))
                    )
                ),
                bytes=candidate.bytes,
                timed=timed,
                load=_rounded(_best_load(candidate) / seconds["load"]),
                **{
                    f"batch_{n}": _rounded(_ratio(candidate, base, timed, _inputs(model, timed, n)))
                    for n in (1, 256)
                },
            )
    return Parity(
        machine=f"{os.cpu_count()} cores, {platform.machine()}, load average {load_average:.0f}",
        verb=main,
        examples=EXAMPLES,
        bytes=base.bytes,
        seconds={name: _rounded(value) for name, value in seconds.items()},
        runtimes=runtimes,
    )


def missing() -> dict[str, str]:
    """Formats that cannot be measured here, and the package that each lacks."""
    return {
        name: package
        for name, one in formats.FORMATS.items()
        for package in one.packages
        if importlib.util.find_spec(package) is None
    }


# The runtimes


def _saved_model(folder: Path, model: UnsupervisedModel) -> Candidate:
    signatures = tf.saved_model.load(str(folder)).signatures

    def verb(name: str) -> Run:
        def run(inputs: Arrays) -> Arrays:
            outputs = signatures[name](**{key: tf.constant(v) for key, v in inputs.items()})
            return {key: as_array(value) for key, value in outputs.items()}

        return run

    return _candidate(
        tf.__version__,
        [folder / "saved_model.pb", *(folder / "variables").iterdir()],
        lambda: tf.saved_model.load(str(folder)),
        {name: verb(name) for name in model.verbs},
    )


def _candidates(
    folder: Path, model: UnsupervisedModel, stack: ExitStack
) -> Iterator[tuple[str, Candidate]]:
    """Every runtime but the SavedModel in Python."""
    path = folder / KERAS_FILE
    yield (
        "keras",
        _candidate(
            keras.__version__,
            [path],
            lambda: keras.saving.load_model(path),
            {name: _keras_verb(model, name) for name in model.verbs},
        ),
    )
    yield "c_session", _c_session(folder, model, stack.enter_context(runtime.start()))
    for name, chosen in formats.FORMATS.items():
        if name in missing():
            continue
        out = Path(stack.enter_context(tempfile.TemporaryDirectory()), name)
        try:
            written, _ = formats.convert(model, out, name)
        except InputError:  # it holds no verb of this model
            continue
        yield name, _converted(chosen, out, list(written))


def _converted(chosen: formats.Format, out: Path, verbs: list[str]) -> Candidate:
    def read() -> dict[str, Run]:
        return {verb: chosen.read(out / f"{verb}{chosen.suffix}") for verb in verbs}

    files = [path for path in out.iterdir() if path.name != formats.CLASS_NAMES]
    return _candidate(version(chosen.packages[-1]), files, read, read())


def _candidate(
    release: str, files: list[Path], load: Callable[[], Any], verbs: dict[str, Run]
) -> Candidate:
    """A runtime in this process."""

    def seconds(verb: str, inputs: Arrays) -> float:
        return _seconds(lambda: verbs[verb](inputs))

    size = sum(file.stat().st_size for file in files)
    return Candidate(release, size, lambda: _seconds(load), verbs, seconds)


def _keras_verb(model: UnsupervisedModel, name: str) -> Run:
    bound: Any = model.verb(name)

    def run(inputs: Arrays) -> Arrays:
        first, *labels = inputs.values()
        label = labels[0] if labels else None
        if bound.argument == "seed":
            return bound(len(first), seed=int(first[0, 0]), label=label)
        return bound(first, label=label)

    return run


def _c_session(folder: Path, model: UnsupervisedModel, process: runtime.Runtime) -> Candidate:
    def seconds(verb: str, inputs: Arrays) -> float:
        process.run(folder, verb, inputs)
        return process.seconds

    def verb(name: str) -> Run:
        return lambda inputs: {
            key: as_array(tf.constant(value))
            for key, value in process.run(folder, name, inputs).items()
        }

    process.load(folder)
    size = sum(p.stat().st_size for p in [folder / "saved_model.pb", *folder.glob("variables/*")])
    verbs = {name: verb(name) for name in model.verbs}
    return Candidate(process.version, size, lambda: process.load(folder), verbs, seconds)


# Measuring


def _inputs(model: UnsupervisedModel, verb: str, rows: int) -> Arrays:
    return warmup.example_inputs(model, model.verb(verb).input_specs, rows)


def _differences(wanted: Arrays, got: Arrays) -> Iterator[float]:
    """Of all outputs but the texts that a format leaves out."""
    kept = {key: one for key, one in wanted.items() if key in got or one.dtype.kind != "U"}
    yield from warmup.differences(kept, got).values()


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _best_load(candidate: Candidate) -> float:
    return min(candidate.load() for _ in range(LOADS))


def _turn(candidate: Candidate, verb: str, inputs: Arrays) -> float:
    """The best time of the calls of a moment, of two at least."""
    best, count, end = math.inf, 0, time.perf_counter() + SECONDS_OF_A_TURN
    while count < 2 or time.perf_counter() < end:
        best, count = min(best, candidate.seconds(verb, inputs)), count + 1
    return best


def _ratio(candidate: Candidate, base: Candidate, verb: str, inputs: Arrays) -> float:
    turns = [(_turn(candidate, verb, inputs), _turn(base, verb, inputs)) for _ in range(TURNS)]
    mine, theirs = (min(times) for times in zip(*turns, strict=True))
    return mine / theirs


def _rounded(value: float) -> float:
    """Three significant digits: more would be noise."""
    return float(np.format_float_positional(value, 3, fractional=False)) if value else 0.0
