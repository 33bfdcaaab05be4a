"""Law 1 on real worker processes, law 2 when one of them dies, and how they find each other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicated import CASES, examples, train

from kerasunsup import strategies
from kerasunsup.cli.app import main
from kerasunsup.errors import InputError, TrainingError
from kerasunsup.strategies import Cluster, meet, read_tf_config

EVERY = (*CASES, "stream")
SECONDS_TO_END = 60


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment(index, ports, **more):
    workers = [f"127.0.0.1:{port}" for port in ports]
    config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "TF_CONFIG": json.dumps(config), "PYTHONPATH": path, **more}


def train_in_cluster(workers, job, folder):
    """What the chief wrote of each case."""
    ports = free_ports(workers)
    script = str(Path(__file__).parent / "cluster_worker.py")
    with contextlib.ExitStack() as stack:
        processes = []
        for i in range(workers):
            log = stack.enter_context(open(folder / f"worker_{i}.log", "w"))
            command = [sys.executable, script, str(folder), job]
            process = subprocess.Popen(command, env=environment(i, ports), stdout=log, stderr=log)
            stack.callback(process.kill)
            processes.append(process)
        codes = [process.wait(timeout=900) for process in processes]
    assert codes == [0] * workers, (folder / "worker_0.log").read_text()[-3000:]
    return {file.stem: np.load(file) for file in folder.glob("*.npz")}


def assert_as_one_replica(case, several):
    options = {"stream": True, "steps_per_execution": 3} if case == "stream" else {}
    name = "vae" if case == "stream" else case
    model, history = train(CASES[name], examples(name), **options)
    for i, weight in enumerate(model.get_weights()):
        np.testing.assert_allclose(several[f"weight_{i}"], weight, atol=1e-6)
    for metric, values in history.items():
        near = {"atol": 0.1} if "accuracy" in metric else {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(several[metric], values, err_msg=metric, **near)
    if "predicted" in several:
        x = examples(name)
        np.testing.assert_allclose(several["predicted"], model.predict(x, verbose=0), atol=1e-6)
        wanted = model.evaluate(x, verbose=0)
        np.testing.assert_allclose(several["evaluated"], wanted, rtol=1e-5)


@pytest.mark.slow
def test_two_workers_of_two_replicas(tmp_path):
    for case, several in train_in_cluster(2, "replicas", tmp_path).items():
        assert_as_one_replica(case, several)


@pytest.fixture(scope="module")
def all_families(tmp_path_factory):
    return train_in_cluster(2, ",".join(EVERY), tmp_path_factory.mktemp("all"))


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY)
def test_two_workers_train_every_family(case, all_families):
    assert_as_one_replica(case, all_families[case])


@pytest.mark.slow
def test_three_workers(tmp_path):
    cases = ("vae", "conditional gan", "finetuned", "vq-vae")
    for case, several in train_in_cluster(3, ",".join(cases), tmp_path).items():
        assert_as_one_replica(case, several)


@pytest.mark.slow
def test_workers_that_would_read_different_examples_are_told(tmp_path):
    told = train_in_cluster(2, "differing", tmp_path)
    assert len(told) == 2
    for arrays in told.values():
        seeds, shuffles = arrays["messages"]
        assert "give the model a `seed`" in seeds
        assert "give every shuffle a seed" in shuffles


# Runs


def command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "kerasunsup", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def train_command(out, *more):
    recipe = out.parent / "tiny.toml"
    recipe.write_text(
        'name = "tiny"\nfamily = "vae"\n[data]\nname = "iris"\n'
        '[model]\nclass = "VAE"\nlatent_dim = 2\nlikelihood = "gaussian"\n'
        '[model.backbone]\nbuilder = "dense_backbone"\nunits = [8]\n'
        '[model.decoder]\nbuilder = "dense_decoder"\nunits = [8]\n'
        '[compile.optimizer]\nname = "Adam"\nschedule = "cosine"\n'
        "[train]\nepochs = 4\nbatch_size = 16\nseed = 3\nstandardize = true\n"
        'checkpoint_every = 2\n[evaluate]\nprotocols = ["elbo"]\n'
    )
    return ("train", recipe, "-o", out, *more)


def test_a_cluster_on_this_machine_trains_measures_and_leaves_one_run(tmp_path):
    out = finished(command(*train_command(tmp_path / "run", "--workers", "2")))
    assert "2 replicas on 2 workers; batch 16, 8 for each replica" in out and "elbo" in out
    assert out.count("Strategy:") == 1  # the chief alone is heard
    assert json.loads((tmp_path / "run" / "run.json").read_text())["replicas"] == 2
    finished(command(*train_command(tmp_path / "one", "--strategy", "none")))
    models = [keras.saving.load_model(tmp_path / n / "model.keras") for n in ("run", "one")]
    for p, q in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-5)


def workers_of(process):
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["chief", "worker"])
def test_a_lost_worker_ends_all_and_the_next_start_goes_on(victim, tmp_path):
    more = ("--set", "train.epochs=12", "--workers", "2")
    straight = command(*train_command(tmp_path / "straight", *more))
    process = command(*train_command(tmp_path / "run", *more))
    checkpoints = tmp_path / "run" / "checkpoint"
    while len(list(checkpoints.glob("0*"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    os.kill(workers_of(process)[victim], signal.SIGKILL)
    begun = time.monotonic()
    _, err = process.communicate(timeout=300)
    assert time.monotonic() - begun < SECONDS_TO_END
    assert process.returncode == 1 and "lost a worker" in err and "--resume" in err
    finished(command(*train_command(tmp_path / "run", *more, "--resume")))
    finished(straight)
    models = [keras.saving.load_model(tmp_path / n / "model.keras") for n in ("run", "straight")]
    for p, q in zip(*(model.variables for model in models), strict=True):
        np.testing.assert_array_equal(p, q)


# TF_CONFIG


def config(task=None, **jobs):
    return json.dumps({"cluster": jobs, "task": task or {"type": "worker", "index": 0}})


def test_tf_config_is_read():
    cluster = read_tf_config(config(worker=["a:1", "b:2"], task={"type": "worker", "index": 1}))
    assert cluster == Cluster((("worker", "a:1"), ("worker", "b:2")), 1)
    chief = read_tf_config(config(chief=["c:1"], worker=["a:1"]))
    assert chief.workers[0] == ("chief", "c:1") and chief.own == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not set"),
        ("{", "no JSON"),
        ("[1]", "no table `cluster`"),
        (config(), "no worker"),
        (config(worker=["a:1"], ps=["b:1"]), "job `ps`"),
        (config(worker=["a"]), "'a', which is not host:port"),
        (config(worker=["a:99999"]), "not host:port"),
        (config(worker="a:1"), "no list"),
        (config(worker=["a:1", "a:1"]), "an address twice"),
        (config(worker=["a:1"], task={"type": "worker", "index": 1}), "from 0 to 0"),
        (config(worker=["a:1"], task={"type": "worker", "index": "0"}), "`task.index` '0'"),
        (config(worker=["a:1"], task={"type": "chief", "index": 0}), "task.type"),
    ],
)
def test_a_tf_config_that_makes_no_sense_is_refused(text, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TF_CONFIG", text or "")
    with pytest.raises(InputError, match=message):
        strategies.choose("multiworker")
    with pytest.raises(SystemExit) as stop:
        main(["train", "vae_iris", "-o", str(tmp_path / "run"), "--strategy", "multiworker"])
    assert stop.value.code == 2 and message in capsys.readouterr().err.replace("\\'", "'")
    assert not (tmp_path / "run").exists()


def local_cluster(own, ports):
    return Cluster(tuple(("worker", f"127.0.0.1:{port}") for port in ports), own)


def test_a_worker_that_does_not_come_is_named():
    here, absent = free_ports(2)
    with pytest.raises(TrainingError, match=f"worker at 127.0.0.1:{absent}: start every worker"):
        meet(local_cluster(0, [here, absent]), seconds=0.3)


def test_workers_meet_in_any_order():
    ports, left, all_met = free_ports(3), [], threading.Event()

    def attend(i):
        time.sleep(0.2 * (2 - i))
        meet(local_cluster(i, ports), seconds=20)
        with socket.create_server(("127.0.0.1", ports[i])):  # as TensorFlow's does then
            left.append(i)
            all_met.wait(20)

    threads = [threading.Thread(target=attend, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    while len(left) < 3 and any(thread.is_alive() for thread in threads):
        time.sleep(0.05)
    all_met.set()
    assert sorted(left) == [0, 1, 2]


def test_a_port_in_use():
    ports = free_ports(2)
    taken = contextlib.closing(socket.create_server(("", ports[0])))
    with taken, pytest.raises(InputError, match=rf"port {ports[0]}, which must be free"):
        meet(local_cluster(0, ports), seconds=1)


def test_strategies_by_name(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    default = tf.distribute.get_strategy()
    assert strategies.choose("auto") is strategies.choose("none") is default
    assert strategies.is_chief(default)
    assert (
        strategies.describe(default, 12)
        == "Strategy: none, 1 replica; batch 12, 12 for each replica"
    )
    given = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategies.choose(given) is given and strategies.is_chief(given)
    assert strategies.describe(given, 13) == (
        "Strategy: MirroredStrategy, 2 replicas; batch 13, 6.5 for each replica"
    )
    with pytest.raises(InputError, match="auto, none, mirrored, multiworker, tpu"):
        strategies.choose("miror")
    with pytest.raises(InputError, match="needs a TPU"):
        strategies.choose("tpu")
