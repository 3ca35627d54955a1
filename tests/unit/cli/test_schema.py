"""`gate schema`: a line for each field in a pipe, tables on a terminal, one JSON document with --json."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gate.cli.main import app
from gate.cli.schema import _tables
from gate.tools.schema import event_fields, event_schema


def test_in_a_pipe_every_field_is_one_line_with_its_path_first_and_its_json_path_where_that_differs() -> None:
    lines = CliRunner().invoke(app, ["schema", "event"]).output.splitlines()
    by_path = {line.split()[0]: line for line in lines}

    assert [field.path for field in event_fields()] == list(by_path)
    assert by_path["event.request.geoip.continent_code"].endswith("(JSON: request.geoip.continentCode)")
    assert by_path["event.user.email"].endswith("E-mail address, not verified.")
    assert [] == [line for line in lines if line != line.rstrip() or "\x1b" in line]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_on_a_terminal_every_object_is_a_table_and_no_name_is_cut(width: int) -> None:
    out = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)

    for part in _tables(event_fields()):
        out.print(part)

    assert isinstance(out.file, io.StringIO)
    shown = [line.strip() for line in out.file.getvalue().splitlines()]
    words = {word for line in shown for word in line.split()}
    assert set() == {field.name for field in event_fields()} - words
    assert "event.request.geoip" in shown


def test_as_json_it_is_the_schema_on_one_line() -> None:
    output = CliRunner().invoke(app, ["schema", "event", "--json"]).output

    assert 1 == output.count("\n")
    assert event_schema() == json.loads(output)


@pytest.mark.parametrize("arguments", [["schema", "evnt"], ["schema", "event", "extra"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert 2 == CliRunner().invoke(app, arguments).exit_code
