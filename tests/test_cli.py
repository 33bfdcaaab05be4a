"""The command line as a user meets it: one real training, then every command on what it left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import kerasunsup
from kerasunsup import data as datasets
from kerasunsup import models, networks, zoo
from kerasunsup.cli import main, outputs, parts, verbs
from kerasunsup.export import ServedModel, export
from kerasunsup.models.verbs import VOCABULARY
from kerasunsup.serving import config
from kerasunsup.zoo import registry

RECIPE = """
name = "tiny"
family = "vae"
[data]
name = "digits"
[model]
class = "VAE"
latent_dim = 2
backbone = { builder = "dense_backbone", units = [16] }
decoder = { builder = "dense_decoder", units = [16] }
[compile.optimizer]
name = "Adam"
learning_rate = 0.003
[train]
epochs = 50
picture_every = 2
[evaluate]
protocols = ["mse", "elbo"]
"""


def environment(folder):
    """A user's: nothing quiet, caches of their own, the package importable from anywhere."""
    kept = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    source = str(Path(kerasunsup.__file__).parents[1])
    return {**kept, "PYTHONPATH": source, "XDG_CACHE_HOME": str(folder), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`kerasunsup train` in a process of its own: (run folder, what it printed)."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "my.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "kerasunsup", "train", "my.toml", "--set", "train.epochs=2"]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "runs" / "tiny", done.stdout


@pytest.fixture
def entry(trained, monkeypatch):
    """The trained run, registered as the entry `tiny`."""
    monkeypatch.setattr(registry, "_registered", {})
    return zoo.register(trained[0])


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs a command in this process, in an empty folder; gives stdout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments, code=0):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert stop.value.code == code, err
        assert bool(err) == bool(code), err
        return err if code else out

    return run


