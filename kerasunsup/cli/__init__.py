"""The command line: one command per verb of the user's day. Light until a model is needed."""

from kerasunsup.cli.app import main

__all__ = ["main"]
