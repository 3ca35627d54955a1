"""`gate config`: every setting, its value, where that came from and what it means."""

from __future__ import annotations

from typing import Any

from gate.cli.options import WORKER, Flags, Json, takes


@takes(*WORKER)
def config(flags: Flags, json: Json = False) -> None:
    """Show every setting with its value and where that came from; secrets are masked."""
    from gate.cli.output import console, print_json
    from gate.config import PREFIX, Settings, load_sources

    settings, sources = load_sources(flags.values, file=flags.file)

    if json:
        values = settings.model_dump(mode="json")  # secrets are masked by their type
        print_json({name: {"value": value, "source": sources.get(name, "default")} for name, value in values.items()})
        return

    from rich.table import Table

    table = Table("setting", "value", "source", "meaning", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name, field in Settings.model_fields.items():
        source = sources.get(name, "default")
        style = "dim" if source == "default" else "bold"
        table.add_row(PREFIX + name.upper(), _shown(getattr(settings, name)), source, field.description, style=style)
    console().print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return ",".join(value) if isinstance(value, tuple) else str(value)
