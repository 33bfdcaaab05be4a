"""Training speed: each row's variants measured in turn, as ratios, beside their losses."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Worker, clean, environment, in_turn, refuse_unless_free, table
from benchmarks.rows import ROWS, Row

TORCH = "PyTorch, preloaded"
KERAS = "Keras `fit`"
OURS = "kerasunsup"
VARIANTS = {  # heading -> module, variant
    "PyTorch, PIL images": ("run_torch", "pil"),
    TORCH: ("run_torch", "preloaded"),
    "PyTorch, fused Adam": ("run_torch", "fused"),
    "PyTorch, compiled": ("run_torch", "compiled"),
    KERAS: ("run_keras", "fit"),
    "pythae": ("run_others", "pythae"),
    "PyOD": ("run_others", "PyOD"),
    OURS: ("run_kerasunsup", "float32"),
    "PyTorch, bfloat16": ("run_torch", "bfloat16"),
    "PyTorch, bfloat16, compiled": ("run_torch", "bfloat16 compiled"),
    f"{OURS}, bfloat16": ("run_kerasunsup", "bfloat16"),
}
DENSE_ONLY = {"pythae": "vae", "PyOD": "autoencoder"}  # and of one family
AGAINST = {  # whose, and the best of which others
    "the plain PyTorch loop": (OURS, (TORCH,)),
    "the best float32 PyTorch": (
        OURS,
        (TORCH, "PyTorch, fused Adam", "PyTorch, compiled"),
    ),
    KERAS: (OURS, (KERAS,)),
    "the best bfloat16 PyTorch": (
        f"{OURS}, bfloat16",
        ("PyTorch, bfloat16", "PyTorch, bfloat16, compiled"),
    ),
}


def training(rounds: int, names: Sequence[str]) -> tuple[str, list[str]]:
    """Measures rows and returns the tables, and why rows were left out.

    Raises:
        SystemExit: The cores are not free, or no row could be measured.
    """
    refuse_unless_free()
    measured, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.keras_models", folder, *names]
        subprocess.run(command, check=True, cwd=ROOT, env=environment())
        for name in names:
            try:
                units = in_turn(_workers(name, Path(folder)), rounds)
                _check_losses(name, units)
                tables({name: units})
            except SystemExit as error:
                failed.append(f"{name} is left out: {error}")
            else:
                measured[name] = units
            said = f"{name}: measured" if name in measured else failed[-1]
            print(said, file=sys.stderr, flush=True)
    if not measured:
        raise SystemExit("\n".join(failed))
    return tables(measured), failed


def _workers(name: str, folder: Path) -> dict[str, Worker]:
    row = ROWS[name]
    return {
        heading: Worker(module, name, variant, folder / "images.npy", folder / f"{name}.npz")
        for heading, (module, variant) in VARIANTS.items()
        if _can_train(heading, row)
    }


def _can_train(heading: str, row: Row) -> bool:
    if heading in DENSE_ONLY:
        return not row.convolutions and row.family == DENSE_ONLY[heading]
    return row.critic_steps == 1 or "compiled" not in heading  # no gradients of gradients there


def _check_losses(name: str, units: dict[str, list[dict[str, Any]]]) -> None:
    """Raises if a variant has not learnt what the plain loop has, after as many images."""
    row = ROWS[name]
    compared = min(map(len, units.values())) - 1
    for heading, those in units.items():
        for key, wanted in units[TORCH][compared]["losses"].items():
            got = those[compared]["losses"][key]
            scale = max(abs(wanted), 1.0) if row.family == "gan" else abs(wanted)
            if not abs(got - wanted) <= row.tolerance * scale:
                raise SystemExit(
                    f"the {key} of {heading} is {got:.4g} after {compared + 2} units, that of "
                    f"{TORCH} {wanted:.4g}: they do not train the same model."
                )


def tables(measured: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Speeds as ratios to the plain PyTorch loop, the losses beside them, and what is claimed."""
    heads, speeds, losses = ["", *VARIANTS], [], []
    for name, units in measured.items():
        base = statistics.median(clean(units[TORCH], "wall"))
        speeds.append([name])
        losses.append([name])
        for heading in VARIANTS:
            if heading not in units:
                speeds[-1].append("")
                losses[-1].append("")
                continue
            ratios = [base / wall for wall in clean(units[heading], "wall")]
            speeds[-1].append(
                f"{_images(ROWS[name]) / base:,.0f} images/s ({min(ratios):.2f}-{max(ratios):.2f})"
                if heading == TORCH
                else f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            )
            last = units[heading][min(map(len, units.values())) - 1]["losses"]
            losses[-1].append(" / ".join(f"{last[key]:.4g}" for key in units[TORCH][0]["losses"]))
    return "\n\n".join([table(heads, speeds), table(heads, losses), _claims(measured)])


def _images(row: Row) -> int:
    return row.steps * row.images_per_step


def _claims(measured: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Our median against the best median of the others; against Keras' best unit, it scatters."""
    rows = []
    for name, units in measured.items():
        wall = {
            heading: statistics.median(clean(those, "wall"))
            for heading, those in units.items()
            if heading != KERAS
        }
        worked = [one["wall"] for one in units[KERAS] if one["clean"] and not _waited(one)]
        if worked:
            wall[KERAS] = min(worked)
        rows.append([name])
        for ours, theirs in AGAINST.values():
            best = min((wall[one] for one in theirs if one in wall), default=None)
            rows[-1].append("waited" if best is None else f"{best / wall[ours]:.2f}")
    return table(["kerasunsup against", *AGAINST], rows)


def _waited(unit: dict[str, Any]) -> bool:
    """Whether less than one core was kept busy, while nobody else used them."""
    return unit["processor"] < unit["wall"]
