"""Errors that a user can mend: each message says what was expected, what came, and the remedy."""

from __future__ import annotations


class KerasunsupError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(KerasunsupError, ValueError):
    """An argument, a recipe or a data file is not what it should be."""

    exit_code = 2


class IntegrityError(KerasunsupError):
    """A file differs from the sha256 that its card records."""


class TrainingError(KerasunsupError, RuntimeError):
    """Training cannot go on, for example because the loss is not finite."""


class OutputError(KerasunsupError, OSError):
    """A result cannot be written: no permission, no space, or the target is in the way."""
