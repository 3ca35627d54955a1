"""What a person sees who did something wrong: what, where, how to mend it, and an exit code; never a traceback."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

import pytest

from .conftest import Gate

ACTION = """
from gate import Api, Event


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    pass
"""


@pytest.fixture
def action(tmp_path: Path) -> str:
    path = tmp_path / "let-in.py"
    path.write_text(ACTION)
    return str(path)


def test_no_command_shows_the_verbs(gate: Gate) -> None:
    done = gate("--help")

    assert 0 == done.returncode
    assert [] == [
        verb
        for verb in ("demo", "dev", "worker", "ask", "load", "dlq", "test", "check", "config", "topics", "schema")
        if f" {verb} " not in done.stdout
    ]


def test_an_action_that_leaves_something_behind_that_does_not_end_does_not_keep_gate_test(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "leaves.py"
    path.write_text(
        "import asyncio, time\n"
        "async def on_execute_pre_user_registration(event, api):\n"
        "    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)\n"
    )
    event = '{"connection": {"strategy": "auth0"}, "request": {}, "user": {}}'
    done = gate("test", "--chain", str(path), "--event", "-", "--expect", "denied", "--json", stdin=event, within_s=20)

    assert (1, "approved") == (done.returncode, json.loads(done.stdout)["status"])


def test_all_problems_of_a_wrong_configuration_come_at_once_with_exit_code_2(gate: Gate) -> None:
    (gate.cwd / "gate.toml").write_text("windw_ms = 1\n")
    (gate.cwd / "broken.py").write_text("def other(): pass\n")

    done = gate("worker", "--http-port", "many", "--chain", "broken.py", GATE_MODE="stric")

    assert (2, "") == (done.returncode, done.stdout)
    assert "Traceback" not in done.stderr
    for part in ("did you mean window_ms?", "http_port (flag): 'many'", "GATE_MODE (environment): 'stric'", "broken.py"):
        assert part in done.stderr


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (None, ["texts.toml: the texts cannot be read: No such file or directory; name a TOML file in GATE_MESSAGES"]),
        ("[es\n", ["texts.toml: the texts are not TOML: ", "(at line 1, column 4)"]),
        (
            "[es]\nexpird = 'x'\nconflict = 1\n",
            ["texts.toml: es.expird: ", "did you mean expired?", "texts.toml: es.conflict: must be"],
        ),
    ],
)
def test_texts_that_cannot_be_used_are_reported_with_the_other_problems(
    gate: Gate, content: str | None, problems: list[str]
) -> None:
    if content is not None:
        (gate.cwd / "texts.toml").write_text(content)

    (gate.cwd / "broken.py").write_text("def other(): pass\n")

    done = gate("worker", "--chain", "broken.py", GATE_MESSAGES="texts.toml", GATE_MODE="stric")

    assert (2, "") == (done.returncode, done.stdout)
    assert "Traceback" not in done.stderr
    for part in (*problems, "broken.py", "GATE_MODE (environment): 'stric'"):
        assert part in done.stderr


def test_gate_dev_looks_at_the_texts_before_it_starts_anything(gate: Gate) -> None:
    done = gate("dev", GATE_MESSAGES="texts.toml")

    assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert done.stderr.startswith("gate: texts.toml: the texts cannot be read")


@pytest.mark.parametrize(
    "verb", [["ask", "ana@mail.example"], ["load"], ["topics", "check"], ["check"], ["worker"]], ids=" ".join
)
def test_an_unreachable_kafka_is_one_line_that_names_the_address_and_exit_code_3(
    gate: Gate, action: str, verb: list[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        done = gate(
            *verb,
            GATE_BOOTSTRAP_SERVERS=address,
            GATE_CONNECT_TIMEOUT_S="0.5",
            GATE_CHAIN=action,
            GATE_HTTP_PORT="0",
            GATE_LOG_LEVEL="error",
        )

    lines = [line for line in done.stderr.splitlines() if not line.startswith("Kafka:")]
    assert (3, 1) == (done.returncode, len(lines)), done.stderr
    assert address in lines[0]


def test_a_taken_http_port_names_the_setting(gate: Gate, action: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = gate("worker", "--chain", action, "--http-port", str(taken.getsockname()[1]), "--log-level", "error")

    assert 2 == done.returncode
    assert done.stderr.startswith("gate: GATE_HTTP_PORT: 127.0.0.1 port")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read: No such file"), ("{", "not JSON"), ("[]", "not a JSON object"), ('{"user": {}}', "$.connection")],
)
def test_an_event_that_cannot_be_read_is_exit_code_2(gate: Gate, action: str, content: str | None, problem: str) -> None:
    if content is not None:
        (gate.cwd / "event.json").write_text(content)

    done = gate("test", "--chain", action, "--event", "event.json")

    assert 2 == done.returncode
    assert done.stderr.startswith("gate: event.json")
    assert problem in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask"],
        ["ask", "a@b.example", "--event", "x.json"],
        ["ask", "a@b.example", "--from", "atlantis"],
        ["ask", "a@b.example", "--with", "nothing"],
        ["config", "--set", "nothing"],
        ["load", "--rate", "0"],
        ["schema", "evnt"],
        ["fly"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(gate: Gate, arguments: list[str]) -> None:
    done = gate(*arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert "Usage: gate" in done.stderr


def test_config_shows_where_values_come_from_and_masks_secrets(gate: Gate) -> None:
    (gate.cwd / "gate.toml").write_text('sasl_username = "u"\nsecurity_protocol = "SASL_SSL"\n')

    shown = gate.json("config", "--http-port", "0", GATE_SASL_PASSWORD="hush", GATE_SECRET_ONE_KEY="hush")

    assert {"value": 0, "source": "flag"} == shown["http_port"]
    assert {"value": "u", "source": "gate.toml"} == shown["sasl_username"]
    assert {"value": "**********", "source": "environment"} == shown["sasl_password"]
    assert {"value": "strict", "source": "default"} == shown["mode"]
    assert "hush" not in repr(shown) + gate("config", GATE_SASL_PASSWORD="hush", GATE_SECRET_ONE_KEY="hush").stdout


def test_schema_event_needs_neither_settings_nor_a_chain(gate: Gate) -> None:
    (gate.cwd / "gate.toml").write_text("nonsense")

    assert "event.request.geoip.country_code " in gate("schema", "event").stdout
    assert ["connection", "request", "user"] == gate.json("schema", "event")["required"]


def test_the_chain_runs_without_kafka(gate: Gate, action: str) -> None:
    event = {"connection": {"strategy": "auth0"}, "request": {}, "user": {}}

    document = gate.json("test", "--chain", action, "--event", "-", stdin=json.dumps(event))

    assert "approved" == document["status"]
    assert [("let-in", "ran")] == [(entry["name"], entry["outcome"]) for entry in document["trace"]]


def test_another_answer_than_expected_is_exit_code_1(gate: Gate, action: str) -> None:
    event = json.dumps({"connection": {"strategy": "auth0"}, "request": {}, "user": {}})

    assert 0 == gate("test", "--chain", action, "--event", "-", "--expect", "approved", stdin=event).returncode

    done = gate("test", "--chain", action, "--event", "-", "--expect", "denied", stdin=event)
    assert (1, "expected denied, got approved\n") == (done.returncode, done.stderr)


def test_a_second_ctrl_c_ends_a_trial_whose_action_never_gives_way_and_says_nothing(gate: Gate) -> None:
    (gate.cwd / "loops.py").write_text(
        "import asyncio, pathlib\n\n\nasync def on_execute_pre_user_registration(event, api):\n"
        "    await asyncio.sleep(0)\n    pathlib.Path('begun').touch()\n    while True:\n        pass\n"
    )
    (gate.cwd / "event.json").write_text('{"connection": {"strategy": "auth0"}, "request": {}, "user": {}}')

    running = gate.start("test", "--chain", "loops.py", "--event", "event.json")
    running.wait_for((gate.cwd / "begun").exists)
    running.send(signal.SIGINT)
    time.sleep(0.3)  # the first one is to be seen to be not enough, and not to be lost
    assert running.process.poll() is None

    assert (130, "", "") == (running.end(signal.SIGINT), running.out, running.err)


def test_check_tells_what_is_wrong_with_the_chain_also_where_no_kafka_answers(gate: Gate) -> None:
    (gate.cwd / "broken.py").write_text("def other(): pass\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        done = gate("check", "--chain", "broken.py", GATE_BOOTSTRAP_SERVERS=address, GATE_CONNECT_TIMEOUT_S="0.5")

    assert 3 == done.returncode
    assert "settings and chain: broken.py:1: no on_execute_pre_user_registration" in done.stderr
    assert address in done.stderr


def test_a_chosen_user_id_is_shown(gate: Gate) -> None:
    (gate.cwd / "chooses.py").write_text(
        "async def on_execute_pre_user_registration(event, api):\n    api.user.set_user_id('u-123')\n"
    )
    event = json.dumps({"connection": {"strategy": "auth0"}, "request": {}, "user": {}})

    done = gate("test", "--chain", "chooses.py", "--event", "-", stdin=event, GATE_SET_USER_ID="true")

    assert ["user_id", "u-123"] == done.stdout.splitlines()[1].split()
