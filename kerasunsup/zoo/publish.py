"""For maintainers: puts finished runs into the checkout's catalogue and refreshes README.

python -m kerasunsup.zoo.publish runs/vae_digits [RUN …]
python -m kerasunsup.zoo.publish --again vae_digits [ENTRY …]    the same weights, exported anew
"""

from __future__ import annotations

import sys

from kerasunsup.errors import KerasunsupError
from kerasunsup.zoo import catalogue
from kerasunsup.zoo.pages import update_readme


def main(arguments: list[str]) -> int:
    """Publishes each run folder or, after `--again`, entry; returns the exit code."""
    again = arguments[:1] == ["--again"]
    try:
        for one in arguments[again:]:
            print("published", catalogue.publish_again(one) if again else catalogue.publish(one))
        update_readme(catalogue.root() / "README.md", catalogue.cards())
    except KerasunsupError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
