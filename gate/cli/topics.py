"""`gate topics`: make the topics, and check that they keep the promises."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gate.cli.options import KAFKA, Flags, Json, takes

if TYPE_CHECKING:
    from gate.config import Settings
    from gate.kafka.rights import Right
    from gate.kafka.topics import Finding, TopicMade


def _principals(who: str) -> Any:
    return typer.Option(metavar="User:NAME", help=f"Principal of {who}; repeat for more.", show_default=False)


app = typer.Typer(help="Make the topics, check that they keep the promises, and say who needs which right.", no_args_is_help=True)


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


@app.command()
@takes(*KAFKA)
def acls(
    flags: Flags,
    worker: Annotated[list[str] | None, _principals("`gate worker`")] = None,
    client: Annotated[list[str] | None, _principals("whoever asks: signup services, `gate ask`")] = None,
    operator: Annotated[list[str] | None, _principals("`gate dlq`")] = None,
    creator: Annotated[list[str] | None, _principals("`gate topics create`")] = None,
    checker: Annotated[list[str] | None, _principals("`gate topics check`")] = None,
    json: Json = False,
) -> None:
    """Print the least rights on topics and group, as commands for those who are named; with nobody named, as a table."""
    from gate.cli.output import print_json, say
    from gate.kafka.connection import resolve_bootstrap
    from gate.kafka.rights import Role, least_rights, remarks

    settings = flags.settings()
    given = {Role.WORKER: worker, Role.CLIENT: client, Role.OPERATOR: operator, Role.CREATOR: creator, Role.CHECKER: checker}
    principals = {role: _principal_names(role, names) for role, names in given.items() if names}
    bootstrap = resolve_bootstrap(settings)[0]
    rights = [right for right in least_rights(settings) if not principals or right.role in principals]
    commands = [right.command(bootstrap, principals[right.role]) for right in rights if principals]

    if json:
        print_json({"rights": [asdict(right) for right in rights], "commands": commands, "remarks": remarks(settings)})
        return
    if principals:
        say("run these as an administrator (`--command-config FILE` names the credentials):")
        for command in commands:
            print(command)
    else:
        _print_rights(rights)
    for remark in remarks(settings):
        say(remark)


def _principal_names(role: str, names: list[str]) -> list[str]:
    for name in names:
        if not all(name.partition(":")):
            raise typer.BadParameter(f"{name!r} is not User:NAME", param_hint=f"--{role}")
    return names


def _print_rights(rights: list[Right]) -> None:
    from rich.table import Table

    from gate.cli.output import console

    table = Table("who", "resource", "name", "operations", "why")
    for right in rights:
        table.add_row(right.role, right.resource, right.pattern, ", ".join(right.operations), right.why)
    console().print(table)


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
