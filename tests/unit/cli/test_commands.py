import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gate.cli.main import app, main
from gate.cli.options import _HELP, WORKER
from gate.config import Settings
from gate.errors import AskTimeout, ConfigError, GateError, KafkaUnavailable

VERBS = [
    ["demo"],
    ["dev"],
    ["worker"],
    ["ask"],
    ["load"],
    ["dlq", "list"],
    ["dlq", "show"],
    ["dlq", "redrive"],
    ["test"],
    ["check"],
    ["config"],
    ["topics", "create"],
    ["topics", "check"],
    ["schema", "event"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself(verb: list[str]) -> None:
    result = CliRunner().invoke(app, [*verb, "--help"])

    assert 0 == result.exit_code
    assert "Usage: gate " + " ".join(verb) in result.output


def test_help_loads_none_of_what_only_commands_need() -> None:
    heavy = {
        "aiokafka",
        "asyncio",
        "httpx",
        "hdrh",
        "prometheus_client",
        "pydantic",
        "starlette",
        "structlog",
        "uvicorn",
        "uvloop",
    }

    loaded = subprocess.run(
        [sys.executable, "-c", "import gate.cli.main, sys; print(*sys.modules)"], check=True, capture_output=True, text=True
    ).stdout.split()

    assert set() == heavy & set(loaded)


def test_every_flag_of_a_setting_names_a_setting() -> None:
    assert set(WORKER) <= _HELP.keys() <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (ConfigError(["one"]), 2, ["gate: one"]),
        (ConfigError(["one", "two"]), 2, ["gate: 2 problems", "  one", "  two"]),
        (KafkaUnavailable("no broker answers at a:1"), 3, ["gate: no broker answers at a:1"]),
        (AskTimeout("a-1", 5), 4, [f"gate: {AskTimeout('a-1', 5)}"]),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [KafkaUnavailable("gone")])]), 3, ["gate: gone"]),
    ],
)
def test_errors_of_ours_are_lines_and_an_exit_code(
    error: Exception, code: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("gate.cli.main.app", fail)

    with pytest.raises(SystemExit) as left:
        main()

    assert code == left.value.code
    assert lines == capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("error", [ValueError("a bug"), ExceptionGroup("tasks", [GateError("ours"), ValueError("a bug")])])
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("gate.cli.main.app", fail)

    with pytest.raises(type(error)):
        main()
