"""What persons are told where no action words it, as the operator words it: `GATE_MESSAGES`.

    [es]
    timed_out = "…"

By language and cause, in TOML. What a language leaves out it takes from the one it is a variety of (`pt-BR` from `pt`), else
from English: the built-in texts, or what `[en]` makes of them. Who reads none of the languages is told the English ones.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gate.errors import ConfigError
from gate.model.decision import FIXED_TEXTS, Cause, Texts
from gate.model.languages import LEGAL_TAG, Languages, normal, shortened, wishes_of

ENGLISH: Final = "en"

_BUILT_IN: Final = {cause: text for cause, (_, text) in FIXED_TEXTS.items()}


class FixedTexts:
    """The user messages of all fixed causes, by language."""

    def __init__(self, by_language: Mapping[str, Texts]) -> None:
        given = {normal(tag): texts for tag, texts in by_language.items()}
        english = {**_BUILT_IN, **given.get(ENGLISH, {})}
        whole: dict[str, Texts] = {ENGLISH: english}

        for tag in sorted(given, key=len):  # a variety after what it is one of
            whole[tag] = {**_nearest(whole, tag, english), **given[tag]}

        self._english = english
        self._languages = Languages(whole)
        self._tags = tuple(given)

    def __repr__(self) -> str:
        return f"<FixedTexts in {', '.join(self._tags)}>"

    def for_document(self, document: Mapping[str, Any]) -> Texts:
        """Return the texts in the language of the person whose attempt this is; it need not be a readable event."""
        return self._languages.first(wishes_of(document)) or self._english


def _nearest(whole: Mapping[str, Texts], tag: str, english: Texts) -> Texts:
    while tag := shortened(tag):
        if tag in whole:
            return whole[tag]

    return english


def load_texts(path: Path | None) -> FixedTexts | None:
    """Read the file that the setting `messages` names; None where it names none. Raises ConfigError with every problem."""
    if path is None:
        return None

    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        mend = "name a TOML file in GATE_MESSAGES, or leave it out for the built-in texts"
        raise ConfigError([f"{path}: the texts cannot be read: {error.strerror}; {mend}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: the texts are not UTF-8; save the file as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f'{path}: the texts are not TOML: {error}; write [es], below it timed_out = "…"']) from None

    problems = [f"{path}: {problem}" for problem in _problems(document)]

    if problems:
        raise ConfigError(problems)

    return FixedTexts({tag: {Cause(cause): text for cause, text in texts.items()} for tag, texts in document.items()})


def _problems(document: Mapping[str, Any]) -> Iterator[str]:
    if not document:
        yield 'no texts; write [es], below it timed_out = "…"'

    seen: dict[str, str] = {}

    for tag, texts in document.items():
        if not isinstance(texts, dict):
            yield f"{tag}: must be a table of texts; write a line with the language before it, such as [es]"
        elif not LEGAL_TAG.fullmatch(normal(tag)):
            yield f"[{tag}]: is not a language; write a tag such as es or pt-BR"
        elif (other := seen.setdefault(normal(tag), tag)) != tag:
            yield f"[{tag}]: is the same language as [{other}]; join the two"
        elif not texts:
            yield f"[{tag}]: has no texts; give it some, or remove it"
        else:
            yield from _problems_of(tag, texts)


def _problems_of(tag: str, texts: Mapping[str, Any]) -> Iterator[str]:
    for cause, text in texts.items():
        if cause not in FIXED_TEXTS:
            yield f"{tag}.{cause}: {_no_such_cause(cause)}"
        elif not isinstance(text, str):
            yield f"{tag}.{cause}: must be a text; put it in quotation marks"
        elif not text.strip():
            yield f"{tag}.{cause}: is empty; write a text, or leave it out for the English one"


def _no_such_cause(cause: str) -> str:
    if cause in set(Cause):
        return "is worded by the actions, in api.access.deny() and api.validation.error(); leave it out"

    near = difflib.get_close_matches(cause, FIXED_TEXTS, 1)
    mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(FIXED_TEXTS)}"
    return f"there is no such cause; {mend}"
