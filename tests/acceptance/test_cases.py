"""`gate test` as a person uses it who writes an action: cases, a report, and the next report after every change."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from .conftest import Gate
from .test_readme import BLOCK, matches, plain

ACTIONS = Path(__file__).parents[2] / "actions"
SECRET = {"GATE_SECRET_STORE_USER_ID_USER_SERVICE_URL": "http://127.0.0.1:9/users"}
EVENT: dict[str, Any] = {"connection": {"strategy": "auth0"}, "request": {}, "user": {}}

ACTION = """
from gate import Api, Event

attempts = []


async def on_execute_pre_user_registration(event: Event, api: Api) -> None:
    attempts.append(event.attempt_id)
    print("attempt", len(attempts))
    if event.user.email == "bug":
        raise LookupError("no such thing")
    api.user.set_user_metadata("count", len(attempts))
"""


@pytest.fixture
def chain(gate: Gate) -> Gate:
    """A chain of one action in the file one.py."""
    (gate.cwd / "one.py").write_text(ACTION)
    return gate


def write(gate: Gate, path: str, content: Any) -> None:
    file = gate.cwd / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def lines(text: str) -> list[str]:
    return [re.sub(r"\d+(\.\d+)? m?s\b", "<time>", re.sub(" +", " ", line)).strip() for line in text.splitlines()]


def test_the_readme_of_the_actions_shows_what_is_printed(gate: Gate) -> None:
    shutil.copytree(ACTIONS, gate.cwd / "actions")
    shutil.copy(ACTIONS / "cases/ana.json", gate.cwd)
    blocks = dict(reversed(BLOCK.findall((ACTIONS / "README.md").read_text())))
    (gate.cwd / "mine.json").write_text(blocks["json"])
    command, *shown = blocks["console"].splitlines()

    done = gate(*command.split()[2:], **SECRET)

    assert (1, "") == (done.returncode, done.stderr)
    assert matches([plain(line) for line in shown], [plain(line) for line in done.stdout.splitlines()]), done.stdout


def test_the_cases_beside_the_chain_are_run_where_no_event_is_named(gate: Gate) -> None:
    done = gate("test", "--chain", str(ACTIONS), **SECRET)

    assert (0, "11 passed in <time>") == (done.returncode, lines(done.stdout)[-1]), done.stdout + done.stderr


def test_a_failed_case_shows_what_differs_and_what_each_action_did_and_raised(chain: Gate) -> None:
    write(
        chain,
        "cases/table.json",
        {
            "event": EVENT,
            "cases": [
                {"name": "counts", "expect": {"user_metadata": {"count": 1}}},
                {"name": "goes on", "with": {"user.email": "bug"}, "expect": {"status": "approved"}},
                {"name": "no event", "with": {"user": 1}, "expect": {"cause": "expired"}},
            ],
        },
    )
    write(chain, "cases/plain.json", EVENT)

    done = chain("test", "--chain", "one.py")

    assert (1, "") == (done.returncode, done.stderr)
    assert [
        "· plain approved <time>",
        "✗ table › counts approved <time>",
        "user_metadata.count",
        "expected 1",
        "got 2",
        "one ran <time>",
        "│ attempt 2",
        "✗ table › goes on denied action_failed <time>",
        "status",
        'expected "approved"',
        'got "denied"',
        "one failed <time>",
        "│ attempt 3",
        "│ LookupError: no such thing, one.py:11",
        "✗ table › no event denied invalid_attempt <time>",
        "cause",
        'expected "expired"',
        'got "invalid_attempt"',
        "warning invalid_attempt: $.user: must be an object",
        "one not_reached <time>",
        "1 passed (1 without expectation), 3 failed in <time>",
    ] == lines(done.stdout)


def test_json_is_one_document_with_every_case_and_its_reply(chain: Gate) -> None:
    write(chain, "a.json", {"event": EVENT, "expect": {"status": "approved"}})
    write(chain, "more/b.json", {"event": EVENT, "attempt_id": "b-1", "expect": {"status": "denied"}})

    report = chain.json("test", "--chain", "one.py", "--event", "a.json", "--event", "more", code=1)

    assert (1, 1) == (report["passed"], report["failed"])
    assert [
        ("a", "a.json", True, []),
        ("more/b", "more/b.json", False, [{"path": "status", "expected": "denied", "got": "approved"}]),
    ] == [(case["name"], case["file"], case["passed"], case["differences"]) for case in report["cases"]]
    assert ["b-1", "attempt 2"] == [
        report["cases"][1]["reply"]["attempt_id"],
        report["cases"][1]["reply"]["trace"][0]["logs"][0],
    ]


def test_cases_are_chosen_by_a_part_of_their_name(chain: Gate) -> None:
    write(chain, "cases/first.json", {"event": EVENT, "expect": {"status": "denied"}})
    write(chain, "cases/second.json", {"event": EVENT, "expect": {"status": "approved"}})

    chosen = chain("test", "--chain", "one.py", "-k", "SECO")
    nothing = chain("test", "--chain", "one.py", "-k", "third")

    assert (0, "1 passed in <time>, 1 left out by -k") == (chosen.returncode, lines(chosen.stdout)[-1])
    assert (2, "gate: -k: none of 2 cases has 'third' in its name, such as first\n") == (nothing.returncode, nothing.stderr)


def test_the_expected_answer_of_the_flag_is_for_events_that_expect_nothing(chain: Gate) -> None:
    write(chain, "cases/plain.json", EVENT)
    write(chain, "cases/own.json", {"event": EVENT, "expect": {"status": "approved"}})

    done = chain("test", "--chain", "one.py", "--expect", "access_denied")

    assert (1, "1 passed, 1 failed in <time>") == (done.returncode, lines(done.stdout)[-1])


def test_a_case_from_stdin_that_expects_nothing_prints_its_whole_answer(chain: Gate) -> None:
    case = json.dumps({"event": EVENT, "with": {"user.email": "bug"}, "attempt_id": "a-9"})

    assert "a-9" == chain.json("test", "--chain", "one.py", "--event", "-", stdin=case)["attempt_id"]
    assert "LookupError: no such thing, one.py:11" in chain("test", "--chain", "one.py", "--event", "-", stdin=case).stdout


@pytest.mark.parametrize(
    ("files", "arguments", "problem"),
    [
        ({}, [], "there is no folder cases"),
        ({"cases/notes.txt": ""}, [], "gate: cases: no case in this folder; put events or cases there"),
        ({"cases/a.json": '{\n"event":'}, [], "gate: cases/a.json:2:9: not JSON"),
        ({"cases/a.json": {"user": {}}}, [], "gate: cases/a.json: $.connection: is missing"),
        (
            {"cases/a.json": {"event": EVENT, "expect": {"trace": {"on": "ran"}}}},
            [],
            'gate: cases/a.json: $.expect.trace.on: the chain has no action "on"; did you mean one?',
        ),
        ({"cases/a.json": EVENT}, ["--expect", "refused"], "'refused' is none of"),
        ({}, ["--event", "-", "--watch"], "stdin cannot be watched"),
    ],
)
def test_what_is_wrong_with_cases_is_exit_code_2_with_place_and_mend(
    chain: Gate, files: dict[str, Any], arguments: list[str], problem: str
) -> None:
    for path, content in files.items():
        write(chain, path, content)

    done = chain("test", "--chain", "one.py", *arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert problem in " ".join(done.stderr.replace("│", " ").split())


def test_watch_runs_again_after_every_change_and_survives_mistakes(chain: Gate) -> None:
    write(chain, "cases/a.json", {"event": EVENT, "expect": {"user_metadata": {"count": 1}}})
    watching = chain.start("test", "--chain", "one.py", "--watch", "--json", PYTHONUNBUFFERED="1")

    def last(report: dict[str, Any]) -> bool:
        """Whether the report made last says this."""
        made = [json.loads(line) for line in watching.out.splitlines(keepends=True) if line.endswith("\n")]
        return bool(made) and report.items() <= made[-1].items()

    def after(path: str, content: Any, report: dict[str, Any]) -> None:
        write(chain, path, content)
        watching.wait_for(lambda: last(report), within_s=20)

    watching.wait_for(lambda: "waiting for a change" in watching.err)
    assert last({"passed": 1, "failed": 0})
    after("one.py", ACTION.replace('"count", len', '"count", 1 + len'), {"passed": 0, "failed": 1})
    after("one.py", "\nwhat this", {"problems": ["one.py:2: not Python: invalid syntax"]})
    after("one.py", ACTION, {"passed": 1, "failed": 0})
    after("cases/new/b.json", {"event": EVENT, "expect": {"status": "approved"}}, {"passed": 2, "failed": 0})
    after("cases/new/b.json", {"event": EVENT, "expect": {"status": "denied"}}, {"passed": 1, "failed": 1})

    assert 130 == watching.end(signal.SIGINT)
    assert "Traceback" not in watching.err
