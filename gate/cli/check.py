"""`gate check`: settings, chain and topics at once."""

from __future__ import annotations

from typing import Annotated

import typer

from gate.cli.options import Flags, Json, takes


@takes("chain", "bootstrap_servers")
def check(
    flags: Flags,
    kafka: Annotated[bool, typer.Option(help="Look at the topics, too.")] = True,
    json: Json = False,
) -> None:
    """Check settings, chain and topics, and name everything that is wrong. Exits with 1 if there is something."""
    from gate.cli.output import print_json, say
    from gate.cli.running import run
    from gate.cli.topics import check_topics_of
    from gate.cli.worker import load_with_chain
    from gate.config import SettingsError
    from gate.errors import ConfigError, KafkaUnavailable

    findings: list[dict[str, str]] = []
    try:
        load_with_chain(flags)
    except ConfigError as error:
        findings += [{"about": "settings and chain", "problem": problem} for problem in error.problems]

    if kafka:
        try:
            settings = flags.settings()
        except SettingsError as error:
            settings = error.usable
        try:
            findings += [{"about": "topics", "problem": str(finding)} for finding in run(check_topics_of(settings))]
        except KafkaUnavailable:
            for finding in findings:  # known already, and to be mended whether or not there is a Kafka
                say(f"{finding['about']}: {finding['problem']}")
            raise

    if json:
        print_json({"ok": not findings, "findings": findings})
    else:
        for finding in findings:
            print(f"{finding['about']}: {finding['problem']}")
        if not findings:
            print("settings, chain and topics are fine" if kafka else "settings and chain are fine")
    if findings:
        raise typer.Exit(1)
