"""Commands about entries: list, show, verify, serve-config. None of them needs TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kerasunsup.cli.console import print_metrics, print_table
from kerasunsup.errors import InputError

if TYPE_CHECKING:
    from kerasunsup.card import Card

HEADLINES = 3

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_entries(
    family: Annotated[str | None, typer.Option(help="Only this family, as vae.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only entries trained on this.")] = None,
    verb: Annotated[str | None, typer.Option(help="Only entries that can do this.")] = None,
    where: Annotated[str | None, typer.Option(help="Measured: 'nll<231 and mse<0.02'.")] = None,
    as_json: Json = False,
) -> None:
    """List the entries of the zoo."""
    from kerasunsup import zoo
    from kerasunsup.zoo.pages import measurement

    names = zoo.list_models(family=family, dataset=dataset, verb=verb, where=where)
    cards = {name: _card(name) for name in names}
    if as_json:
        _print_json([_summary(name, card) for name, card in cards.items()])
        return
    rows = []
    for name, card in cards.items():
        recipe = zoo.recipe(name)
        about = [name, recipe.family, recipe.data.name]
        if isinstance(card, InputError):
            rows.append([*about, "(no card)", ""])
            continue
        metrics = [f"{m} {measurement(v.value, v.std)}" for m, v in card.metrics.items()]
        rows.append([*about, " ".join(card.verbs), ", ".join(metrics[:HEADLINES])])
    print_table(["name", "family", "dataset", "verbs", "metrics"], rows)


def show(
    name: Annotated[str, typer.Argument(help="An entry.")],
    as_json: Json = False,
) -> None:
    """Show an entry: what it is, how it was made, how good it was measured."""
    from kerasunsup import zoo

    recipe, card = zoo.recipe(name), _card(name)
    if as_json:
        plain = {"name": name, "recipe": recipe.to_dict()}
        _print_json(plain if isinstance(card, InputError) else card.to_dict())
        return
    facts = [[recipe.name, recipe.description], ["family", recipe.family]]
    if isinstance(card, InputError):
        facts.append(["card", str(card)])
    else:
        shape = "x".join(map(str, card.input.shape))
        low_high = card.input.value_range
        values = f" in [{low_high[0]:g}, {low_high[1]:g}]" if low_high else ""
        trained = ", ".join(f"{what} {version}" for what, version in card.versions.items())
        facts += [
            ["verbs", ", ".join(card.verbs)],
            ["input", f"{shape} {card.input.dtype}{values}"],
            ["parameters", f"{card.parameters:,}"],
            ["trained", f"in {card.wall_time_s:.0f} s, seed {card.seed}, {trained}"],
            ["version", str(card.version)],
        ]
    facts += [["data", recipe.data.name], ["licence", recipe.license]]
    facts += [["reference", reference] for reference in recipe.references]
    print_table(["", ""], [fact for fact in facts if fact[1]])
    if not isinstance(card, InputError):
        print()
        print_metrics(card.metrics, protocols=True)
    print(f"\n{recipe.to_toml()}", end="")


def verify(
    name: Annotated[str | None, typer.Argument(help="An entry; all when left out.")] = None,
) -> None:
    """Compare every file of the entries with the sha256 on its card."""
    from kerasunsup import zoo

    for checked in zoo.verify(name):
        print(f"{checked}: {len(zoo.card(checked).sha256)} files are as its card says")


def serve_config(
    names: Annotated[list[str] | None, typer.Argument(help="Entries; all when left out.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")] = Path("serving"),
) -> None:
    """Write the configuration of TensorFlow Serving, a compose file and a smoke test."""
    from kerasunsup import zoo
    from kerasunsup.serving import config

    chosen = names or [
        name for name in zoo.list_models() if not isinstance(_card(name), InputError)
    ]
    if not chosen:
        raise InputError("No entry has been trained: train one with `kerasunsup train NAME`.")
    files = config.write({name: zoo.saved_model(name).resolve() for name in chosen}, out)
    print(f"Wrote {', '.join(file.name for file in files)}.")
    print(f"Serve: cd {out} && docker compose up; prove: {out / config.SMOKE}")


def label_efficiency(
    dataset: Annotated[str, typer.Argument(help="A data set, as fashion_mnist.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Draw the curve: a .png.")] = None,
) -> None:
    """Show what few labels reach with each pretraining, from the entries' cards."""
    from kerasunsup import label_efficiency as efficiency
    from kerasunsup import zoo

    if out is not None and out.suffix != ".png":
        raise InputError(f"-o must name a .png. Received: {out}")
    cards = [card for name in zoo.list_models() if not isinstance(card := _card(name), InputError)]
    found = efficiency.curves(cards, dataset)
    print_table(*efficiency.table(found))
    if out is not None:
        print(f"Drawn: {efficiency.draw(found, out)}")


def _card(name: str) -> Card | InputError:
    """The card of an entry, or why there is none."""
    from kerasunsup import zoo

    try:
        return zoo.card(name)
    except InputError as error:
        return error


def _summary(name: str, card: Card | InputError) -> dict[str, Any]:
    from kerasunsup import zoo

    recipe = zoo.recipe(name)
    about = {"name": name, "family": recipe.family, "dataset": recipe.data.name}
    if isinstance(card, InputError):
        return {**about, "verbs": [], "metrics": {}}
    return {**about, **{key: card.to_dict()[key] for key in ("version", "verbs", "metrics")}}


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
