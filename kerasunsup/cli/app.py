"""The commands under one name, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import atexit
import gc
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from kerasunsup.cli import catalogue, console, runs, verbs
from kerasunsup.errors import KerasunsupError

app = typer.Typer(
    help="Deep unsupervised models for Keras: train, measure, use, export, serve.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option("--module", metavar="NAME", help="Module with classes of your own."),
    ] = None,
) -> None:
    """Deep unsupervised models for Keras: train, measure, use, export, serve."""
    console.own_modules = tuple(modules or ())


app.command("list")(catalogue.list_entries)
app.command("show")(catalogue.show)
app.command("label-efficiency")(catalogue.label_efficiency)
app.command("train")(runs.train)
app.command("evaluate")(runs.evaluate)
for name in verbs.INPUT_VERBS:
    app.command(name)(verbs.command(name))
app.command("discriminate")(verbs.discriminate)
app.command("generate")(verbs.generate)
app.command("export")(runs.export)
app.command("serve-config")(catalogue.serve_config)
app.command("verify")(catalogue.verify)

data = typer.Typer(help="Prepare data sets.")
data.command("import")(runs.import_data)
app.add_typer(data, name="data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 1 the work failed, 2 bad usage or bad input.

    Args:
        arguments: As after the program's name; those of the process when None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given  # accepted after the command too
    given = [argument for argument in given if argument != "--debug"] or ["--help"]
    atexit.register(gc.freeze)  # the last collection, over all that was imported, takes a second
    try:
        code = app(given, prog_name="kerasunsup", standalone_mode=False)
        if code == 130:
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        code = _report("Stopped; nothing was left half-written.", 1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = _report(*_explain(error))
    sys.exit(code or 0)


def _report(message: str, code: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code


def _explain(error: Exception) -> tuple[str, int]:
    """Message and exit code of an error."""
    if isinstance(error, KerasunsupError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # Typer's and Click's usage errors
        return f"{error.format_message()} See: kerasunsup --help", 2
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{place}", 1
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first} (run again with --debug to see where)", 1
