"""`gate schema`: what is generated from the code, so that it is never out of date."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from gate.cli.options import Json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gate.tools.schema import EventField

app = typer.Typer(help="Print what is generated from the code: documentation and schemas.", no_args_is_help=True)

_PATH_WIDTH = 48  # of the lines in a pipe; only what Akamai forwards has longer paths


@app.command()
def event(json: Json = False) -> None:
    """List every field of the event: what an action reads, its name in JSON, and what it means.

    With --json: the JSON Schema of what an attempt's value may hold.
    """
    from gate.cli.output import console, print_json
    from gate.tools.schema import event_fields, event_schema

    if json:
        print_json(event_schema())
        return

    out = console()

    if out.is_terminal:
        for part in _tables(event_fields()):
            out.print(part)
    else:
        for line in _lines(event_fields()):
            print(line)


def _lines(fields: Sequence[EventField]) -> Iterator[str]:
    """Yield one line for each field, to be searched by other commands."""
    types = max(len(field.type) for field in fields)
    presences = max(len(field.presence) for field in fields)

    for field in fields:
        name = f" (JSON: {field.json_path})" if field.path != f"event.{field.json_path}" and field.json_path else ""
        yield f"{field.path:{_PATH_WIDTH}}  {field.type:{types}}  {field.presence:{presences}}  {field.meaning}{name}"


def _tables(fields: Sequence[EventField]) -> Iterator[RenderableType]:
    """Yield a heading and a table for each object of the event."""
    from rich.table import Table
    from rich.text import Text

    objects: dict[str, list[EventField]] = {}

    for field in fields:
        objects.setdefault(field.parent, []).append(field)

    for path, members in objects.items():
        yield Text(path, style="bold")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(width=2)
        table.add_column(min_width=26, no_wrap=True)
        table.add_column(min_width=12, no_wrap=True, style="dim")
        table.add_column(min_width=15, no_wrap=True, style="dim")
        table.add_column()

        for field in members:
            meaning = Text(field.meaning)

            if field.json_name is not None:
                meaning.append(f" JSON: {field.json_name}", style="dim")

            table.add_row("", field.name, field.type, field.presence.value, meaning)

        yield table
        yield ""
