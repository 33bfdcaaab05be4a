"""Public names: lazy, complete, and right in every order of imports."""

from __future__ import annotations

import inspect
import resource
import subprocess
import sys
from typing import Any

import pytest

import kerasunsup


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    ["import kerasunsup", "from kerasunsup import zoo; zoo.list_models(where='nll < 1e9')"],
)
def test_light_imports(code: str) -> None:
    heavy = "{'tensorflow', 'keras', 'numpy', 'scipy', 'sklearn'}"
    assert run(f"{code}\nimport sys; print({heavy} & set(sys.modules))") == "set()"


@pytest.mark.parametrize(
    ("code", "limit"),
    [("import kerasunsup", 0.1), ("from kerasunsup import zoo; zoo.list_models()", 0.3)],
)
def test_quick_imports(code: str, limit: float) -> None:
    def seconds(code: str) -> float:  # of CPU: the wall clock also measures the neighbours
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = min(seconds("pass") for _ in range(3))
    assert min(seconds(code) for _ in range(5)) - bare < limit


@pytest.mark.parametrize("name", kerasunsup.__all__)
def test_public_names(name: str) -> None:
    assert name in dir(kerasunsup)
    assert getattr(kerasunsup, name)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'VEA'"):
        _ = kerasunsup.VEA  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "imports",
    [
        "import kerasunsup; function = kerasunsup.export",
        "from kerasunsup import export as function",
        "import kerasunsup.export as function; function.ServedModel",
        "from kerasunsup.export import ServedModel; from kerasunsup import export as function",
        "import kerasunsup.training; import kerasunsup; function = kerasunsup.export",
        "import kerasunsup; kerasunsup.export; import kerasunsup.export as function",
        "from kerasunsup.export import export as function",
    ],
)
def test_export_is_the_function_and_the_module(
    imports: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("kerasunsup", "kerasunsup.export", "kerasunsup.training"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    names: dict[str, Any] = {}
    exec(imports, names)
    with pytest.raises(ValueError, match="must be a kerasunsup model. Received: str"):
        names["function"]("no model", "/nowhere")


def test_export_has_the_signature_of_the_function() -> None:
    assert list(inspect.signature(kerasunsup.export).parameters) == ["model", "folder"]
