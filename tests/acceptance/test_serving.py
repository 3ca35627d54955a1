"""Worker and client as processes on the session's broker."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from .conftest import Gate, Running

pytestmark = pytest.mark.kafka

ACTION = """
import asyncio
from pathlib import Path

from gate import Api, Event


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    if event.request.geoip.continent_code == "NA":
        api.access.deny("no_signups_from_north_america", "You are not allowed to register.")
    if event.user.email.startswith("slow"):
        Path("slow-has-begun").touch()
        await asyncio.sleep(60)
    api.user.set_user_metadata("screen_name", event.user.email.partition("@")[0])
"""


@pytest.fixture
def worker(here: Gate) -> Running:
    """A worker that is ready."""
    (here.cwd / "greet.py").write_text(ACTION)
    worker = here.start("worker", "--chain", "greet.py", "--log-format", "json")
    wait_until_ready(worker)
    return worker


def url_of(worker: Running) -> str:
    found = worker.wait_for(lambda: re.search(r'"http":"(http://[^"]+)"', worker.err))
    return str(found[1])


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_until_ready(worker: Running) -> None:
    url = url_of(worker)
    worker.wait_for(lambda: get(f"{url}/readyz")[0] == 200)


def test_topics_are_made_once_and_checked(gate: Gate, settings) -> None:
    gate.use(settings)

    made = gate.json("topics", "create", "--partitions", "2", "--replication", "1")["created"]
    again = gate.json("topics", "create", "--partitions", "2", "--replication", "1")["created"]
    checked = gate("topics", "check")

    assert {settings.attempts_topic, settings.decisions_topic, settings.replies_topic, settings.dlq_topic} == {
        topic["name"] for topic in made
    }
    assert [] == again
    assert 1 == checked.returncode  # one copy of each partition weakens promises 1 and 3
    assert "replication" in checked.stdout


def test_check_names_everything_at_once(here: Gate) -> None:
    (here.cwd / "greet.py").write_text(ACTION)

    found = here.json("check", "--chain", "missing.py", code=1, GATE_MODE="stric")
    fine = here.json("check", "--chain", "greet.py", "--no-kafka")

    assert {"ok": True, "findings": []} == fine
    assert not found["ok"]
    said = [(finding["about"], finding["problem"]) for finding in found["findings"]]
    for about, part in (
        ("settings and chain", "GATE_MODE"),
        ("settings and chain", "missing.py"),
        ("topics", "replication is 1"),
    ):
        assert [] != [problem for where, problem in said if where == about and part in problem]


def test_an_attempt_is_asked_and_answered(here: Gate, worker: Running) -> None:
    approved = here.json("ask", "ana@mail.example", "--attempt-id", "a-1")
    again = here.json("ask", "ana@mail.example", "--attempt-id", "a-1")
    conflict = here.json("ask", "bob@mail.example", "--attempt-id", "a-1")
    denied = here("ask", "bob@mail.example", "--from", "denver")

    assert ("approved", {"screen_name": "ana"}) == (approved["status"], approved["changes"]["user_metadata"])
    assert approved["decided_at"] == again["decided_at"]
    assert "conflict" == conflict["denial"]["cause"]
    assert 0 == denied.returncode
    assert denied.stdout.startswith("denied in ")
    assert "You are not allowed to register." in denied.stdout
    assert denied.stderr.startswith("Kafka: 127.0.0.1:")

    status, metrics = get(f"{url_of(worker)}/metrics")
    assert 200 == status
    assert 'gate_decisions_total{action="greet",cause="access_denied",status="denied"} 1.0' in metrics
    assert 'gate_build_info{chain="sha256:' in metrics

    assert 0 == worker.end()
    assert "@mail.example" not in worker.err  # personal data stays in the topics
    denials = [line for line in map(json.loads, worker.err.splitlines()) if line["event"] == "attempt_denied"]
    assert ("access_denied", "no_signups_from_north_america", "greet") in [
        (line["cause"], line["reason"], line["action"]) for line in denials
    ]


def test_an_event_from_a_file_is_sent_as_it_is(here: Gate, worker: Running) -> None:
    event = {"connection": {"strategy": "email"}, "request": {}, "user": {"email": "eve@mail.example"}, "more": 1}
    (here.cwd / "event.json").write_text(json.dumps(event))

    decision = here.json("ask", "--event", "event.json")

    assert "approved" == decision["status"]
    assert decision["warnings"]  # metadata of a passwordless user is dropped


def test_readyz_says_that_it_waits_for_kafka_and_sigterm_ends_the_waiting(gate: Gate) -> None:
    (gate.cwd / "greet.py").write_text(ACTION)
    worker = gate.start(
        "worker", "--chain", "greet.py", "--bootstrap-servers", "127.0.0.1:1", "--http-port", "0", "--log-format", "json"
    )

    url = url_of(worker)
    code, body = get(f"{url}/readyz")

    assert (503, {"ready": False, "reasons": ["waiting for Kafka at 127.0.0.1:1"]}) == (code, json.loads(body))
    assert 200 == get(f"{url}/healthz")[0]
    assert 0 == worker.end(within_s=5)


def test_ctrl_c_shows_what_a_load_has_measured_so_far(here: Gate, worker: Running) -> None:
    load = here.start("load", "--rate", "20", "--duration", "60", "--json")
    load.wait_for(lambda: "asked" in load.err)

    assert 128 + signal.SIGINT == load.end(signal.SIGINT)
    assert json.loads(load.out)["answered"] > 0


def test_no_answer_in_time_is_one_line_and_exit_code_4(here: Gate) -> None:
    done = here("ask", "ana@mail.example", "--timeout", "0.5", "--attempt-id", "a-1")

    assert (4, "") == (done.returncode, done.stdout)
    assert "gate: no answer for attempt a-1 within 0.5 s" in done.stderr
    assert 2 == len(done.stderr.splitlines())


def test_sigterm_finishes_what_is_in_flight_and_a_second_one_exits_at_once(here: Gate, worker: Running) -> None:
    here.start("ask", "slow@mail.example", "--timeout", "60")
    begun = Path(here.cwd / "slow-has-begun")
    worker.wait_for(begun.exists)

    worker.send(signal.SIGTERM)
    worker.wait_for(lambda: "stopping" in worker.err)
    assert worker.process.poll() is None

    second = time.monotonic()
    assert 128 + signal.SIGTERM == worker.end(signal.SIGTERM, within_s=5)
    assert time.monotonic() - second < 5
