"""Other runtimes measured beside the SavedModel, and what the card and the page say of it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from kerasunsup import formats, zoo
from kerasunsup.formats import Format
from kerasunsup.serving import runtimes
from kerasunsup.zoo import catalogue, parity

NAME = "autoencoder_digits"
OFF = 3e-5  # within what a format may differ by


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A catalogue with one entry, and one other format: it answers a little more than it should."""
    for part in ("zoo", "saved_models"):
        shutil.copytree(catalogue.root() / part / NAME, tmp_path / part / NAME)
    monkeypatch.setattr(catalogue, "root", lambda: tmp_path)
    catalogue.rewrite(replace(zoo.card(NAME), parity=None))
    model = zoo.load(NAME)

    def write(graph, specs, weights, path):
        if path.stem != "encode":
            raise NotImplementedError("encode alone")
        path.write_bytes(b"1234")

    def read(path):
        return lambda inputs: {"latent": model.encode(inputs["x"])["latent"] + np.float32(OFF)}

    monkeypatch.setattr(
        formats,
        "FORMATS",
        {
            "ours": Format(("numpy",), ".ours", write, read),
            "theirs": Format(("no_such_package",), ".theirs", write, read),
        },
    )
    monkeypatch.setattr(runtimes, "SECONDS_OF_A_TURN", 0.0)
    return tmp_path


def test_one_command_measures_and_writes_cards_and_pages(root, capsys):
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert parity.main([]) == 0
    assert zoo.verify() == [NAME]
    changed = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and path.read_bytes() != before.get(path)
    }
    inside = f"saved_models/{NAME}/{zoo.card(NAME).version}/assets.extra/card.json"
    assert changed == {f"zoo/{NAME}/card.json", f"zoo/{NAME}/README.md", inside}

    card = zoo.card(NAME)
    measured = card.parity
    assert set(measured.runtimes) == {"keras", "c_session", "ours"}
    for name in ("keras", "c_session"):
        one = measured.runtimes[name]
        assert one.verbs == card.verbs and one.difference < 1e-5 and one.timed == measured.verb
    ours = measured.runtimes["ours"]
    assert ours.verbs == ("encode",) and ours.bytes == 4
    assert OFF / 100 < ours.difference <= 1.1 * OFF
    folder = zoo.saved_model(NAME)
    weights = (folder / "variables/variables.data-00000-of-00001").stat().st_size
    assert measured.bytes == measured.runtimes["c_session"].bytes > weights
    for one in measured.runtimes.values():
        assert min(one.load, one.batch_1, one.batch_256) > 0

    page = (root / f"zoo/{NAME}/README.md").read_text()
    assert "## Other runtimes" in page and f"| ours {np.__version__} | encode |" in page
    printed = capsys.readouterr()
    assert "no_such_package is not installed" in printed.err and "Keras" in printed.out


def test_an_unknown_entry(root, capsys):
    assert parity.main(["nothing_like_it"]) == 2
    assert "No such entry" in capsys.readouterr().err
