"""What the catalogue says of itself in Markdown: an entry's page and the README's results."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kerasunsup.card import Card
from kerasunsup.errors import InputError
from kerasunsup.files import atomic_write
from kerasunsup.protocols import find
from kerasunsup.recipe import Recipe

PLAYERS = ("backbone", "generator", "discriminator")
RUNTIMES = {
    "keras": "Keras",
    "c_session": "C session, TensorFlow",
    "onnx": "ONNX Runtime",
    "litert": "LiteRT",
    "openvino": "OpenVINO",
}
BEGIN, END = "<!-- results -->", "<!-- /results -->"


def entry_page(card: Card) -> str:
    """The README.md of an entry."""
    recipe = card.recipe
    shape = "x".join(map(str, card.input.shape))
    value_range = card.input.value_range
    values = f" in [{value_range[0]:g}, {value_range[1]:g}]" if value_range else ""
    rows = [
        [
            f"`{name}`",
            measurement(metric.value, metric.std),
            metric.protocol,
            str(metric.n),
            "; ".join(f"{who} {_number(value)}" for who, value in metric.baselines.items()),
        ]
        for name, metric in card.metrics.items()
    ]
    parts = [
        f"# {card.name}",
        recipe.description,
        "![What it does](preview.png)",
        "```python\nfrom kerasunsup import zoo\n\n"
        f'model = zoo.load("{card.name}")  # {", ".join(card.verbs)}\n```',
        markdown_table(["metric", "value", "protocol", "n", "baselines"], rows),
        "\n".join(
            [
                f"* Network: {network(recipe)}; {card.parameters:,} parameters.",
                f"* Input: {shape} {card.input.dtype}{values}.",
                f"* Data: {card.dataset}, sha256 `{card.data_fingerprint[:16]}…`.",
                f"* Trained in {card.wall_time_s:.0f} s with seed {card.seed}, version "
                f"{card.version}: {', '.join(f'{k} {v}' for k, v in card.versions.items())}.",
                *([] if card.health is None else [f"* Health: {' '.join(card.health) or 'good'}."]),
                f"* Licence: {card.license}.",
                *(f"* {reference}" for reference in recipe.references),
            ]
        ),
        *_runtimes(card),
        f"Train it again: `kerasunsup train {card.name}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _runtimes(card: Card) -> list[str]:
    """The section of an entry's page on other runtimes, nothing where none was measured."""
    parity = card.parity
    if parity is None:
        return []
    seconds = parity.seconds
    header = ["runtime", "verbs", "difference", "size", "timed", "load", "batch 1", "batch 256"]
    return [
        "## Other runtimes",
        f"Beside the SavedModel called from Python ({_size(parity.bytes)}; on {parity.machine}: "
        f"load {1e3 * seconds['load']:.0f} ms, `{parity.verb}` {1e3 * seconds['batch_1']:.2g} ms "
        f"a batch of 1, {1e3 * seconds['batch_256']:.3g} ms of 256): the largest difference over "
        f"{parity.examples} random examples, and times as ratios to its own.",
        markdown_table(header, runtime_rows(card)),
    ]


def runtime_rows(card: Card) -> list[list[str]]:
    """A row for each runtime that was measured."""
    return [
        [
            f"{RUNTIMES.get(name, name)} {one.version}",
            ", ".join(one.verbs),
            f"{one.difference:.1g}",
            _size(one.bytes),
            f"`{one.timed}`",
            *(f"{ratio:.2g}" for ratio in (one.load, one.batch_1, one.batch_256)),
        ]
        for name, one in (card.parity.runtimes.items() if card.parity else ())
    ]


def _size(count: int) -> str:
    return f"{count / 1e6:.2g} MB"


def results_table(cards: Iterable[Card]) -> str:
    """Markdown tables per data set: our entries, the baselines, published numbers.

    What is measured of samples stands in a table of its own.
    """
    cards = sorted(cards, key=lambda card: card.name)
    parts = []
    for dataset in sorted({card.dataset for card in cards}):
        ours = [card for card in cards if card.dataset == dataset]
        metrics = list(dict.fromkeys(name for card in ours for name in card.metrics))
        for table in dict.fromkeys(["", *map(_table_of, metrics)]):
            chosen = [name for name in metrics if _table_of(name) == table]
            if chosen:
                title = f"**{dataset}, {table}**" if table else f"**{dataset}**"
                parts.append(f"{title}\n\n{_table(ours, chosen)}")
    return "\n\n".join(parts)


