"""Speed, measured side by side with what people would use instead.

    pip install -e . -r benchmarks/requirements.txt
    python -m benchmarks [TABLE …] [--rounds N] [--rows NAME …] [--write]

Prints Markdown tables; with --write they go into docs/performance.md, what training claims into
README.md. Fashion-MNIST must be prepared (`kerasunsup data import`), the cores must be free, and
nothing is reported from fewer than three units during which they were.
"""

from __future__ import annotations

import argparse

from benchmarks import evaluation, growth, inference, processes, training
from benchmarks.harness import ROOT, write
from benchmarks.rows import ROWS

PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"


def main() -> None:
    """Measures the tables that are asked for, all by default."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--write", action="store_true", help=f"put them into {PAGE.name}")
    given = parser.parse_args()
    tables = {
        "training": lambda: training.training(given.rounds, given.rows),
        "whole": lambda: processes.whole(given.rounds),
        "inference": lambda: inference.inference(given.rounds),
        "start": lambda: processes.start(given.rounds),
        "growth": growth.growth,
        "evaluation": lambda: evaluation.evaluation(given.rounds),
    }
    if set(given.tables) - set(tables):
        parser.error(f"tables are {', '.join(tables)}. Received: {' '.join(given.tables)}")
    if given.write and len(given.rows) < len(ROWS):
        parser.error("--write replaces the whole table: leave --rows out")
    failed: list[str] = []
    for name in given.tables or tables:
        text = tables[name]()
        if isinstance(text, tuple):
            text, missing = text
            failed += missing
        print(f"\n{text}\n", flush=True)
        if given.write:
            write(PAGE, name, text)
        if given.write and name == "training":
            write(README, name, text.split("\n\n")[-1])
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
