"""`gate dev`: everything on this machine, and nothing of it afterwards."""

from __future__ import annotations

import json
import signal
import time

import pytest

from .conftest import Gate

pytestmark = pytest.mark.kafka


def nothing_left(gate: Gate) -> bool:
    deadline = time.monotonic() + 10
    while gate.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    return [] == gate.processes()


def test_dev_serves_other_commands_and_leaves_nothing_behind(gate: Gate) -> None:
    dev = gate.start("dev", GATE_HTTP_PORT="0")
    file = gate.cwd / ".gate/dev.json"
    dev.wait_for(file.exists, within_s=90)
    at = json.loads(file.read_bytes())

    asked = gate("ask", "ana@mail.example")
    loaded = gate.json("load", "--rate", "50", "--duration", "2")
    second = gate("dev")

    assert 0 == asked.returncode, asked.stderr
    assert asked.stdout.startswith("approved in ")
    assert f"Kafka: {at['bootstrap']} (" in asked.stderr
    assert (100, 100, 0.2) == (loaded["sent"], loaded["answered"], loaded["denied_share"])
    assert 2 == second.returncode
    assert "`gate dev` runs in this folder already" in second.stderr
    assert "gate ask " in dev.err

    assert 0 == dev.end(signal.SIGINT)
    assert nothing_left(gate), gate.processes()
    assert not (gate.cwd / ".gate").exists()


def test_ctrl_c_while_it_starts_leaves_nothing_behind(gate: Gate) -> None:
    dev = gate.start("dev", GATE_HTTP_PORT="0")
    dev.wait_for(lambda: any("java" in command for command in gate.processes()), within_s=90)

    assert 0 == dev.end(signal.SIGINT)
    assert nothing_left(gate), gate.processes()


def test_a_killed_dev_takes_its_kafka_with_it(gate: Gate) -> None:
    dev = gate.start("dev", GATE_HTTP_PORT="0")
    file = gate.cwd / ".gate/dev.json"
    dev.wait_for(file.exists, within_s=90)

    dev.process.kill()
    dev.process.wait()

    assert nothing_left(gate), gate.processes()
    done = gate("ask", "ana@mail.example", GATE_CONNECT_TIMEOUT_S="0.2")
    assert "Kafka: localhost:9092 (default)" in done.stderr
