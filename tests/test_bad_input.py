"""What a user can do wrong: one line that says what was expected, exit code 2 or 1, no debris."""

from __future__ import annotations

import errno
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kerasunsup
from kerasunsup import data as datasets
from kerasunsup import training, zoo
from kerasunsup.cli import main
from kerasunsup.errors import IntegrityError
from kerasunsup.zoo import registry

RECIPE = """
name = "tiny"
family = "vae"
[data]
name = "digits"
[model]
class = "VAE"
latent_dim = 2
backbone = { builder = "dense_backbone", units = [8] }
decoder = { builder = "dense_decoder", units = [8] }
[compile.optimizer]
name = "Adam"
[train]
epochs = 12
batch_size = 512
[evaluate]
protocols = ["mse"]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished, measured run."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "tiny.toml").write_text(RECIPE.replace("epochs = 12", "epochs = 1"))
    training.train(folder / "tiny.toml", folder / "run", verbose=0)
    zoo.measure(folder / "run")
    return folder / "run"


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command in this process, in a folder with x.npy; gives its one line of error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    np.save("x.npy", datasets.load("digits").test[:4])

    def call(*arguments, code=2):
        before = sorted(Path().rglob("*"))
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        message = capsys.readouterr().err
        assert stop.value.code == code, message
        assert message.startswith("error: ") and message.count("\n") == 1
        assert sorted(Path().rglob("*")) == before
        return message

    return call


def process(*arguments, **options):
    """Starts a command in a process of its own."""
    source = str(Path(kerasunsup.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "kerasunsup", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"},
        **options,
    )


# Names and recipes


def test_unknown_entry(refused):
    for command in (["show"], ["train"], ["verify"], ["evaluate"]):
        assert "Did you mean `vae_digits`" in refused(*command, "vae_digitz")
    assert "Did you mean `vae_digits`" in refused("encode", "vae_digitz", "x.npy", "-o", "y.npy")
    assert "not found" in refused("train", "./nothing.toml")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (RECIPE.replace("[data]", "[data"), "line 4"),
        (RECIPE.replace("epochs", "epochz"), "train.epochz"),
        (RECIPE.replace("epochs = 12", 'epochs = "x"'), "train.epochs"),
        (RECIPE.replace("latent_dim", "beeta = 1\nlatent_dim"), "model.beeta"),
        (RECIPE.replace("dense_decoder", "dense_decader"), "model.decoder.builder"),
        (RECIPE.replace('"digits"', '"./digits.npy"'), "digits.npy"),
    ],
)
def test_broken_recipe(wrong, named, refused):
    Path("broken.toml").write_text(wrong)
    assert named in refused("train", "broken.toml")


def test_wrong_options(refused, run):
    assert "train.epochz" in refused("train", run, "--set", "train.epochz=3", "-o", "new")
    assert "strategy" in refused("train", run, "--strategy", "magic", "-o", "new")
    assert "--count" in refused("generate", run, "--count", "0", "-o", "a.png")
    assert "--seed" in refused("generate", run, "--seed", "-1", "-o", "a.png")
    assert "--count" in refused("generate", run, "--count", "many", "-o", "a.png")
    assert ".npz" in refused("encode", run, "x.npy", "-o", "y.txt")
    assert "images only" in refused("encode", run, "x.npy", "-o", "y.png")
    assert "where" in refused("list", "--where", "nll")
    assert "already holds a run" in refused("train", run, "-o", run)
    assert "empty folder" in refused("export", run, "-o", run)
    assert "run.json" in refused("evaluate", run / "saved_model")


# Arrays and files


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((4, 28, 28, 1), "float32"), "(batch, 8, 8, 1)"),
        (np.zeros((4, 8, 8), "float32"), "x[..., None]"),
        (np.full((4, 8, 8, 1), 200.0, "float32"), "[0, 1]"),
        (np.full((4, 8, 8, 1), np.nan, "float32"), "NaN"),
        (np.zeros((0, 8, 8, 1), "float32"), "at least one"),
        (np.full((4, 8, 8, 1), "a"), "numeric"),
        (np.zeros((4, 8, 8, 1), "complex64"), "numeric"),
    ],
)
def test_wrong_arrays(array, named, refused, run):
    np.save("wrong.npy", array)
    message = refused("encode", run, "wrong.npy", "-o", "y.npy")
    assert named in message and "Received" in message


def test_unreadable_files(refused, run):
    x = Path("x.npy").read_bytes()
    contents = {
        "truncated.npy": x[:-100],
        "empty.npy": b"",
        "text.npy": b"hello",
        "text.npz": b"hello",
        "text.png": b"hello",
        "ragged.csv": b"a,b\n1,2\n3\n",
        "words.csv": b"a,b\n1,x\n",
        "x.docx": x,
    }
    for name, content in contents.items():
        Path(name).write_bytes(content)
        assert name in refused("encode", run, name, "-o", "y.npy")
    np.save("objects.npy", np.array([{}, None]), allow_pickle=True)
    assert "objects.npy" in refused("encode", run, "objects.npy", "-o", "y.npy")
    assert "not found" in refused("encode", run, "nowhere.npy", "-o", "y.npy")
    assert "Expected the folder" in refused("encode", "x.npy", "x.npy", "-o", "y.npy")


# SavedModels


@pytest.mark.parametrize("name", ["variables/variables.data-00000-of-00001", "saved_model.pb"])
def test_a_changed_byte(name, refused, run, tmp_path):
    shutil.copytree(run, "copy")
    zoo.register("copy")
    file = Path("copy/saved_model/1", name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert name in refused("verify", "tiny", code=1)
    assert name in refused("generate", "tiny", "-o", "a.npy", code=1)
    with pytest.raises(IntegrityError, match=re.escape(name)):
        zoo.load("tiny")


def test_a_damaged_folder(refused, run):
    shutil.copytree(run, "copy")
    for name in ("variables/variables.index", "saved_model.pb", "assets.extra/model.keras"):
        file = Path("copy/saved_model/1", name)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        assert "damaged" in refused("generate", "copy", "-o", "a.npy")
        file.write_bytes(content)
    Path("copy/model.keras").write_bytes(b"hello")
    assert "damaged" in refused("export", "copy", "-o", "exported")
    shutil.rmtree("copy/saved_model")
    assert "SavedModel" in refused("generate", "copy", "-o", "a.npy")
    assert "run.json" in refused("evaluate", ".")


# Targets


def test_a_file_in_the_place_of_a_folder(refused, run):
    Path("file").touch()
    for command in (
        ["generate", run, "-o", "file/a.png"],
        ["encode", run, "x.npy", "-o", "file/a.npy"],
        ["export", run, "-o", "file/1"],
        ["train", run, "-o", "file/run"],
        ["serve-config", "tiny", "-o", "file"],
    ):
        zoo.register(run)
        assert "file" in refused(*command, code=1)
    Path("full").mkdir()
    Path("full/a").touch()
    assert "empty folder" in refused("generate", run, "-o", "full")


def test_a_read_only_folder(refused, run):
    Path("locked").mkdir(mode=0o500)
    if os.access("locked", os.W_OK):
        pytest.skip("root writes into any folder, and chattr +i needs a file system that has it")
    assert "read-only" in refused("generate", run, "-o", "locked/a.png", code=1)
    assert "Cannot write" in refused("train", run, "-o", "locked/run", code=1)


def test_a_full_disk(refused, run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array_header_1_0", full)
        assert "No space left" in refused("generate", run, "-o", "a.npy", code=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left" in refused("export", run, "-o", "exported", code=1)


def test_a_limit_on_the_size_of_files(run, tmp_path):
    """A real failure of write(2), in the middle of a training."""
    limit = (4096, 4096)
    command = process(
        *("train", run.parent / "tiny.toml", "-o", tmp_path / "run"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    _, error = command.communicate()
    assert command.returncode == 1
    assert re.fullmatch(r"error: Cannot write \S+/checkpoint/\d+: File too large\..*\n", error)
    assert not list((tmp_path / "run" / "checkpoint").iterdir())


# Ctrl-C


def test_ctrl_c_and_resume(tmp_path):
    Path(tmp_path, "tiny.toml").write_text(RECIPE)
    command = process("train", "tiny.toml", "-o", "run", cwd=tmp_path)
    assert command.stdout is not None
    for line in command.stdout:
        if line.startswith("Epoch 3/12"):
            command.send_signal(signal.SIGINT)
            break
    _, error = command.communicate()
    assert command.returncode == 1
    resume = re.fullmatch(r"error: Stopped in epoch \d+; .* Go on with: kerasunsup (.*)\n", error)
    assert resume, error
    assert not (tmp_path / "run" / "saved_model").exists()
    command = process(*shlex.split(resume[1]), cwd=tmp_path)
    printed, error = command.communicate()
    assert (command.returncode, error) == (0, "")
    assert "Epoch 12/12" in printed and "Epoch 1/12" not in printed
    assert (tmp_path / "run" / "card.json").is_file()
