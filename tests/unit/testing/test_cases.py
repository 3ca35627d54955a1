"""Case files are read as they are meant, and what is wrong in them is named with file, place and mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gate.errors import CasesError, InputError
from gate.testing.cases import Case, change, load_cases

EVENT: dict[str, Any] = {"connection": {"strategy": "auth0"}, "request": {"geoip": {"continentCode": "EU"}}, "user": {}}


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def problems(folder: Path, content: Any, **options: Any) -> list[str]:
    with pytest.raises(CasesError) as mistakes:
        load_cases(write(folder, "case.json", content), **options)

    return [problem.removeprefix(f"{folder}/") for problem in mistakes.value.problems]


def test_a_file_that_is_an_event_expects_nothing(tmp_path: Path) -> None:
    (case,) = load_cases(write(tmp_path, "ana.json", EVENT))

    assert ("ana", EVENT, None) == (case.name, case.event, case.expectation)


def test_a_case_changes_its_event_by_path_and_null_sets_null(tmp_path: Path) -> None:
    changes = {"request.geoip.continentCode": "NA", "user": None, "security_context.ja3": "x", "request.body": {"ulp-a": [1]}}

    (case,) = load_cases(write(tmp_path, "case.json", {"event": EVENT, "with": changes, "expect": {}, "timeout_ms": 50}))

    assert {
        "connection": {"strategy": "auth0"},
        "request": {"geoip": {"continentCode": "NA"}, "body": {"ulp-a": [1]}},
        "user": None,
        "security_context": {"ja3": "x"},
    } == case.event
    assert 50 == case.timeout_ms


def test_the_cases_of_a_table_share_an_event_and_change_only_their_own(tmp_path: Path) -> None:
    table = {
        "event": EVENT,
        "with": {"user.email": "a@b.example"},
        "timeout_ms": 100,
        "cases": [
            {"name": "first", "with": {"request.geoip": None}},
            {"name": "second", "attempt_id": "a-2", "timeout_ms": 7, "expect": {"status": "approved"}},
            {"name": "third", "event": {**EVENT, "client": {}}},
        ],
    }

    first, second, third = load_cases(write(tmp_path, "t.json", table))

    assert ["t › first", "t › second", "t › third"] == [str(first), str(second), str(third)]
    assert {**EVENT, "request": {"geoip": None}, "user": {"email": "a@b.example"}} == first.event
    assert {**EVENT, "user": {"email": "a@b.example"}} == second.event
    assert {**EVENT, "user": {"email": "a@b.example"}, "client": {}} == third.event
    assert [100, 7, 100] == [case.timeout_ms for case in (first, second, third)]
    assert "a-2" == second.stable_attempt_id


def test_a_folder_is_read_to_its_depths_sorted_without_the_files_that_are_events_of_others(tmp_path: Path) -> None:
    write(tmp_path, "b/two.json", {"event": "../shared/ana.json", "expect": {"status": "approved"}})
    write(tmp_path, "a.json", EVENT)
    write(tmp_path, "shared/ana.json", EVENT)
    write(tmp_path, "notes.txt", "no JSON")
    write(tmp_path, ".hidden/x.json", "no JSON")
    write(tmp_path, "node_modules/x/package.json", "no JSON")

    found = load_cases(tmp_path)

    assert ["a", "b/two"] == [case.name for case in found]
    assert tmp_path / "b/../shared/ana.json" == found[1].event_file


def test_the_attempt_id_of_a_case_is_always_the_same_its_own_and_ascii() -> None:
    names = ["deny › Mérida", "deny › M rida", "x" * 300, "x" * 301, "deny › Mérida"]

    ids = [Case(name=name, file=Path("x"), event={}).stable_attempt_id for name in names]

    assert (4, ids[0]) == (len(set(ids)), ids[4])
    assert all(each.isascii() and len(each) < 100 for each in ids)


def test_a_folder_without_cases_is_an_error_that_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no case in this folder; put events or cases there, as files whose names end in \.json"
    ):
        load_cases(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{\n  "event": {},\n  oops\n}', "case.json:3:3: not JSON: "),
        ("[]", "case.json: not a JSON object; an event starts with {"),
        ({"expect": {}}, "case.json: $.event: must be the event, or the path of its file relative to this one"),
        ({"event": 1}, "case.json: $.event: must be the event"),
        ({"event": "none.json"}, "case.json: $.event: "),
        ({"event": "case.json"}, "case.json: $.event: "),
        ({**EVENT, "expect": {}, "event": {}}, "case.json: $.connection: this is of the event; move it into `event`"),
        ({"event": EVENT, "wiht": {}}, "case.json: $.wiht: there is no such key; did you mean with?"),
        ({"event": EVENT, "with": []}, "case.json: $.with: must be an object by path"),
        ({"event": EVENT, "with": {"a..b": 1}}, 'case.json: $.with["a..b"]: not a path'),
        ({"event": EVENT, "with": {"connection.strategy.x": 1}}, 'case.json: $.with["connection.strategy.x"]: strategy is not'),
        ({"event": EVENT, "attempt_id": ""}, "case.json: $.attempt_id: must be a text of 1 to 200 bytes"),
        ({"event": EVENT, "attempt_id": "é" * 101}, "case.json: $.attempt_id: must be a text of 1 to 200 bytes"),
        ({"event": EVENT, "timeout_ms": 1.5}, "case.json: $.timeout_ms: must be a whole number"),
        ({"event": EVENT, "timeout_ms": 120_001}, "case.json: $.timeout_ms: must be a whole number"),
        ({"event": EVENT, "cases": []}, "case.json: $.cases: must be a list of cases"),
        ({"event": EVENT, "cases": [1]}, "case.json: $.cases[0]: must be an object"),
        ({"event": EVENT, "cases": [{}]}, "case.json: $.cases[0].name: must be a text that says what the case shows"),
        (
            {"event": EVENT, "cases": [{"name": "a"}, {"name": "a"}]},
            "case.json: $.cases[1].name: 'a' is the name of another case",
        ),
        ({"event": EVENT, "expect": {}, "cases": [{"name": "a"}]}, "case.json: $.expect: a table has none"),
        ({"event": EVENT, "expect": {"status": "no"}}, 'case.json: $.expect.status: there is no "no"'),
        ({"event": EVENT, "expect": {"action": "x"}}, 'case.json: $.expect.action: the chain has no action "x"; known are one'),
    ],
)
def test_mistakes_name_the_file_the_place_and_the_mend(tmp_path: Path, content: Any, problem: str) -> None:
    found = problems(tmp_path, content, actions=["one"])

    assert found[0].startswith(problem)


def test_the_mistakes_of_all_files_come_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.json", "{")
    write(tmp_path, "b.json", {"event": "gone.json", "expect": {"status": "no"}})

    with pytest.raises(CasesError) as mistakes:
        load_cases(tmp_path)

    assert 3 == len(mistakes.value.problems)


def test_a_change_goes_through_null_but_not_through_a_text() -> None:
    document: dict[str, Any] = {"a": None, "b": "text"}
    change(document, "a.x.y", None)

    assert {"a": {"x": {"y": None}}, "b": "text"} == document
    with pytest.raises(ValueError, match="b is not an object"):
        change(document, "b.x", 1)
