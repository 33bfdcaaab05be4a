"""The wheel carries the catalogue, and works in an empty environment and from another folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools.build_meta import {0}; print({0}('dist'))"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, with nothing left of earlier builds."""
    copy = tmp_path_factory.mktemp("wheel") / "checkout"
    for name in ("kerasunsup", "zoo", "saved_models"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(checkout: Path, hook: str) -> Path:
    (checkout / "dist").mkdir(exist_ok=True)
    code = BUILD.format(hook)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return checkout / "dist" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build(checkout, "build_wheel")


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_wheel_holds_package_and_catalogue(checkout: Path, wheel: Path) -> None:
    assert wheel.stat().st_size < 60e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = {f"kerasunsup/{name}" for name in files_below(checkout / "kerasunsup")}
    data = {
        f"kerasunsup/catalogue/{folder}/{name}"
        for folder in ("zoo", "saved_models")
        for name in files_below(checkout / folder)
    }
    assert "kerasunsup/py.typed" in package
    assert {name for name in names if ".dist-info/" not in name} == package | data
    info = {name.split("/", 1)[1] for name in names - package - data}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= info


@pytest.mark.slow
def test_source_archive_builds_the_same(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build(checkout, "build_sdist")
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    rebuilt = build(unpacked, "build_wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(rebuilt) as two:
        assert set(one.namelist()) == set(two.namelist())


EVERYTHING = """
import numpy as np
from kerasunsup import zoo

assert "site-packages" in zoo.__file__, zoo.__file__
for name in zoo.verify():
    spec = zoo.card(name).input
    model = zoo.load(name)
    low, high = spec.value_range or (0.0, 1.0)
    model.predict(np.full((2, *spec.shape), (low + high) / 2, "float32"), verbose=0)
    print("loaded", name)
"""


@pytest.mark.slow
def test_wheel_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [bin_folder / command[0], *command[1:]],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    entries = sorted(path.parent.name for path in (ROOT / "zoo").glob("*/card.json"))
    assert entries
    listed = run("kerasunsup", "list", "--json")
    assert all(name in listed for name in entries)
    for name in entries:
        shown = json.loads(run("kerasunsup", "show", name, "--json"))
        assert shown["name"] == name
    run("kerasunsup", "verify")
    loaded = run("python", "-c", EVERYTHING)
    assert [line.split()[1] for line in loaded.splitlines() if "loaded" in line] == entries
    assert not any(elsewhere.iterdir())
