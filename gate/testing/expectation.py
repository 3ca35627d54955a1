"""What a case expects of its reply, and in what a reply differs from that. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from gate.errors import CasesError
from gate.model.decision import ActionOutcome, Cause, Status
from gate.testing.difference import ABSENT, Difference, at, compare, shown

_ONLY_DENIED: Final = ("cause", "reason", "user_message", "action", "errors")
_ONLY_APPROVED: Final = ("user_metadata", "app_metadata", "changes", "user_id")
KEYS: Final = ("status", *_ONLY_DENIED, *_ONLY_APPROVED, "warnings", "trace")
"""What may stand in `expect`."""

_ALWAYS: Final = ("status", "errors", "warnings")  # every reply says them, so null cannot be expected there
_ACTION_KEYS: Final = ("outcome", "error", "tries", "logs")
_METADATA: Final = ("user_metadata", "app_metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionExpectation:
    """What is expected of one action's entry in the trace."""

    values: Mapping[str, Any]  # of `outcome`, `error` and `tries`, those that matter
    logs: tuple[str, ...] | None = None  # each is part of a captured line; empty: nothing was captured

    def differences(self, path: str, entry: Mapping[str, Any] | None) -> list[Difference]:
        """Compare with an entry of the trace, None if the action has none."""
        if entry is None:
            return [Difference(path=path, expected=dict(self.values), got=ABSENT)]

        got = {"tries": 1, **entry}
        found = [
            difference for key, expected in self.values.items() for difference in compare(f"{path}.{key}", expected, at(got, key))
        ]
        lines = list(entry.get("logs", ()))

        if self.logs == () and lines:
            found.append(Difference(path=f"{path}.logs", expected=ABSENT, got=lines))

        found += [
            Difference(path=f"{path}.logs", expected=text, got=lines or ABSENT, wanted="expected a line with")
            for text in self.logs or ()
            if not any(text in line for line in lines)
        ]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What `expect` of a case says; only what stands there is compared."""

    values: Mapping[str, Any] = field(default_factory=dict)  # by key of `expect`, all but `trace`; ABSENT where that says null
    trace: Mapping[str, ActionExpectation] = field(default_factory=dict)  # by name of the action

    @classmethod
    def parse(cls, document: object, *, actions: Collection[str] | None = None, place: str = "$.expect") -> Self:
        """Read an `expect` object; raises CasesError with everything in it that cannot be.

        `actions` are the names in the chain, None if they are not known; `place` is where the object stands in its file.
        """
        reader = _Reader(actions)
        values, trace = reader.read(document, place)

        if reader.problems:
            raise CasesError(reader.problems)

        return cls(values=values, trace=trace)

    def differences(self, reply: Mapping[str, Any]) -> list[Difference]:
        """Compare with a reply document that has a `trace`; an empty list is what one hopes for."""
        found = [difference for key, expected in self.values.items() for difference in compare(key, expected, _said(reply, key))]
        entries = {entry["name"]: entry for entry in reply.get("trace", ())}

        for name, action in self.trace.items():
            found += action.differences(f"trace.{name}", entries.get(name))

        return found


def _said(reply: Mapping[str, Any], key: str) -> Any:
    """Return what a reply says under a key of `expect`."""
    denial = reply.get("denial", {})

    if key == "errors":
        return list(denial.get("errors", ()))

    if key == "warnings":
        return [entry["code"] for entry in reply["warnings"]]

    return at(denial if key in _ONLY_DENIED else reply, key)


def unknown(word: object, known: Collection[str]) -> str:
    """Return what to say of a word that is none of the known ones: what it may have been, or what there is."""
    near = difflib.get_close_matches(str(word), known, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


class _Reader:
    """Checks an `expect` object; `problems` has what it found."""

    def __init__(self, actions: Collection[str] | None) -> None:
        self.problems: list[str] = []
        self._actions = None if actions is None else list(actions)

    def read(self, document: object, place: str) -> tuple[dict[str, Any], dict[str, ActionExpectation]]:
        if not isinstance(document, dict):
            self._problem(place, f'must be an object, such as {{"status": "denied"}}, not {shown(document)}')
            return {}, {}

        self._known_keys(document, KEYS, place)
        values = {
            key: ABSENT if document[key] is None and key not in _ALWAYS else self._value(key, document[key], f"{place}.{key}")
            for key in KEYS
            if key in document and key != "trace"
        }
        self._possible(values, place)
        trace = document.get("trace", {})

        if not isinstance(trace, dict):
            self._problem(f"{place}.trace", 'must be an object by name of the action, such as {"my-action": "ran"}')
            trace = {}

        return values, {name: self._action(name, entry, f"{place}.trace.{name}") for name, entry in trace.items()}

    def _value(self, key: str, value: Any, place: str) -> Any:
        match key:
            case "status":
                self._one_of(value, list(Status), place)
            case "cause":
                self._one_of(value, list(Cause), place)
            case "action":
                self._one_of(value, self._actions, place, "the chain has no action")
            case "errors":
                self._errors(value, place)
            case "warnings":
                self._texts(value, place)
            case "changes":
                if self._object(value, place):
                    self._known_keys(value, _METADATA, place)
            case "user_metadata" | "app_metadata":
                self._object(value, place)
            case _:
                self._text(value, place)

        return value

    def _possible(self, values: Mapping[str, Any], place: str) -> None:
        """Find what no reply can be: an approval with a cause, a denial with metadata."""
        said = [key for key in values if values[key] not in (ABSENT, [])]
        denied = next((key for key in said if key in _ONLY_DENIED), None)
        approved = next((key for key in said if key in _ONLY_APPROVED), None)

        if values.get("status") == Status.APPROVED:
            approved = "status"
        elif values.get("status") == Status.DENIED:
            denied = "status"

        if approved and denied:
            self._problem(
                place,
                f"no reply can be so: {approved} is of an approval, {denied} of a denial; remove one, or expect null there",
            )

    def _action(self, name: str, entry: Any, place: str) -> ActionExpectation:
        self._one_of(name, self._actions, place, "the chain has no action")

        if isinstance(entry, str):
            entry = {"outcome": entry}

        if not isinstance(entry, dict):
            self._problem(
                place, f"must be an outcome, such as {shown(ActionOutcome.RAN)}, or an object of {', '.join(_ACTION_KEYS)}"
            )
            return ActionExpectation(values={})

        self._known_keys(entry, _ACTION_KEYS, place)
        values = {key: ABSENT if entry[key] is None else entry[key] for key in _ACTION_KEYS[:3] if key in entry}

        if "outcome" in entry:
            self._one_of(entry["outcome"], list(ActionOutcome), f"{place}.outcome")

        if entry.get("error") is not None:
            self._text(entry["error"], f"{place}.error")

        if "tries" in entry and (type(entry["tries"]) is not int or entry["tries"] < 1):
            self._problem(f"{place}.tries", f"must be a whole number from 1 on, not {shown(entry['tries'])}")

        logs = entry.get("logs")
        return ActionExpectation(values=values, logs=None if logs is None else tuple(self._texts(logs, f"{place}.logs")))

    def _errors(self, value: Any, place: str) -> None:
        if not isinstance(value, list):
            self._problem(place, 'must be a list of objects, such as [{"code": "too_short", "message": "Too short."}]')
            return

        for index, error in enumerate(value):
            at = f"{place}[{index}]"

            if self._object(error, at):
                self._known_keys(error, ("code", "message", "field"), at)

                for key in ("code", "message", *(["field"] if "field" in error else [])):
                    self._text(error.get(key), f"{at}.{key}")

    def _one_of(self, value: Any, known: Collection[str] | None, place: str, otherwise: str = "there is no") -> None:
        if known is not None and value not in known:
            self._problem(place, f"{otherwise} {shown(value)}; {unknown(value, known)}")
        elif known is None:
            self._text(value, place)

    def _known_keys(self, document: Mapping[str, Any], known: Collection[str], place: str) -> None:
        for key in document:
            if key not in known:
                self._problem(f"{place}.{key}", f"there is no such key; {unknown(key, known)}")

    def _object(self, value: Any, place: str) -> bool:
        if not isinstance(value, dict):
            self._problem(place, f"must be an object, not {shown(value)}")

        return isinstance(value, dict)

    def _text(self, value: Any, place: str) -> None:
        if not isinstance(value, str):
            self._problem(place, f"must be a text, not {'null' if value is None else shown(value)}")

    def _texts(self, value: Any, place: str) -> list[str]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value

        self._problem(place, f'must be a list of texts, such as ["a", "b"], not {shown(value)}')
        return []

    def _problem(self, place: str, problem: str) -> None:
        self.problems.append(f"{place}: {problem}")