# Without TensorFlow


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["show", "vae_digits"], ["train", "-h"]]
)
def test_light_commands_import_neither_tensorflow_nor_numpy(arguments, tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "kerasunsup", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "typer" in imported
    assert not imported & {"tensorflow", "keras", "numpy", "sklearn", "matplotlib"}


def test_a_command_for_every_verb_that_a_family_has():
    families = {
        verb
        for cls in (models.Autoencoder, models.VAE, models.GAN, models.Classifier)
        for verb in VOCABULARY
        if hasattr(cls, verb)
    }
    assert {*verbs.INPUT_VERBS, "generate", "discriminate"} == families == set(verbs.OUTPUTS)


# Runs


def test_train_leaves_everything_and_says_where(trained):
    run, printed = trained
    for name in ("recipe.toml", "model.keras", "history.csv", "run.json", "card.json"):
        assert (run / name).is_file()
    assert "Epoch 2/2" in printed and re.search(r"^mse .*pca_2 ", printed, re.MULTILINE)
    for place in ("saved_model/1", "preview.png", "card.json"):
        assert f"runs/tiny/{place}" in printed
    for picture in ("preview.png", "samples/epoch_002.png"):
        with Image.open(run / picture) as image:
            image.load()
    card = zoo.Card.read(run / "card.json")
    assert card.recipe.train.epochs == 2
    assert card.sha256.keys() >= {"saved_model.pb", "assets.extra/model.keras"}
    assert card.calibration["anomaly_threshold"] > 0
    assert card.input.shape == (8, 8, 1) and card.input.value_range == (0, 1)
    assert card.data_fingerprint == datasets.load("digits").fingerprint


def test_evaluate_measures_a_run_again(trained, call):
    before = (trained[0] / "card.json").read_text()
    (trained[0] / "card.json").unlink()
    assert "pca_2" in call("evaluate", trained[0])
    assert (trained[0] / "card.json").read_text() == before


def test_evaluate_compares_an_entry_with_its_card(entry, call):
    printed = call("evaluate", entry)
    assert printed.split()[:4] == ["metric", "measured", "card", "baselines"]
    row = next(line.split() for line in printed.splitlines() if line.startswith("mse"))
    assert row[1] == row[2]


def test_export_makes_the_same_saved_model(trained, call, tmp_path):
    assert "encode" in call("export", trained[0], "-o", "models/tiny/3")
    one, other = ServedModel(trained[0] / "saved_model" / "1"), ServedModel("models/tiny/3")
    x = datasets.load("digits").test[:5]
    np.testing.assert_array_equal(one.score(x)["score"], other.score(x)["score"])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    assert "new or empty" in call("export", trained[0], "-o", "photos", code=2)
    assert (tmp_path / "photos" / "a.jpg").exists()


def test_models_of_the_users_own_classes(call, tmp_path, monkeypatch):
    """A .keras file whose class, with a verb of its own, is in a module of the user's."""
    (tmp_path / "my_models.py").write_text(
        "import keras\n"
        "from kerasunsup.models import Autoencoder, verb\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Residuals(Autoencoder):\n"
        "    @verb\n"
        "    def residual(self, x):\n"
        "        return {'residual': x - self.decoder(self.encoder(x))}\n"
    )
    (tmp_path / "write.py").write_text(
        "from my_models import Residuals\n"
        "from kerasunsup import networks\n"
        "dense = networks.dense_backbone((4,), [3]), networks.dense_decoder(2, (4,), [3])\n"
        "Residuals(*dense, 2).save('own.keras')\n"
    )
    env = environment(tmp_path)
    subprocess.run([sys.executable, "write.py"], cwd=tmp_path, env=env, check=True)
    message = call("export", "own.keras", "-o", "own/1", code=2)
    assert "--module NAME" in message and message.endswith("class 'Residuals'\n")
    assert "`--module` must name" in call(
        "--module", "nowhere", "export", "own.keras", "-o", "o", code=2
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "residual)" in call("--module", "my_models", "export", "own.keras", "-o", "own/1")
    np.save("x.npy", np.ones((3, 4), "float32"))
    call("--module", "my_models", "encode", "./own", "x.npy", "-o", "z.npy")
    assert np.load("z.npy").shape == (3, 2)


# Verbs


@pytest.fixture(scope="module")
def served(trained):
    return ServedModel(trained[0] / "saved_model" / "1")


def test_verbs_write_what_the_model_answers(trained, served, entry, call):
    x = datasets.load("digits").test[:20]
    np.save("x.npy", x)
    latent = served.encode(x)

    printed = call("encode", trained[0], "x.npy", "-o", "new/latent.npz")
    assert "latent (20, 2), log_variance (20, 2)" in printed
    with np.load("new/latent.npz") as file:
        assert file.files == ["latent", "log_variance"]
        np.testing.assert_array_equal(file["log_variance"], latent["log_variance"])

    call("encode", trained[0] / "saved_model", "x.npy", "-o", "latent.npy")
    np.testing.assert_array_equal(np.load("latent.npy"), latent["latent"])

    call("score", entry, "x.npy", "-o", "score.csv")
    table = np.genfromtxt("score.csv", delimiter=",", names=True, dtype=None, encoding=None)
    assert table.dtype.names == ("score", "probability", "is_anomaly")
    np.testing.assert_array_equal(table["score"].astype("float32"), served.score(x)["score"])

    call("decode", trained[0] / "saved_model" / "1", "latent.npy", "-o", "decoded.csv")
    decoded = np.loadtxt("decoded.csv", delimiter=",", skiprows=1, dtype="float32")
    wanted = served.decode(latent["latent"])["reconstruction"]
    np.testing.assert_array_equal(decoded, wanted.reshape(20, 64))

    call("reconstruct", entry, "x.npy", "-o", "pictures")
    names = sorted(path.name for path in Path("pictures").iterdir())
    assert names == [f"{i:02}.png" for i in range(20)]
    with Image.open("pictures/07.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.rint(wanted[7, ..., 0] * 255))
    call("encode", entry, "pictures", "-o", "again.npy")
    assert np.load("again.npy").shape == (20, 2)


def test_generate(entry, served, call):
    call("generate", entry, "--count", 5, "--seed", 7, "-o", "samples.npy")
    np.testing.assert_array_equal(np.load("samples.npy"), served.generate(5, seed=7)["samples"])
    call("generate", entry, "-o", "grid.png")
    with Image.open("grid.png") as image:
        assert image.size == (8 * 8 + 7 * 2, 8 * 8 + 7 * 2)


def test_classes_of_a_conditional_gan(call, tmp_path):
    shape = (8, 8, 1)
    model = models.GAN(
        networks.dense_generator(4, shape, [8], labels=3),
        networks.dense_discriminator(shape, [8], labels=3),
        4,
        labels=3,
        value_range=(0, 1),
    )
    export(model, "gan/1")
    call("generate", "./gan", "--count", 6, "--label", 2, "-o", "samples.npy")
    samples = np.load("samples.npy")
    np.testing.assert_allclose(samples, model.generate(6, label=2)["samples"], atol=1e-5)
    call("generate", "./gan", "--count", 6, "-o", "in_turn.npy")
    np.testing.assert_allclose(np.load("in_turn.npy")[2], samples[2], atol=1e-5)
    call("discriminate", "./gan", "samples.npy", "--label", 1, "-o", "logit.csv")
    logit = np.loadtxt("logit.csv", skiprows=1, dtype="float32")
    np.testing.assert_allclose(logit, model.discriminate(samples, label=1)["logit"], atol=1e-5)
    assert "[0, 3)" in call("generate", "./gan", "--label", 3, "-o", "x.npy", code=2)
    assert "label" in call("discriminate", "./gan", "samples.npy", "-o", "x.npy", code=2)
    assert not Path("x.npy").exists()


def folder_of_images(folder, x):
    folder.mkdir()
    for i, image in enumerate(np.rint(255 * x[..., 0]).astype("uint8")):
        Image.fromarray(image).save(folder / f"{i:02}.png")


def test_a_folder_with_unreadable_images(entry, served, call):
    x = datasets.load("digits").test[:20]
    folder_of_images(Path("images"), x)
    Path("images/03.png").write_bytes(b"no picture")
    content = Path("images/07.png").read_bytes()
    Path("images/07.png").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (50, 40)).save("images/20.jpg")  # resized, made grey
    message = call("score", entry, "images", "-o", "scores.csv", code=1)
    assert "left out: images/03.png: cannot identify image file" in message
    assert "left out: images/07.png: " in message and "2 of 21 images" in message
    header, *lines = Path("scores.csv").read_text().splitlines()
    assert header == "file,score,probability,is_anomaly"
    files, scores, *_ = zip(*(line.split(",") for line in lines), strict=True)
    kept = [i for i in range(20) if i not in (3, 7)]
    assert list(files) == [*(f"{i:02}.png" for i in kept), "20.jpg"]
    wanted = served.score(np.rint(255 * x).astype("uint8"))["score"]
    np.testing.assert_allclose(np.float32(scores[:-1]), wanted[kept], rtol=1e-5)

    call("encode", entry, "images", "-o", "latent.parquet", code=1)
    columns = parquet.read_table("latent.parquet")
    assert columns.column_names[:3] == ["file", "latent_0", "latent_1"] and columns.num_rows == 19
    call("encode", entry, "images", "-o", "latent.npz", code=1)
    with np.load("latent.npz") as file:
        np.testing.assert_array_equal(file["latent"][:, 0], columns["latent_0"].to_numpy())
        assert file["file"][-1] == "20.jpg"
    call("reconstruct", entry, "images", "-o", "again", code=1)
    names = [f"{i:02}.png" for i in [*kept, 20]]
    assert sorted(path.name for path in Path("again").iterdir()) == names
    assert "no image files" in call("decode", entry, "images", "-o", "x.npy", code=2)
    for path in Path("images").iterdir():
        path.write_bytes(b"")
    assert "images/00.png must be" in call("score", entry, "images", "-o", "none.csv", code=2)
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_a_stopped_command_goes_on(entry, served, call, monkeypatch):
    monkeypatch.setattr(verbs, "CHUNK", 8)
    np.save("x.npy", datasets.load("digits").test[:20])
    append, started = parts.Parts.append, []

    def stop_before_the_third(self, part):
        started.append(len(part))
        if len(started) == 3:
            raise KeyboardInterrupt
        append(self, part)

    monkeypatch.setattr(parts.Parts, "append", stop_before_the_third)
    for out in ("z.npy", "z.csv"):
        started.clear()
        message = call("encode", entry, "x.npy", "-o", out, code=1)
        assert "Stopped after 16 of 20" in message and "the same command" in message
        assert not Path(out).exists()
        call("encode", entry, "x.npy", "-o", out)
        assert started == [8, 8, 4, 4]
    for given in ("x.npz", "x.csv", "x.parquet"):
        x = np.load("x.npy")
        if given == "x.npz":
            np.savez(given, x=x)
        else:
            outputs.write([{"x": served.encode(x)["latent"]}], Path(given), range(20))
        verb = "encode" if given == "x.npz" else "decode"
        started.clear()
        call(verb, entry, given, "-o", "y.npy", code=1)
        call(verb, entry, given, "-o", "y.npy")
        assert started == [8, 8, 4, 4]
        wanted = served.encode(x)["latent"]
        if verb == "decode":
            wanted = served.decode(wanted)["reconstruction"]
        np.testing.assert_allclose(np.load("y.npy"), wanted, atol=1e-6)
    latent = served.encode(np.load("x.npy"))["latent"]
    np.testing.assert_allclose(np.load("z.npy"), latent, atol=1e-6)
    assert not Path(".z.npy-parts").exists()
    started.clear()
    call("encode", entry, "x.npy", "-o", "z.npy", code=1)  # stopped, then other inputs
    np.save("x.npy", datasets.load("digits").test[20:30])
    call("encode", entry, "x.npy", "-o", "z.npy")
    assert started == [8, 8, 4, 8, 2] and len(np.load("z.npy")) == 10


# The catalogue


def test_list_and_show(entry, call):
    assert re.search(r"^tiny +vae +digits +encode decode", call("list"), re.MULTILINE)
    assert "tiny" not in call("list", "--family", "autoencoder")
    listed = json.loads(call("list", "--json", "--verb", "generate", "--where", "mse<1"))
    tiny = next(one for one in listed if one["name"] == "tiny")
    assert tiny["verbs"] == ["encode", "decode", "reconstruct", "generate", "score"]
    assert tiny["metrics"]["mse"]["n"] == 360
    shown = call("show", "tiny")
    assert "8x8x1 float32 in [0, 1]" in shown and "latent_dim = 2" in shown and "pca_2" in shown
    assert json.loads(call("show", "tiny", "--json"))["recipe"]["model"]["latent_dim"] == 2


def test_serve_config(entry, call, trained):
    call("serve-config", "tiny", "-o", "serving")
    models = Path("serving/models.config").read_text()
    assert 'name: "tiny" base_path: "/models/tiny" model_platform: "tensorflow"' in models
    compose = Path("serving/docker-compose.yml").read_text()
    assert f'source: "{trained[0]}/saved_model", target: /models/tiny' in compose
    quoted = config.compose_file({"a": Path('/x$y/"z"/1')})
    assert r'source: "/x$$y/\"z\""' in quoted


def test_verify(entry, call):
    assert re.fullmatch(r"tiny: \d+ files are as its card says\n", call("verify", "tiny"))


# Errors


def test_debug_shows_the_traceback(call):
    assert "Traceback" not in call("show", "nothing_like_it", code=2)
    assert "Traceback" in call("show", "nothing_like_it", "--debug", code=2)


def test_usage_errors_are_one_line(call):
    for arguments in (["frobnicate"], ["list", "--wher", "x"], ["encode", "vae_digits"], ["data"]):
        message = call(*arguments, code=2)
        assert message.startswith("error: ") and message.count("\n") == 1
    assert "fashion_mnist" in call("data", "import", "mnist", ".", code=2)


def test_what_nobody_expected_is_one_line(call, monkeypatch):
    def fail(**_):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(zoo, "list_models", fail)
    message = call("list", code=1)
    assert message == "error: RuntimeError: first line (run again with --debug to see where)\n"
