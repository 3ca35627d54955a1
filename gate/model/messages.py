"""What an action says to a person, in the person's language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gate.model.languages import LEGAL_TAG, Languages, normal

if TYPE_CHECKING:
    from gate.model.event import Event


class MessagesError(ValueError):
    """Messages cannot be made of what was given; names the language and the mend."""


class Messages:
    """One message in several languages.

    `texts` has them by language tag (`en`, `pt-BR`); `default` is the language for everybody who reads none of them, the
    first if left out. Raises MessagesError, which is a ValueError: made at the top of an action's file, it refuses a
    mistake when the chain is loaded.

    The language that is looked for is found by RFC 4647 lookup: `pt-BR` also finds `pt`; `pt` does not find `pt-BR`.
    """

    __slots__ = ("_default", "_languages", "_tags", "_text")

    def __init__(self, texts: Mapping[str, str], *, default: str | None = None) -> None:
        self._tags = _checked(texts)
        self._default = normal(next(iter(texts)) if default is None else _known(default, self._tags))
        self._text = self._tags[self._default]
        self._languages = Languages(texts)

    def __repr__(self) -> str:
        return f"<Messages {', '.join(self._tags)}; default {self._default}>"

    def for_event(self, event: Event) -> str:
        """Return the message in the language of the person who registers.

        Looked at, in this order: `event.request.language`, which may be a whole Accept-Language header,
        `event.transaction.locale`, each of `event.transaction.ui_locales`, the default.
        """
        found = self._languages.find(event.request.language)

        if found is not None:
            return found

        transaction = event.transaction

        if transaction is not None:
            found = self._languages.first((transaction.locale, *transaction.ui_locales))

        return self._text if found is None else found

    def in_language(self, tag: str | None) -> str:
        """Return the message in one language, such as `pt-BR`; where that is not there, in the default's."""
        found = self._languages.find(tag)
        return self._text if found is None else found


def _checked(texts: object) -> dict[str, str]:
    """Return the texts by their normal tags."""
    if not isinstance(texts, Mapping):
        raise MessagesError(f'messages must be texts by language, such as {{"en": "…"}}, not {type(texts).__name__}')

    if not texts:
        raise MessagesError('there are no messages; give at least one, such as {"en": "…"}')

    checked: dict[str, str] = {}

    for tag, text in texts.items():
        if not isinstance(tag, str) or not LEGAL_TAG.fullmatch(normal(tag)):
            raise MessagesError(f"{tag!r} is not a language; write a tag such as en or pt-BR")

        if normal(tag) in checked:
            raise MessagesError(f"the language {tag} is there twice; upper and lower case, - and _ are the same")

        checked[normal(tag)] = _text(tag, text)

    return checked


def _text(tag: str, text: object) -> str:
    if not isinstance(text, str):
        raise MessagesError(f"the message in the language {tag} must be a string, not {type(text).__name__}")

    if not text.strip():
        raise MessagesError(f"the message in the language {tag} is empty; write one or leave the language out")

    try:
        text.encode()
    except UnicodeEncodeError:
        raise MessagesError(f"the message in the language {tag} holds half of a surrogate pair, which cannot be sent") from None

    return text


def _known(default: object, tags: Mapping[str, str]) -> str:
    if not isinstance(default, str) or normal(default) not in tags:
        raise MessagesError(f"the default language {default!r} is none of the messages' languages: {', '.join(tags)}")

    return default
