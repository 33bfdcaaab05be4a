"""Proofs that need other software: an older TensorFlow, KServe, OpenVINO; and attacks on folders.

The environments are built with pip. KERASUNSUP_VENVS=FOLDER keeps them for the next time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
import urllib.request
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from kerasunsup import zoo
from kerasunsup.card import check_folder
from kerasunsup.errors import InputError, IntegrityError, KerasunsupError
from kerasunsup.export import KERAS_FILE, ServedModel
from kerasunsup.formats import FORMATS, convert
from kerasunsup.serving import smoke, warmup
from kerasunsup.serving.runtime import Refused, start
from kerasunsup.zoo import catalogue

pytestmark = pytest.mark.slow

TRAINED = sorted(card.name for card in catalogue.cards())
NAME = "vae_fashion_mnist"
OLDER = "tensorflow-cpu==2.20.0"
CLIENTS, SECONDS = 8, 60


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Makes a virtual environment with packages in it: gives its Python."""
    kept = os.environ.get("KERASUNSUP_VENVS")
    base = Path(kept) if kept else tmp_path_factory.mktemp("venvs")

    def build(name, *arguments):
        python = base / name / "bin" / "python"
        if not (base / name / "complete").is_file():
            venv.create(base / name, with_pip=True, clear=True)
            command = [python, "-m", "pip", "install", "--quiet", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (base / name / "complete").touch()
        return python

    return build


def worst(differences):
    return max(differences.values())


# An older TensorFlow


@pytest.fixture(scope="module")
def older(environment):
    """The C session loader of one release before."""
    python = environment("older", "--no-deps", OLDER)
    (library,) = python.parents[1].glob("lib/*/site-packages/tensorflow")
    with start(library) as process:
        yield process


@pytest.mark.parametrize("name", TRAINED)
def test_the_release_before_answers_alike(name, older):
    folder = zoo.saved_model(name)
    for signature, inputs, wanted in warmup.read(folder):
        assert worst(warmup.differences(wanted, older.run(folder, signature, inputs))) < 1e-5
    assert older.version == OLDER.partition("==")[2]


# OpenVINO reads the folder without TensorFlow

OPENVINO = """
import sys, numpy, openvino
folder, given, answer = sys.argv[1:]
model = openvino.convert_model(folder)
assert "tensorflow" not in sys.modules
model = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
with numpy.load(given) as arrays:
    outputs = model({name: arrays[name] for name in arrays.files})
names = [next(name for name in port.names if ":" not in name) for port in outputs]
numpy.savez(answer, **dict(zip(names, outputs.values())))
"""


# It reads serving_default alone, and has no operation for the random numbers of a GAN's.
@pytest.mark.parametrize("name", [n for n in TRAINED if zoo.recipe(n).family != "gan"])
def test_openvino_reads_the_folder(name, environment, tmp_path):
    python = environment("openvino", "openvino", "numpy")
    folder = zoo.saved_model(name)
    for signature, inputs, wanted in warmup.read(folder):
        if signature != "serving_default":
            continue
        np.savez(tmp_path / "given.npz", **inputs)
        command = [python, "-c", OPENVINO, folder, tmp_path / "given.npz", tmp_path / "answer.npz"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "answer.npz") as answer:
            got = {key: answer[key].astype(wanted[key].dtype) for key in answer.files}
        for key, value in wanted.items():
            if value.dtype == object:
                got[key] = warmup.as_objects([text.encode() for text in got[key]])
        assert worst(warmup.differences(wanted, got)) < 1e-4


# KServe


@pytest.fixture(scope="module")
def kserve(environment, tmp_path_factory):
    """(URL, process) of a KServe server with one entry."""
    python = environment("kserve", "kserve==0.21.0", "tensorflow-cpu==2.21.0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("kserve_server.py")
    log = (tmp_path_factory.mktemp("kserve") / "log").open("w+")
    process = subprocess.Popen(
        [python, script, str(port), NAME, zoo.saved_model(NAME)],
        stdout=log,
        stderr=log,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/v1/models/{NAME}"):
                break
            assert process.poll() is None, Path(log.name).read_text()[-3000:]
            time.sleep(0.5)
        else:
            pytest.fail(f"no answer: {Path(log.name).read_text()[-3000:]}")
        yield url, process
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def test_kserve_v1_answers_warm_up_requests(kserve):
    url, _ = kserve
    for signature, inputs, wanted in warmup.read(zoo.saved_model(NAME)):
        got = smoke.by_rows(url, NAME, signature, inputs, wanted)
        assert worst(warmup.differences(wanted, got)) < 1e-5


def test_kserve_v2_answers_warm_up_requests(kserve):
    url, _ = kserve
    types = {"float32": "FP32", "int32": "INT32"}
    for signature, inputs, wanted in warmup.read(zoo.saved_model(NAME)):
        if "image_bytes" in inputs:
            continue
        tensors = [
            {
                "name": name,
                "shape": list(value.shape),
                "datatype": types[value.dtype.name],
                "data": value.ravel().tolist(),
            }
            for name, value in inputs.items()
        ]
        body = json.dumps({"id": "1", "inputs": tensors}).encode()
        request = urllib.request.Request(f"{url}/v2/models/{NAME}-{signature}/infer", body)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as response:
            outputs = json.load(response)["outputs"]
        got = {
            one["name"]: np.array(one["data"], wanted[one["name"]].dtype).reshape(one["shape"])
            for one in outputs
        }
        assert worst(warmup.differences(wanted, got)) < 1e-5


def test_kserve_refuses_bad_requests_and_lives_on(kserve):
    url, _ = kserve
    nan = {"x": np.full((1, 28, 28, 1), np.nan, "float32")}
    like = {"latent": np.zeros(1, "float32"), "log_variance": np.zeros(1, "float32")}
    text = {"image_bytes": warmup.as_objects([b"text"])}
    for signature, inputs, named in (
        ("encode", nan, "x"),
        ("encode", {"x": np.zeros((2, 9), "float32")}, "x"),
        ("encode", {"y": np.zeros((2, 9), "float32")}, "x"),
        ("encode_bytes", text, "image_bytes"),
    ):
        with pytest.raises(KerasunsupError, match=named):
            smoke.by_rows(url, NAME, signature, inputs, like)
    test_kserve_v1_answers_warm_up_requests(kserve)


def test_kserve_under_load(kserve):
    """Eight clients for a minute: no error, memory flat; prints the latencies."""
    url, process = kserve
    requests = list(warmup.read(zoo.saved_model(NAME)))
    times: dict[tuple[str, int], list[float]] = {}
    lock, end = threading.Lock(), time.monotonic() + SECONDS
    memory: list[int] = []

    def client(number):
        i = number
        while time.monotonic() < end:
            signature, inputs, wanted = requests[i % len(requests)]
            i += 1
            began = time.perf_counter()
            got = smoke.by_rows(url, NAME, signature, inputs, wanted)
            seconds = time.perf_counter() - began
            assert worst(warmup.differences(wanted, got)) < 1e-5
            with lock:
                key = signature, len(next(iter(inputs.values())))
                times.setdefault(key, []).append(seconds)

    def watch():
        while time.monotonic() < end:
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory.append(int(status.partition("VmRSS:")[2].split()[0]) // 1024)
            time.sleep(5)

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        for future in [pool.submit(watch), *(pool.submit(client, i) for i in range(CLIENTS))]:
            future.result()
    for (signature, batch), values in sorted(times.items()):
        values.sort()
        median, tail = statistics.median(values), values[int(0.99 * len(values))]
        print(f"{signature} | {batch} | {len(values)} | {1e3 * median:.1f} | {1e3 * tail:.1f}")
    print("requests", sum(map(len, times.values())), "memory MB", memory)
    assert memory[-1] < 1.1 * memory[1] + 20


# Folders that are read-only, shared or attacked


def test_a_read_only_folder_and_two_processes(tmp_path):
    folder = shutil.copytree(zoo.saved_model(NAME), tmp_path / "1")
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    try:
        with start() as one, start() as other:
            for signature, inputs, wanted in warmup.read(folder):
                for process in (one, other):
                    got = process.run(folder, signature, inputs)
                    assert worst(warmup.differences(wanted, got)) < 1e-5
        ServedModel(folder)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


def test_a_hostile_keras_file_runs_nothing(tmp_path):
    """A Lambda layer with code of its own, in the place of the model."""
    marker = tmp_path / "it_ran"
    x = keras.Input((2,))
    code = f"open({str(marker)!r}, 'w').close()"
    hostile = keras.Model(x, keras.layers.Lambda(lambda v: (exec(code), v)[1])(x))
    marker.unlink(missing_ok=True)
    folder = shutil.copytree(zoo.saved_model(NAME), tmp_path / "1")
    hostile.save(folder / KERAS_FILE)
    with pytest.raises(Exception, match="Lambda|unsafe"):
        ServedModel(folder)
    with zipfile.ZipFile(zoo.saved_model(NAME) / KERAS_FILE) as archive:
        config = json.loads(archive.read("config.json"))
        members = {name: archive.read(name) for name in archive.namelist()}
    config["module"], config["class_name"], config["registered_name"] = "os", "system", None
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(folder / KERAS_FILE, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises((TypeError, ValueError, InputError)):
        ServedModel(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
def test_half_a_file_is_refused(name, tmp_path):
    folder = shutil.copytree(zoo.saved_model(NAME), tmp_path / "1")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with start() as process, pytest.raises(Refused):
        process.run(folder, "generate", {"seed": np.zeros((1, 2), "int32")})
    with pytest.raises(IntegrityError, match=name):
        check_folder(folder, catalogue.root() / "zoo" / NAME / "card.json")


# Other formats


@pytest.mark.parametrize("name", ["vae_digits", "autoencoder_digits", "classifier_digits"])
@pytest.mark.parametrize("form", list(FORMATS))
def test_other_formats(form, name, tmp_path):
    for package in FORMATS[form].packages:
        pytest.importorskip(package)
    model = zoo.load(name)
    written, left_out = convert(model, tmp_path / form, form)
    assert set(written) | set(left_out) == set(model.verbs)
    assert set(left_out) <= {"generate"} | ({"score"} if form == "openvino" else set())
    assert max(written.values()) < 1e-5
    for verb in written:
        assert (tmp_path / form / f"{verb}{FORMATS[form].suffix}").is_file()


@pytest.mark.parametrize("form", list(FORMATS))
def test_texts_are_left_out_of_other_formats(form, tmp_path):
    for package in FORMATS[form].packages:
        pytest.importorskip(package)
    model = zoo.load("classifier_digits")
    model.class_names = tuple(f"n° {i}" for i in range(10))
    written, _ = convert(model, tmp_path / form, form)
    run = FORMATS[form].read(tmp_path / form / f"classify{FORMATS[form].suffix}")
    assert set(written) == {"encode", "classify"}
    assert set(run({"x": np.zeros((2, 8, 8, 1), "float32")})) == {"label", "probabilities"}
    names = (tmp_path / form / "class_names.txt").read_text("utf-8")
    assert tuple(names.splitlines()) == model.class_names


def test_a_format_that_is_not_there(monkeypatch, tmp_path):
    model = zoo.load("vae_digits")
    with pytest.raises(InputError, match="one of savedmodel, onnx"):
        convert(model, tmp_path / "x", "pickle")
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], packages=("no_such_package",)))
    with pytest.raises(InputError, match=r"pip install 'kerasunsup\[onnx\]'"):
        convert(model, tmp_path / "x", "onnx")
    assert not (tmp_path / "x").exists()
