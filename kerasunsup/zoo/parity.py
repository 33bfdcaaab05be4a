"""For maintainers: measures entries in other runtimes and writes it to their cards and pages.

python -m kerasunsup.zoo.parity [ENTRY …]    all entries where none is named

Needs the extras: pip install -e '.[onnx,litert,openvino]'; what is not installed is left out. The
models stay as they are.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from kerasunsup.building import import_modules
from kerasunsup.card import Card
from kerasunsup.errors import KerasunsupError
from kerasunsup.serving import runtimes
from kerasunsup.zoo import catalogue, registry
from kerasunsup.zoo.pages import runtime_rows


def main(names: list[str]) -> int:
    """Measures entries, one after the other; returns the exit code."""
    for name, package in runtimes.missing().items():
        print(f"left out: {name}: {package} is not installed", file=sys.stderr)
    try:
        for name in names or [card.name for card in catalogue.cards()]:
            folder = registry.saved_model(name)
            card = Card.read(catalogue.root() / "zoo" / name / "card.json")
            import_modules(card.recipe)
            card = replace(card, parity=runtimes.measure(folder))
            catalogue.rewrite(card)
            for row in runtime_rows(card):
                print(name, *row, sep="  ", flush=True)
    except KerasunsupError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
