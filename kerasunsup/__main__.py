"""`python -m kerasunsup`."""

from kerasunsup.cli import main

if __name__ == "__main__":
    main()
