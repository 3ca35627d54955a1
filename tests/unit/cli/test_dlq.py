"""What `gate dlq` says to a person, and when it asks before it acts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from gate.cli import dlq, dlq_kafka
from gate.cli.dlq_report import Report, printable
from gate.cli.main import app
from gate.config import Settings
from gate.model.dead_letter import Place
from gate.model.wire import PlainRecord
from gate.tools.dlq import Selection, found_in
from gate.tools.redrive import Deed, Outcome, left


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["redrive"], "give either places"),
        (["redrive", "--since", "1h"], "give either places"),
        (["redrive", "--all", "0:1"], "give either places"),
        (["redrive", "0:1", "--reason", "invalid_attempt"], "give either places"),
        (["redrive", "0:1", "--since", "1h"], "give either places"),
        (["redrive", "0-1"], "'0-1' is not partition:offset"),
        (["show", "one"], "'one' is not partition:offset"),
        (["list", "--since", "1y"], "'1y' is not a number and s, m, h or d"),
        (["list", "--reason", "bad"], "'bad' is none of invalid_attempt"),
        (["list", "--limit", "0"], "--limit"),
    ],
)
def test_a_mistake_is_told_before_kafka_is_asked(arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gate.log.configure", lambda *_: None)

    result = CliRunner().invoke(app, ["dlq", *arguments])

    assert 2 == result.exit_code
    assert words in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("text", "age_ms"), [("90s", 90_000), ("1m", 60_000), ("2h", 7_200_000), ("3d", 259_200_000)])
def test_ages_are_read(text: str, age_ms: int) -> None:
    assert age_ms == dlq._age_ms(text)


def test_text_from_outside_cannot_steer_a_terminal() -> None:
    assert r"a\x1b[2J\n\u202eé" == printable("a\x1b[2J\n\u202eé")


STRANGER = found_in(PlainRecord(topic="dlq", partition=0, offset=1, timestamp=0, key=b"", value=b"", headers=[]), Settings())


class Letters:
    def __init__(self, number: int) -> None:
        self.number = number

    async def at(self, place):
        return STRANGER if place.offset else None

    async def find(self, selection, bounds):
        yield STRANGER
        for _ in range(self.number):
            yield replace(STRANGER, letter=object())


def wanted(**given):
    return dlq_kafka.Wanted(**{"places": [], "selection": Selection(), "dry_run": False, "decide_again": False, **given})


@pytest.mark.parametrize(("number", "asked"), [(0, False), (1, False), (2, True)])
def test_a_person_is_asked_before_more_than_one_is_redriven(number: int, asked: bool, monkeypatch) -> None:
    questions: list[str] = []
    monkeypatch.setattr("typer.confirm", lambda text, **_: bool(questions.append(text)))

    assert asked != dlq._confirmed(number, wanted(decide_again=True))
    assert ["Redrive 2 dead letters under new ids?"] * asked == questions


async def test_records_of_others_are_counted_where_nobody_named_them_and_taken_where_somebody_did(capsys) -> None:
    report = Report(json=False, dry_run=False)

    assert 2 == len([found async for found in dlq_kafka.selected(Letters(2), wanted(), {}, report)])
    assert 1 == report.strangers
    places = wanted(places=[Place(0, 0), Place(0, 1)])
    assert [STRANGER] == [found async for found in dlq_kafka.selected(Letters(0), places, {}, report)]
    assert "there is nothing at 0:0" in capsys.readouterr().err


SENT = Outcome(found=STRANGER, deed=Deed.SENT, topic="replies", partition=3, status="denied", cause="access_denied")
ANEW = Outcome(found=STRANGER, deed=Deed.ASKED_ANEW, topic="attempts", partition=1, new_attempt_id="n")


@pytest.mark.parametrize(
    ("outcomes", "code", "last"),
    [([SENT, ANEW], 0, "2 redriven, 0 left"), ([SENT, left(STRANGER, "why")], 1, "1 redriven, 1 left"), ([], 1, None)],
)
def test_the_exit_code_says_whether_all_is_done(outcomes, code, last, capsys) -> None:
    report = Report(json=False, dry_run=False)
    for outcome in outcomes:
        report.add(outcome)
    report.close("dlq")

    said = capsys.readouterr()
    assert code == report.exit_code
    assert (said.out.splitlines()[-1] if last else None) == last
    assert ("no dead letter of dlq is selected" in said.err) == (last is None)


def test_what_is_done_and_what_would_be_are_told_apart(capsys) -> None:
    for dry_run in (False, True):
        Report(json=False, dry_run=dry_run).add(SENT)
        Report(json=False, dry_run=dry_run).add(ANEW)

    assert [
        "0:1  its decision, denied (access_denied), was sent again to replies-3",
        "0:1  was asked anew as n",
        "0:1  its decision, denied (access_denied), would be sent again to replies-3",
        "0:1  would be asked anew as n",
    ] == capsys.readouterr().out.splitlines()


def test_nothing_selected_and_some_places_missing_is_not_done() -> None:
    report = Report(json=False, dry_run=False)
    report.add(SENT)
    report.missing(Place(1, 2))

    assert 1 == report.exit_code
