"""What few labels reach with each pretraining, from the cards: a table and a curve."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kerasunsup.errors import InputError

if TYPE_CHECKING:
    from kerasunsup.card import Card

METRIC = re.compile(r"few_labels_(?P<how>frozen|finetuned)_n(?P<count>\d+)")
NETWORK_OF, SCRATCH = "network of ", ", from scratch"
PANELS = {"frozen": "Frozen features, logistic regression", "finetuned": "Finetuned"}


@dataclass(frozen=True)
class Curve:
    """Accuracy over the number of labels.

    Attributes:
        name: An entry, or a baseline.
        how: "frozen" or "finetuned".
        points: Number of labels -> (accuracy, std over draws or None).
        baseline: Whether it needs no pretraining.
    """

    name: str
    how: str
    points: dict[int, tuple[float, float | None]]
    baseline: bool = False


def curves(cards: Iterable[Card], dataset: str) -> list[Curve]:
    """The curves of a data set: one for each pretraining and way, then those of the baselines.

    What a finetuned entry reaches stands under the name of its pretraining, `source`.

    Raises:
        InputError: No card has few labels measured on these data.
    """
    found: dict[tuple[str, str, bool], dict[int, tuple[float, float | None]]] = {}
    for card in cards:
        name = card.recipe.model.arguments.get("source", card.name)
        for metric, measured in card.metrics.items() if card.dataset == dataset else ():
            match = METRIC.fullmatch(metric)
            if not match:
                continue
            how, count = match["how"], int(match["count"])
            found.setdefault((how, name, False), {})[count] = (measured.value, measured.std)
            for who, value in measured.baselines.items():
                baseline = f"{NETWORK_OF}{name}{SCRATCH}" if who == "from_scratch" else who
                found.setdefault((how, baseline, True), {})[count] = (value, None)
    if not found:
        raise InputError(
            "Expected a data set on whose entries few labels were measured: put protocols such as "
            f"few_labels_finetuned_n100 into a recipe's [evaluate]. Received: {dataset!r}"
        )
    order = sorted(found, key=lambda key: (key[0] == "finetuned", key[2], key[1]))
    return [
        Curve(name, how, dict(sorted(found[how, name, baseline].items())), baseline)
        for how, name, baseline in order
    ]


def table(found: Iterable[Curve]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: accuracies in percent, mean and standard deviation over draws."""
    found = list(found)
    counts = sorted({count for curve in found for count in curve.points})
    rows = []
    for curve in found:
        cells = [_percent(*curve.points[n]) if n in curve.points else "" for n in counts]
        rows.append([curve.name, "baseline" if curve.baseline else curve.how, *cells])
    return ["features", "how", *(f"{count} labels" for count in counts)], _without_repeats(rows)


def draw(found: Iterable[Curve], path: str | Path) -> Path:
    """Draws accuracy over labels, one panel a way; networks from scratch are dashed.

    Raises:
        OutputError: The file cannot be written.
    """
    from kerasunsup import pictures

    found = list(found)
    names = sorted({curve.name for curve in found if not curve.baseline})
    colors = {name: f"C{i}" for i, name in enumerate(names)}
    panels = [how for how in PANELS if any(curve.how == how for curve in found)]
    figure = pictures.new_figure(5.4 * len(panels), 4.6, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, how in zip(axes, panels, strict=True):
        axis.set_title(PANELS[how])
        for curve in (curve for curve in found if curve.how == how):
            pretraining = curve.name.removeprefix(NETWORK_OF).removesuffix(SCRATCH)
            style = {"color": colors.get(pretraining, "grey"), "linestyle": ":"}
            if pretraining in colors:
                style["linestyle"] = "--" if curve.baseline else "-"
                style["marker"] = "x" if curve.baseline else "o"
            counts = list(curve.points)
            values = [100 * value for value, _ in curve.points.values()]
            spread = [100 * (std or 0.0) for _, std in curve.points.values()]
            axis.errorbar(counts, values, spread, label=curve.name, capsize=2, **style)
        axis.set_xscale("log")
        axis.set_xlabel("labels")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="lower right")
    axes[0].set_ylabel("test accuracy, %")
    return pictures.save(figure, path)


def _percent(value: float, std: float | None) -> str:
    return f"{100 * value:.1f}" if std is None else f"{100 * value:.1f} ± {100 * std:.1f}"


def _without_repeats(rows: list[list[str]]) -> list[list[str]]:
    """Baselines stand under both ways; equal rows are told once."""
    return [row for i, row in enumerate(rows) if row not in rows[:i]]
