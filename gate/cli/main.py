"""The `gate` command: its verbs, and what becomes of errors."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from gate.cli import ask, check, config, demo, dev, dlq, load, schema, topics, trial, worker
from gate.cli.output import fail
from gate.errors import GateError

app = typer.Typer(
    name="gate",
    help="May this person register, and with what metadata? Asked and answered over Kafka.",
    epilog="Start with: gate demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"registration-gate {version('registration-gate')}")
        raise typer.Exit


@app.callback()
def _gate(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    pass


EVERYTHING_HERE = "Everything on this machine"
ATTEMPTS = "Run and ask"
CHECKING = "Write and check"

app.command(rich_help_panel=EVERYTHING_HERE)(demo.demo)
app.command(rich_help_panel=EVERYTHING_HERE)(dev.dev)
app.command(rich_help_panel=ATTEMPTS)(worker.worker)
app.command(rich_help_panel=ATTEMPTS)(ask.ask)
app.command(rich_help_panel=ATTEMPTS)(load.load)
app.add_typer(dlq.app, name="dlq", rich_help_panel=ATTEMPTS)
app.command("test", rich_help_panel=CHECKING)(trial.trial)
app.command(rich_help_panel=CHECKING)(check.check)
app.command(rich_help_panel=CHECKING)(config.config)
app.add_typer(topics.app, name="topics", rich_help_panel=CHECKING)
app.add_typer(schema.app, name="schema", rich_help_panel=CHECKING)


def main() -> None:
    """Run the command and exit: a user's mistake is a message and its exit code, everything else a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no tick gets a question mark, not a traceback

    try:
        app()
    except GateError as error:
        sys.exit(fail([error]))
    except BaseExceptionGroup as group:
        ours, others = group.split(GateError)
        if ours is None or others is not None:
            raise
        sys.exit(fail(_leaves(ours)))
    except BrokenPipeError:
        # The reader of our output has seen enough, as in `gate load --json | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _leaves(group: BaseExceptionGroup[GateError]) -> list[GateError]:
    return [leaf for error in group.exceptions for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])]
