"""`gate test`: the chain on events and cases, without Kafka."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gate.cli.options import Flags, takes

if TYPE_CHECKING:
    from gate.chain.runner import Chain
    from gate.chain.texts import FixedTexts
    from gate.testing.cases import Case
    from gate.testing.expectation import Expectation

CASES = "cases"
"""The folder beside a chain that is taken where no --event is given."""

STDIN = Path("-")


@takes("chain")
def trial(
    flags: Flags,
    *,
    event: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Event or cases: a JSON file, a folder of them, or - for stdin; may be repeated. "
            "Left out: the folder cases beside the chain.",
            show_default=False,
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="ANSWER",
            help="approved, denied, or the cause of a denial: what an event without `expect` must come to.",
            show_default=False,
        ),
    ] = None,
    match: Annotated[
        str | None, typer.Option("-k", metavar="TEXT", help="Only the cases with this in their name.", show_default=False)
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Run again whenever the chain or a case changes.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout; with --watch a line for each run.")
    ] = False,
) -> None:
    """Run the chain on events and cases, without Kafka, by the worker's own engine.

    One event prints its answer, and exits with 0 whichever that is. Cases are compared with what they expect; exits with 1
    if one differs.
    """
    from gate.cli.running import run

    wanted = None if expect is None else _expected(expect)
    if watch and STDIN in (event or []):
        raise typer.BadParameter("stdin cannot be watched; name a file or a folder", param_hint="--event")

    work = Trial(flags, tuple(event) if event else (_cases_beside_chain(flags),), expect, wanted, match, json)
    if watch:
        from gate.cli.trial_watch import run_again_on_change

        run(run_again_on_change(work.run, work.folders, json=json))
    elif code := run(work.run()):
        raise typer.Exit(code)


def _expected(answer: str) -> Expectation:
    from gate.model.decision import Cause, Status
    from gate.testing.expectation import Expectation

    if answer in list(Status):
        return Expectation(values={"status": answer})
    if answer in list(Cause):
        return Expectation(values={"cause": answer})
    raise typer.BadParameter(f"{answer!r} is none of {', '.join([*Status, *Cause])}", param_hint="--expect")


def _chain_folder(flags: Flags) -> Path:
    from gate.config import SettingsError

    try:
        settings = flags.settings()
    except SettingsError as error:  # told when the chain is loaded, with all other problems
        settings = error.usable

    chain = settings.chain_path
    return chain if chain.is_dir() else chain.parent


def _cases_beside_chain(flags: Flags) -> Path:
    folder = _chain_folder(flags) / CASES
    if not folder.is_dir():
        raise typer.BadParameter(
            f"name a file or a folder with events or cases; there is no folder {folder}", param_hint="--event"
        )
    return folder


@dataclass
class Trial:
    """What one `gate test` is asked to do; `run` does it, as often as it is called."""

    flags: Flags
    events: tuple[Path, ...]
    expect: str | None  # as it was typed
    wanted: Expectation | None  # the same, for events that expect nothing themselves
    match: str | None
    json: bool
    _seen: set[Path] = field(default_factory=set, init=False)  # folders of what the last run has read

    async def run(self) -> int:
        """Load the chain, read the cases, run them and print what came of it; return the exit code."""
        from gate.chain.texts import load_texts
        from gate.chain.trial import started
        from gate.cli.worker import load_with_chain

        settings, chain = load_with_chain(self.flags)
        texts = load_texts(settings.messages)
        self._seen = {action.file.parent for action in chain.actions if action.file is not None}
        cases = self._read([action.name for action in chain.actions])
        self._seen |= {file.parent for case in cases for file in (case.file, case.event_file) if file is not None}

        one_file = len(self.events) == 1 and not self.events[0].is_dir()
        async with started(chain, set_user_id=settings.set_user_id):
            if one_file and len(cases) == 1 and cases[0].expectation is None and not self.match:
                return await self._run_event(chain, texts, cases[0])
            return await self._run_cases(chain, texts, cases)

    def folders(self) -> set[Path]:
        """Return the folders in which a change matters."""
        folders = {_chain_folder(self.flags), *self._seen}
        for event in self.events:
            folders |= {event, *filter(Path.is_dir, event.rglob("*"))} if event.is_dir() else {event.parent}
        return folders

    def _read(self, actions: list[str]) -> list[Case]:
        from gate.errors import CasesError

        cases: list[Case] = []
        problems: list[str] = []
        for event in self.events:
            try:
                found = _load(event, actions)
            except CasesError as error:
                problems += error.problems
                continue
            if len(self.events) > 1:
                found = [replace(case, name=(_home(event) / case.name).as_posix()) for case in found]
            cases += found
        if problems:
            raise CasesError(problems)
        return cases

    async def _run_event(self, chain: Chain, texts: FixedTexts | None, case: Case) -> int:
        """Run a single event that expects nothing, and print its answer in full."""
        from gate.chain.trial import TIMEOUT_MS, run_trial
        from gate.cli.output import print_json, say
        from gate.cli.trial_report import print_answer
        from gate.errors import InputError, InvalidEvent

        try:
            reply = await run_trial(
                chain,
                case.event,
                attempt_id=case.attempt_id or "trial",
                timeout_ms=TIMEOUT_MS if case.timeout_ms is None else case.timeout_ms,
                texts=texts,
            )
        except InvalidEvent as error:
            raise InputError(f"{case.event_file or case.file}: {error}") from None

        if self.json:
            print_json(reply)
        else:
            print_answer(reply)

        if self.wanted is None or not self.wanted.differences(reply):
            return 0
        got = {reply["status"], reply.get("denial", {}).get("cause")}
        say(f"expected {self.expect}, got {' '.join(sorted(filter(None, got)))}")
        return 1

    async def _run_cases(self, chain: Chain, texts: FixedTexts | None, cases: list[Case]) -> int:
        from gate.cli.output import print_json
        from gate.cli.trial_report import Report
        from gate.errors import InputError
        from gate.testing.suite import refuse_unreadable, run_case

        if self.wanted is not None:
            cases = [case if case.expectation else replace(case, expectation=self.wanted) for case in cases]
        refuse_unreadable(cases)

        chosen = [case for case in cases if self.match is None or self.match.casefold() in case.name.casefold()]
        if not chosen:
            raise InputError(f"-k: none of {len(cases)} cases has {self.match!r} in its name, such as {cases[0].name}")

        report = Report(chosen, left_out=len(cases) - len(chosen), quiet=self.json)
        for case in chosen:
            report.add(await run_case(chain, case, texts=texts))

        if self.json:
            print_json(report.to_json())
        else:
            report.print_summary()
        return 1 if report.failed else 0


def _load(event: Path, actions: list[str]) -> list[Case]:
    from gate.testing.cases import load_cases, parse_cases

    if event != STDIN:
        return load_cases(event, actions=actions)

    import sys

    return parse_cases(sys.stdin.buffer.read(), event, name="stdin", actions=actions)


def _home(event: Path) -> Path:
    return event if event.is_dir() else event.parent