def _table_of(metric: str) -> str:
    try:
        return find(metric)[0].table
    except InputError:  # of a protocol that is no longer
        return ""


def _table(cards: Sequence[Card], metrics: Sequence[str]) -> str:
    """The entries that have one of the metrics, and what stands beside them."""
    rows = []
    for card in cards:
        measured = {
            name: measurement(card.metrics[name].value, card.metrics[name].std)
            for name in metrics
            if name in list(card.metrics)
        }
        if measured:
            label = f"[{card.name}](zoo/{card.name})"
            rows.append((label, network(card.recipe), f"{card.parameters:,}", measured))
    for who, values in _baselines(cards, metrics).items():
        rows.append((f"*{who}*", "baseline", "", values))
    for number in dict.fromkeys(one for card in cards for one in card.recipe.published):
        if number.metric in metrics:
            value = {number.metric: measurement(number.value, number.std)}
            rows.append((f"{number.name}, {number.source}", "published", "", value))
    return markdown_table(
        ["entry", "network", "parameters", *metrics],
        [[*row, *(values.get(name, "") for name in metrics)] for *row, values in rows],
    )


def _baselines(cards: Sequence[Card], metrics: Sequence[str]) -> dict[str, dict[str, str]]:
    """Row -> metric -> value; where entries differ in a value, each has a row of its own."""
    by_name: dict[str, dict[str, dict[str, str]]] = {}
    for card in cards:
        for metric, measured in card.metrics.items():
            for who, value in measured.baselines.items() if metric in metrics else ():
                own = by_name.setdefault(who, {}).setdefault(card.name, {})
                own[metric] = _number(value)
    rows: dict[str, dict[str, str]] = {}
    for who, entries in by_name.items():
        merged: dict[str, str] = {}
        for name, values in entries.items():
            if any(merged.get(metric, value) != value for metric, value in values.items()):
                rows[f"{who}, for {name}"] = values
            else:
                merged.update(values)
        rows[who] = merged
    return rows


def network(recipe: Recipe) -> str:
    """A few words on a recipe's networks: "gated dense 300-300, latent 40"."""
    arguments = recipe.model.arguments
    players = [_sizes(arguments[name]) for name in PLAYERS if name in arguments]
    words = [" against ".join(players)] if players else []
    if "latent_dim" in arguments:
        words.append(f"latent {arguments['latent_dim']}")
    if "codes" in arguments:
        words.append(f"{arguments['codes']} codes")
    return ", ".join(words)


def _sizes(table: Any) -> str:
    """Kind and widths of one network: "conv 32-64-256"."""
    if not isinstance(table, Mapping):
        return ""
    counts = [*table.get("filters", []), *table.get("units", [])]
    flat = [size for count in counts for size in (count if isinstance(count, list) else [count])]
    kind = str(table.get("builder", "")).rsplit("_", 1)[0]
    gated = "gated " if table.get("gated") else ""
    return f"{gated}{kind} {'-'.join(map(str, flat))}".strip()


def update_readme(path: str | os.PathLike[str], cards: Iterable[Card]) -> None:
    """Replaces the results between the marks of a README.

    Raises:
        InputError: The marks are not there.
    """
    path = Path(path)
    before, _, after = split_readme(path)
    atomic_write(path, f"{before}{BEGIN}\n\n{results_table(cards)}\n\n{END}{after}")


def split_readme(path: str | os.PathLike[str]) -> tuple[str, str, str]:
    """Text before the marks, the results between them, text after."""
    text = Path(path).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    block, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{path} must have the marks {BEGIN} and {END}. Received: none")
    return before, block.strip("\n"), after


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; an empty cell stays empty."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measurement(value: float, std: float | None) -> str:
    """A value, to the second digit of its spread: "228.70 ± 0.15"."""
    if not std or not math.isfinite(std):
        return _number(value)
    decimals = max(0, 1 - math.floor(math.log10(std)))
    return f"{value:.{decimals}f} ± {std:.{decimals}f}"


def _number(value: float) -> str:
    """Four significant digits, five from 100 on."""
    return f"{value:.5g}" if abs(value) >= 100 else f"{value:.4g}"
