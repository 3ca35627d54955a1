"""The file of fixed texts: what it says to whom, what it may leave out, and that every mistake in it is named with its mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gate.chain.loader import load_chain
from gate.chain.texts import FixedTexts, load_texts
from gate.chain.trial import run_trial
from gate.errors import ConfigError
from gate.model.decision import FIXED_TEXTS, Cause

EVENT: dict[str, Any] = {"connection": {"strategy": "auth0"}, "request": {}, "user": {}}
FAILS = "async def on_execute_pre_user_registration(event, api):\n    raise OSError"
DENIES = "async def on_execute_pre_user_registration(event, api):\n    api.access.deny('r', 'in its own words')"


def english(cause: Cause) -> str:
    return FIXED_TEXTS[cause][1]


def texts(path: Path, content: str) -> FixedTexts:
    (path / "texts.toml").write_text(content)
    read = load_texts(path / "texts.toml")
    assert read is not None
    return read


def problems(path: Path, content: str | bytes) -> list[str]:
    (path / "texts.toml").write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ConfigError) as caught:
        load_texts(path / "texts.toml")

    return [problem.removeprefix(f"{path}/") for problem in caught.value.problems]


def test_no_file_is_no_texts() -> None:
    assert None is load_texts(None)


@pytest.mark.parametrize(
    ("document", "expired", "timed_out"),
    [
        ({"request": {"language": "es"}}, "caducado", "tardó"),
        ({"request": {"language": "es-MX,en;q=0.5"}}, "caducado", "tardó, güey"),  # what es-MX leaves out it has from es
        ({"request": {"language": "es-AR"}}, "caducado", "tardó"),
        ({"request": {"language": "de"}}, english(Cause.EXPIRED), "zu lange"),  # what de leaves out is English
        ({"request": {"language": "en-GB, es;q=0.9"}}, english(Cause.EXPIRED), english(Cause.TIMED_OUT)),
        ({"transaction": {"locale": "de", "ui_locales": ["es"]}}, english(Cause.EXPIRED), "zu lange"),
        ({"request": 7, "transaction": {"ui_locales": [None, "fr", "es"]}}, "caducado", "tardó"),
        ({"request": {"language": ["es"]}}, english(Cause.EXPIRED), english(Cause.TIMED_OUT)),
        ({}, english(Cause.EXPIRED), english(Cause.TIMED_OUT)),
    ],
)
def test_a_person_is_told_in_their_language_and_what_that_leaves_out_in_english(
    tmp_path: Path, document: dict[str, Any], expired: str, timed_out: str
) -> None:
    read = texts(
        tmp_path,
        '[es-MX]\ntimed_out = "tardó, güey"\n[es]\ntimed_out = "tardó"\nexpired = "caducado"\n[de]\ntimed_out = "zu lange"\n',
    )

    told = read.for_document(document)

    assert (expired, timed_out) == (told[Cause.EXPIRED], told[Cause.TIMED_OUT])
    assert FIXED_TEXTS.keys() == told.keys()


def test_english_can_be_reworded_for_everybody_who_is_told_in_english(tmp_path: Path) -> None:
    read = texts(tmp_path, '[en]\nexpired = "too late"\n[es]\nconflict = "otra vez"\n')

    for language in ("en-US", "es", "fr", None):
        told = read.for_document({"request": {"language": language}})
        assert ("too late", english(Cause.OVERLOADED)) == (told[Cause.EXPIRED], told[Cause.OVERLOADED])


def test_every_cause_that_no_action_words_can_be_worded(tmp_path: Path) -> None:
    told = texts(tmp_path, "[es]\n" + "".join(f'{cause} = "es {cause}"\n' for cause in FIXED_TEXTS)).for_document(
        {"request": {"language": "es"}}
    )

    assert {cause: f"es {cause}" for cause in FIXED_TEXTS} == told


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", ['no texts; write [es], below it timed_out = "…"']),
        ('[es]\ntimed_ot = "x"', ["es.timed_ot: there is no such cause; did you mean timed_out?"]),
        (
            '[es]\nzzz = "x"',
            [
                "es.zzz: there is no such cause; "
                "there are action_failed, timed_out, expired, invalid_attempt, conflict, overloaded"
            ],
        ),
        (
            '[es]\naccess_denied = "x"',
            ["es.access_denied: is worded by the actions, in api.access.deny() and api.validation.error(); leave it out"],
        ),
        ("[es]\nexpired = 3", ["es.expired: must be a text; put it in quotation marks"]),
        ('[es]\nexpired = "  "', ["es.expired: is empty; write a text, or leave it out for the English one"]),
        (
            'expired = "x"',
            ["expired: must be a table of texts; write a line with the language before it, such as [es]"],
        ),
        ('["e s"]\nexpired = "x"', ["[e s]: is not a language; write a tag such as es or pt-BR"]),
        ("[es]", ["[es]: has no texts; give it some, or remove it"]),
        (
            '[pt-BR]\nexpired = "x"\n[pt_br]\nexpired = "x"',
            ["[pt_br]: is the same language as [pt-BR]; join the two"],
        ),
        ("[es]\nexpird = 'x'\nconflict = 1\n[de]", None),
        (b"\xff\xfe", ["the texts are not UTF-8; save the file as UTF-8"]),
    ],
)
def test_a_mistake_is_named_with_its_key_and_its_mend(tmp_path: Path, content: str | bytes, found: list[str] | None) -> None:
    named = problems(tmp_path, content)

    if found is None:
        assert 3 == len(named)  # all at once
    else:
        assert [f"texts.toml: {problem}" for problem in found] == named


def test_what_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, '[es]\nexpired = "x\n')

    assert problem.startswith("texts.toml: the texts are not TOML: ")
    assert "(at line 2, column " in problem


@pytest.mark.parametrize(("name", "reason"), [("none.toml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named_with_its_setting(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_texts(tmp_path / name)

    mend = "name a TOML file in GATE_MESSAGES, or leave it out for the built-in texts"
    assert (f"{tmp_path / name}: the texts cannot be read: {reason}; {mend}",) == caught.value.problems


@pytest.mark.parametrize(
    ("source", "language", "reason", "message"),
    [
        (FAILS, "es", "action_failed", "falló"),
        (FAILS, "fr", "action_failed", english(Cause.ACTION_FAILED)),
        (DENIES, "es", "r", "in its own words"),
    ],
)
async def test_a_trial_tells_in_the_persons_language_what_no_action_worded(
    tmp_path: Path, source: str, language: str, reason: str, message: str
) -> None:
    read = texts(tmp_path, '[es]\naction_failed = "falló"\n')
    (tmp_path / "one.py").write_text(source)
    document = {**EVENT, "request": {"language": language}}

    reply = await run_trial(load_chain(tmp_path / "one.py", environ={}), document, texts=read)

    assert (reason, message) == (reply["denial"]["reason"], reply["denial"]["user_message"])
