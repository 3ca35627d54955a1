"""The least rights: what is printed is what is needed, and what an ACL cannot say is said."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gate.cli.main import app
from gate.config import Settings
from gate.kafka.rights import Right, Role, least_rights, needed, remarks

README = Path(__file__).parents[3] / "README.md"


def of(role: Role, settings: Settings) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(right.resource, right.pattern, right.operations) for right in least_rights(settings) if right.role is role]


def test_a_worker_and_a_client_need_no_right_on_the_cluster_and_none_to_create_or_alter() -> None:
    assert [
        ("topic", "registration.attempts", ("Read",)),
        ("topic", "registration.decisions", ("Read", "Write")),
        ("topic", "registration.replies*", ("Write",)),
        ("topic", "registration.attempts.dlq", ("Write",)),
        ("group", "registration-gate", ("Read",)),
    ] == of(Role.WORKER, Settings())
    assert [
        ("topic", "registration.attempts", ("Write",)),
        ("topic", "registration.replies", ("Read",)),
    ] == of(Role.CLIENT, Settings())


@pytest.mark.parametrize(
    ("patterns", "granted"),
    [
        (("registration.replies*",), ["registration.replies*"]),
        (("registration.replies",), ["registration.replies"]),
        (("eu.replies*", "us.replies"), ["eu.replies*", "us.replies", "registration.replies"]),
        (("a?c", "[ab]*", "a*b", "**"), ["registration.replies"]),
        (("*",), ["*"]),
        ((), ["registration.replies"]),
    ],
)
def test_patterns_of_reply_topics_become_names_and_prefixes_and_the_default_topic_is_always_covered(
    patterns: tuple[str, ...], granted: list[str]
) -> None:
    settings = Settings(reply_topics=patterns)

    assert granted == [name for _, name, operations in of(Role.WORKER, settings)[2:-2] if operations == ("Write",)]
    assert ["Write"] == needed(settings, Role.WORKER)["registration.replies"]


def test_a_prefix_that_covers_more_than_replies_is_not_needed_there() -> None:
    settings = Settings(reply_topics=("registration.*",))

    assert ["Read"] == needed(settings, Role.WORKER)["registration.attempts"]
    assert ["Write"] == needed(settings, Role.WORKER)["registration.replies"]


def test_what_an_acl_cannot_say_or_says_too_widely_is_remarked() -> None:
    told = remarks(Settings(reply_topics=("a?c", "*", "registration.*", "registration.replies*")))

    assert ["a?c", "*", "registration.*"] == [line.removeprefix("GATE_REPLY_TOPICS: ").split(" ")[0] for line in told]
    assert "registration.attempts, registration.decisions, registration.attempts.dlq" in told[2]


def test_commands_grant_each_right_of_those_who_are_named_and_nothing_else() -> None:
    arguments = [
        "--worker",
        "User:gate-worker",
        "--client",
        "User:o'brien",
        "--client",
        "User:shop",
        "--bootstrap-servers",
        "k:9093",
    ]
    done = CliRunner().invoke(app, ["topics", "acls", *arguments])

    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    rights = [right for right in least_rights(Settings()) if right.role in {Role.WORKER, Role.CLIENT}]
    assert 0 == done.exit_code
    assert [expected(right) for right in rights] == lines


def expected(right: Right) -> list[str]:
    principals = {Role.WORKER: ["User:gate-worker"], Role.CLIENT: ["User:o'brien", "User:shop"]}[right.role]
    words = ["kafka-acls.sh", "--bootstrap-server", "k:9093", "--add"]
    words += [word for name in principals for word in ("--allow-principal", name)]
    words += [word for operation in right.operations for word in ("--operation", operation)]
    words += [f"--{right.resource}", right.name]
    return words + (["--resource-pattern-type", "prefixed"] if right.prefixed else [])


def test_with_nobody_named_it_is_a_table_of_all_rights() -> None:
    table = CliRunner().invoke(app, ["topics", "acls"]).stdout
    document = json.loads(CliRunner().invoke(app, ["topics", "acls", "--json"]).stdout)

    for right in least_rights(Settings()):
        assert any(
            right.role in line and right.pattern in line and ", ".join(right.operations) in line for line in table.splitlines()
        ), right
    assert [right.name for right in least_rights(Settings())] == [right["name"] for right in document["rights"]]
    assert [] == document["commands"]


def test_a_principal_that_is_none_is_wrong_usage() -> None:
    done = CliRunner().invoke(app, ["topics", "acls", "--worker", "gate-worker"])

    assert 2 == done.exit_code
    assert "is not User:NAME" in done.stderr


SHORT = {"registration.attempts": "attempts", "registration.decisions": "decisions", "registration.attempts.dlq": "dlq"}
SHORT |= {"registration.replies": "replies", "registration.replies*": "replies"}


@pytest.mark.parametrize("role", list(Role))
def test_the_table_of_the_readme_says_the_same(role: Role) -> None:
    (row,) = [line for line in README.read_text().splitlines() if line.startswith(f"| `--{role}`")]
    reads, writes, more = ([part.strip() for part in cell.split(",") if part.strip()] for cell in row.split("|")[2:5])

    rights = [right for right in least_rights(Settings()) if right.role is role]
    topics = [right for right in rights if right.resource == "topic"]
    assert set(reads) == {SHORT[right.pattern] for right in topics if "Read" in right.operations}
    assert set(writes) == {SHORT[right.pattern] for right in topics if "Write" in right.operations}
    for right in rights:
        if right.resource == "group":
            assert ["Read on the group"] == more
        elif not {"Read", "Write"} & set(right.operations):
            assert f"{', '.join(right.operations)} on all four" == ", ".join(more)
            assert 4 == len(topics)
