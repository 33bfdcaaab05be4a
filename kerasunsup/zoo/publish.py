"""For maintainers: puts finished runs into the checkout's catalogue and refreshes README.

python -m kerasunsup.zoo.publish runs/vae_digits [RUN …]
"""

from __future__ import annotations

import sys

from kerasunsup.errors import KerasunsupError
from kerasunsup.zoo import catalogue
from kerasunsup.zoo.pages import update_readme


def main(runs: list[str]) -> int:
    """Publishes each run folder; returns the exit code."""
    try:
        for run in runs:
            print("published", catalogue.publish(run))
        update_readme(catalogue.root() / "README.md", catalogue.cards())
    except KerasunsupError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
