"""A message in the person's language: where that is looked for, what it falls back to; nothing a browser sends breaks it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.model.event import Event
from gate.model.languages import MAX_CHARACTERS, MAX_WISHES, Languages, wishes_of
from gate.model.messages import Messages, MessagesError

TEXTS = {"en": "Hello", "es": "Hola", "pt": "Olá", "pt-BR": "Oi", "zh-Hant": "你好"}
MESSAGES = Messages(TEXTS, default="en")


def event(language: str | None = None, **transaction: Any) -> Event:
    document: dict[str, Any] = {"connection": {"strategy": "auth0"}, "request": {"language": language}, "user": {}}

    if transaction:
        document["transaction"] = transaction

    return Event.from_document(document)


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("es", "Hola"),
        ("es-MX", "Hola"),
        ("ES_mx", "Hola"),
        (" es ", "Hola"),
        ("es-419-x-casual", "Hola"),
        ("pt", "Olá"),
        ("pt-PT", "Olá"),
        ("pt-BR", "Oi"),
        ("pt_br", "Oi"),
        ("pt-BR-x-private", "Oi"),
        ("zh-Hant-TW", "你好"),
        ("zh", "Hello"),  # lookup never makes a tag longer
        ("est", "Hello"),
        ("fr", "Hello"),
        ("", "Hello"),
        ("-", "Hello"),
        ("*", "Hello"),
        (None, "Hello"),
        ("es" + "-a" * MAX_CHARACTERS, "Hello"),
    ],
)
def test_a_tag_falls_back_by_truncation_and_then_to_the_default(tag: str | None, text: str) -> None:
    assert text == MESSAGES.in_language(tag) == MESSAGES.for_event(event(tag))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("pt-BR,pt;q=0.9,en;q=0.8", "Oi"),
        ("fr-FR, fr;q=0.9, es;q=0.8, en;q=0.7", "Hola"),
        ("en;q=0.1,es;q=0.2", "Hola"),
        ("es;q=0.5, pt;q=0.5", "Hola"),  # the same weight: the first
        ("fr, *;q=0.1", "Hello"),
        ("*, es;q=0.5", "Hola"),
        ("es;q=0", "Hello"),
        ("es;q=0,pt;q=0.001", "Olá"),
        ("es ; Q = 0.4 ,pt", "Olá"),
        ("es;q=high,pt;q=0.1", "Olá"),  # a weight that is none: not looked at
        ("es;q=1e9,pt;q=0.1", "Olá"),
        ("es;q=nan,pt;q=0.1", "Olá"),
        (",,;;q=,es", "Hola"),
    ],
)
def test_an_accept_language_header_is_read_by_its_weights(header: str, text: str) -> None:
    assert text == MESSAGES.for_event(event(header))


@pytest.mark.parametrize(
    ("language", "transaction", "text"),
    [
        ("es", {"locale": "pt", "ui_locales": ["zh-Hant"]}, "Hola"),
        ("fr", {"locale": "pt", "ui_locales": ["zh-Hant"]}, "Olá"),
        ("fr;q=0.5", {"locale": "pt"}, "Olá"),
        (None, {"locale": "pt", "ui_locales": ["zh-Hant"]}, "Olá"),
        (None, {"locale": "fr", "ui_locales": ["de", "zh-Hant", "es"]}, "你好"),
        (None, {"ui_locales": ["es"]}, "Hola"),
        (None, {"ui_locales": ["xx"] * MAX_WISHES + ["es"]}, "Hello"),
        ("en", {"locale": "es"}, "Hello"),
        (None, {}, "Hello"),
    ],
)
def test_the_browser_goes_before_the_page_and_that_before_what_the_application_asked_for(
    language: str | None, transaction: dict[str, Any], text: str
) -> None:
    assert text == MESSAGES.for_event(event(language, **transaction))


def test_the_first_language_is_the_default_unless_another_is_named() -> None:
    assert "Hola" == Messages(OrderedDict(es="Hola", en="Hello")).in_language("fr")
    assert "Hello" == Messages(OrderedDict(es="Hola", en="Hello"), default="EN").in_language("fr")
    assert "Oi" == Messages(TEXTS, default="pt_BR").in_language("fr")


def test_messages_do_not_change_with_the_mapping_they_were_made_from() -> None:
    texts = {"en": "Hello"}
    messages = Messages(texts)
    texts["en"] = texts["es"] = "changed"

    assert "Hello" == messages.in_language("en") == messages.in_language("es")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (({},), "there are no messages"),
        ((None,), "must be texts by language, such as .* not NoneType"),
        (([("en", "Hello")],), "must be texts by language, such as .* not list"),
        (({"en": "Hello", "es": None},), "in the language es must be a string, not NoneType"),
        (({"en": "Hello", "es": b"Hola"},), "in the language es must be a string, not bytes"),
        (({"en": "Hello", "es": ""},), "in the language es is empty"),
        (({"en": "Hello", "es": " \n"},), "in the language es is empty"),
        (({"en": "Hello", "es": "Hola \ud800"},), "in the language es holds half of a surrogate pair"),
        (({"en": "Hello", 3: "Hola"},), "3 is not a language; write a tag such as en or pt-BR"),
        (({"en": "Hello", "": "Hola"},), "'' is not a language"),
        (({"en": "Hello", "es, en": "Hola"},), "'es, en' is not a language"),
        (({"pt-BR": "Oi", "pt_br": "Oi"},), "the language pt_br is there twice"),
    ],
)
def test_a_mistake_names_the_language_when_the_messages_are_made(arguments: tuple[Any, ...], problem: str) -> None:
    with pytest.raises(MessagesError, match=problem):
        Messages(*arguments)


@pytest.mark.parametrize("default", ["fr", "", "en-GB", 3])
def test_a_default_that_is_not_there_is_refused_and_those_that_are_there_are_named(default: Any) -> None:
    with pytest.raises(ValueError, match=f"the default language {default!r} is none of the messages' languages: en, es"):
        Messages({"en": "Hello", "es": "Hola"}, default=default)


def test_messages_show_their_languages_and_no_text() -> None:
    assert "<Messages en, es; default es>" == repr(Messages({"en": "Hello", "es": "Hola"}, default="es"))


# Any bytes, and what has a meaning in tags and headers: text by chance alone would never come close to either.
marks = st.sampled_from(["es", "pt", "BR", "x", "-", "_", ",", ";", "q=", "0.5", "1", "*", " ", "İ", "é", "\0"])
words = st.binary().map(lambda any_bytes: any_bytes.decode("latin-1")) | st.lists(marks).map("".join)


@given(words, words, st.lists(words))
def test_whatever_the_languages_are_there_is_always_one_of_the_messages(language: str, locale: str, locales: list[str]) -> None:
    assert MESSAGES.for_event(event(language, locale=locale, ui_locales=locales)) in TEXTS.values()
    assert MESSAGES.in_language(language) in TEXTS.values()


@given(st.sampled_from(list(TEXTS)), st.lists(st.text("abcdefgh0123456789", min_size=2, max_size=8), max_size=4))
def test_a_tag_with_more_to_it_finds_the_same_message(tag: str, more: list[str]) -> None:
    assert TEXTS[tag] == MESSAGES.in_language("-".join((tag, *more)))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["language", "locale", "ui_locales"]), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional={"request": anything, "transaction": anything}))
def test_a_document_that_is_no_event_is_looked_through_and_breaks_nothing(document: dict[str, Any]) -> None:
    assert Languages(TEXTS).first(wishes_of(document)) in {None, *TEXTS.values()}


def test_wishes_of_a_document_are_those_of_its_event_in_the_same_order() -> None:
    document = {"request": {"language": "a"}, "transaction": {"locale": "b", "ui_locales": ["c", "d"]}}

    assert ["a", "b", "c", "d"] == list(wishes_of(document))
    assert [] == list(wishes_of({"request": [], "transaction": None}))
