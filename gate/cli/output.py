"""What every verb prints alike: facts on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from gate.errors import GateError
    from gate.model.decision import Decision

WIDTH_WHEN_PIPED = 140
"""Rich assumes 80 columns where there is no terminal; tables would be cut in files and pipes."""


def say(text: str) -> None:
    """Print a remark for the person who typed the command."""
    print(text, file=sys.stderr, flush=True)


def say_kafka(bootstrap: str, source: str) -> None:
    """Print which Kafka is used, and why that one."""
    say(f"Kafka: {bootstrap} ({source})")


def fail(errors: Sequence[GateError]) -> int:
    """Print errors, one line for each problem; return the exit code."""
    from gate.errors import CasesError, ConfigError
    from gate.log import harmless

    for error in errors:
        problems = error.problems if isinstance(error, (CasesError, ConfigError)) else (str(error),)
        if len(problems) > 1:
            say(f"gate: {len(problems)} problems")
        for problem in problems:
            say(("  " if len(problems) > 1 else "gate: ") + harmless(problem, keep="\n\t"))

    return max(error.exit_code for error in errors)


def print_json(document: Any) -> None:
    """Print one document on one line."""
    import orjson

    sys.stdout.write(orjson.dumps(document, default=str).decode() + "\n")
    sys.stdout.flush()


def console(*, stderr: bool = False) -> Console:
    """Return a console that is as wide as the terminal, or wide enough where there is none."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = WIDTH_WHEN_PIPED
    return made


def in_place(console: Console, *, animated: bool) -> Live | None:
    """Return what rewrites lines in place on this console, by itself if `animated`; None where that cannot be done."""
    from rich.live import Live

    if not console.is_terminal or console.is_dumb_terminal:
        return None
    # Rich would put itself before sys.stdout for a while, and so does the chain, to capture what actions print.
    return Live(console=console, transient=True, auto_refresh=animated, redirect_stdout=False, redirect_stderr=False)


def compact(value: Any) -> str:
    """Return JSON as a person writes it: one line, a space after colon and comma."""
    import json

    return json.dumps(value, ensure_ascii=False)


def milliseconds(seconds: float) -> str:
    """Return a duration as latencies are spoken of."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def status_text(decision: Decision) -> Text:
    """Return `approved` or `denied` in its colour."""
    from rich.text import Text

    return Text(decision.status.value, style="bold green" if decision.approved else "bold red")


def told(decision: Decision) -> list[tuple[str, str]]:
    """Return what a decision says, as pairs of a name and a text, most important first."""
    from gate.log import harmless

    lines: list[tuple[str, str]] = []
    denial = decision.denial
    if denial is not None:
        if denial.user_message is not None:
            lines.append(("message", denial.user_message))
        lines.append(
            ("cause", denial.cause.value if denial.reason == denial.cause.value else f"{denial.cause.value}: {denial.reason}")
        )
        if denial.action is not None:
            lines.append(("action", denial.action))
        lines += [("error", f"{error['code']}: {error['message']}") for error in denial.errors[1:]]
        lines += [("field", error["field"]) for error in denial.errors[:1] if "field" in error]
    if decision.user_id is not None:
        lines.append(("user_id", decision.user_id))
    lines += [(scope, compact(changes)) for scope, changes in decision.changes.items()]
    lines += [("warning", entry["message"]) for entry in decision.warnings]
    return [(name, harmless(str(text))) for name, text in lines]


def decision_json(decision: Decision) -> dict[str, Any]:
    """Return a decision as the reply said it."""
    document: dict[str, Any] = {"attempt_id": decision.attempt_id, "status": decision.status.value}
    if decision.denial is None:
        document |= {"user_metadata": decision.user_metadata, "app_metadata": decision.app_metadata, "changes": decision.changes}
    else:
        document["denial"] = decision.denial.to_json()
    document["warnings"] = list(decision.warnings)
    facts: Mapping[str, Any] = {"user_id": decision.user_id, "chain": decision.chain, "decided_at": decision.decided_at}
    return {**document, **{name: value for name, value in facts.items() if value is not None}}
