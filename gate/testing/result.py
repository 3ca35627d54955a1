"""What a run of an action or a chain came to, as a test looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gate.model.decision import Decision, Denial, Status


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result:
    """What a run came to: the decision as an asker would be told it, and what each action did."""

    decision: Decision
    reply: Mapping[str, Any]  # the whole reply document, plus `trace`

    @classmethod
    def from_reply(cls, reply: dict[str, Any]) -> Result:
        """Read a reply document that has a `trace`."""
        return cls(decision=Decision.from_json(reply), reply=reply)

    def __repr__(self) -> str:
        did = ", ".join(f"{name} {outcome}" for name, outcome in self.outcomes.items())
        return f"<Result {_answer(self.decision)} | {did or 'no action ran'}>"

    @property
    def approved(self) -> bool:
        """Whether the person may register."""
        return self.decision.approved

    @property
    def status(self) -> Status:
        """`approved` or `denied`."""
        return self.decision.status

    @property
    def denial(self) -> Denial | None:
        """Cause, reason, user message, action and errors of a denial; None for an approval."""
        return self.decision.denial

    @property
    def user_metadata(self) -> dict[str, Any]:
        """The user's metadata as they are to be stored; empty for a denial."""
        return self.decision.user_metadata

    @property
    def app_metadata(self) -> dict[str, Any]:
        """The application's metadata as they are to be stored; empty for a denial."""
        return self.decision.app_metadata

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """What the actions changed, by `user_metadata` and `app_metadata`; None removes a key."""
        return self.decision.changes

    @property
    def user_id(self) -> str | None:
        """The id that an action gave the user."""
        return self.decision.user_id

    @property
    def warnings(self) -> list[str]:
        """The codes of the reply's warnings, in order."""
        return [entry["code"] for entry in self.reply["warnings"]]

    @property
    def trace(self) -> dict[str, dict[str, Any]]:
        """What each action did, by its name: `outcome`, `duration_ms`; where it applies `tries`, `error`, `error_at`, `logs`."""
        return {entry["name"]: entry for entry in self.reply["trace"]}

    @property
    def outcomes(self) -> dict[str, str]:
        """How each action ended, by its name: `ran`, `denied`, `failed`, `timed_out`, `not_matched` or `not_reached`."""
        return {entry["name"]: entry["outcome"] for entry in self.reply["trace"]}

    @property
    def logs(self) -> list[str]:
        """What the actions printed and logged, in order."""
        return [line for entry in self.reply["trace"] for line in entry.get("logs", ())]

    def describe(self) -> str:
        """Return the decision and what each action did, a line for each fact."""
        lines = [_answer(self.decision)]

        if self.denial is None:
            lines += [f"  {scope} {self.reply[scope]}" for scope in ("user_metadata", "app_metadata")]
        else:
            lines += [f"  user_message {self.denial.user_message!r}"]
            lines += [f"  error {error}" for error in self.denial.errors]

        lines += [f"  warning {entry['code']}: {entry['message']}" for entry in self.reply["warnings"]]

        for entry in self.reply["trace"]:
            lines.append(f"  {entry['name']} {entry['outcome']}")
            error = error_of(entry)
            lines += [f"    | {line}" for line in (*entry.get("logs", ()), *([] if error is None else [error]))]

        return "\n".join(lines)


def _answer(decision: Decision) -> str:
    denial = decision.denial

    if denial is None:
        return decision.status.value

    reason = "" if denial.reason == denial.cause.value else f": {denial.reason}"
    by = "" if denial.action is None else f" by {denial.action}"
    return f"{decision.status.value} {denial.cause.value}{reason}{by}"


def error_of(entry: Mapping[str, Any]) -> str | None:
    """Return the error of a trace's entry in a line: its class, what it said and where it came from."""
    if "error" not in entry:
        return None

    text, place = entry.get("error_text"), entry.get("error_at")
    return f"{entry['error']}{f': {text}' if text else ''}{f', {place}' if place else ''}"
