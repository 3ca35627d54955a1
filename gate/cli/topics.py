"""`gate topics`: make the topics, and check that they keep the promises."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gate.cli.options import KAFKA, Flags, Json, takes

if TYPE_CHECKING:
    from gate.config import Settings
    from gate.kafka.topics import Finding, TopicMade

app = typer.Typer(help="Make the topics, and check that they keep the promises.", no_args_is_help=True)


@app.command()
@takes(*KAFKA)
def create(
    flags: Flags,
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of attempts and decisions; it cannot be changed later without a pause.")
    ] = 12,
    replication: Annotated[int, typer.Option(min=1, help="Copies of each partition.")] = 3,
    json: Json = False,
) -> None:
    """Make the four topics where they are missing."""
    from gate.cli.output import print_json
    from gate.cli.running import run

    made = run(_create(flags.settings(), partitions=partitions, replication=replication))

    if json:
        print_json({"created": [asdict(topic) for topic in made]})
    elif made:
        for topic in made:
            print(f"created {topic.name} ({topic.partitions} partitions, replication {topic.replication})")
    else:
        print("nothing to do: all topics are there")


@app.command()
@takes(*KAFKA)
def check(flags: Flags, json: Json = False) -> None:
    """Name each setting of the topics that weakens a promise. Exits with 1 if there is one."""
    from gate.cli.output import print_json
    from gate.cli.running import run

    findings = run(check_topics_of(flags.settings()))

    if json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print(finding)
        if not findings:
            print("the topics keep every promise")
    if findings:
        raise typer.Exit(1)


async def _create(settings: Settings, *, partitions: int, replication: int) -> list[TopicMade]:
    from gate.kafka.topics import create_topics

    return await create_topics(settings, await reached(settings), partitions=partitions, replication=replication)


async def check_topics_of(settings: Settings) -> list[Finding]:
    """Return the findings of the topics' check."""
    from gate.kafka.topics import check_topics

    return await check_topics(settings, await reached(settings))


async def reached(settings: Settings) -> str:
    """Return the address of a Kafka that answers; say which it is."""
    from gate.cli.output import say_kafka
    from gate.kafka.connection import resolve_bootstrap, wait_for_kafka

    bootstrap, source = resolve_bootstrap(settings)
    say_kafka(bootstrap, source)
    await wait_for_kafka(settings, bootstrap)
    return bootstrap
