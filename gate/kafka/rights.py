"""The least rights that each user of the topics needs, decided purely: the one place that table, commands and tests read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final, Literal

from gate.config import Settings


class Role(StrEnum):
    """Who uses the topics."""

    WORKER = "worker"  # `gate worker`
    CLIENT = "client"  # whoever asks: GateClient, `gate ask`, a signup service in another language
    OPERATOR = "operator"  # `gate dlq`
    CREATOR = "creator"  # `gate topics create`
    CHECKER = "checker"  # `gate topics check`, `gate check`


Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs"]
"""As `kafka-acls.sh` writes it. Read and Write imply Describe."""

OPERATION_CODES: Final[Mapping[Operation, int]] = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
"""Their numbers on the wire: org.apache.kafka.common.acl.AclOperation."""


@dataclass(frozen=True, kw_only=True)
class Right:
    """What one role may do with one resource."""

    role: Role
    resource: Literal["topic", "group"]
    name: str  # of the resource, or what its names begin with
    prefixed: bool
    operations: tuple[Operation, ...]
    why: str

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for more than one resource."""
        return self.prefixed or self.name == "*"

    def covers(self, name: str) -> bool:
        """Tell whether a resource of this kind and name is meant."""
        return name.startswith(self.name) if self.prefixed else self.name in {name, "*"}

    @property
    def pattern(self) -> str:
        """The resource's name, with a star behind a prefix."""
        return f"{self.name}*" if self.prefixed else self.name

    def command(self, bootstrap: str, principals: Sequence[str]) -> str:
        """Return the line for a shell that grants it."""
        words = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--add"]
        for principal in principals:
            words += ["--allow-principal", principal]
        for operation in self.operations:
            words += ["--operation", operation]
        words += [f"--{self.resource}", self.name]
        if self.prefixed:
            words += ["--resource-pattern-type", "prefixed"]
        return shlex.join(words)


def least_rights(settings: Settings) -> list[Right]:
    """Return every right that every role needs with these topics and this group, and no more. None is on the cluster."""
    attempts, ledger, dlq = settings.attempts_topic, settings.decisions_topic, settings.dlq_topic
    replies = [(name, prefixed) for name, prefixed in _reply_topics(settings) if name is not None]

    def topic(role: Role, name: str, *operations: Operation, why: str, prefixed: bool = False) -> Right:
        return Right(role=role, resource="topic", name=name, prefixed=prefixed, operations=operations, why=why)

    def four(role: Role, *operations: Operation, why: str) -> Iterator[Right]:
        for name in (attempts, ledger, settings.replies_topic, dlq):
            yield topic(role, name, *operations, why=why)

    group = Right(
        role=Role.WORKER,
        resource="group",
        name=settings.group_id,
        prefixed=False,
        operations=("Read",),
        why="share the partitions, commit offsets",
    )
    return [
        topic(Role.WORKER, attempts, "Read", why="take attempts"),
        topic(Role.WORKER, ledger, "Read", "Write", why="write decisions and read them back"),
        *(topic(Role.WORKER, name, "Write", why="reply", prefixed=prefixed) for name, prefixed in replies),
        topic(Role.WORKER, dlq, "Write", why="write dead letters"),
        group,
        topic(Role.CLIENT, attempts, "Write", why="ask"),
        topic(Role.CLIENT, settings.replies_topic, "Read", why="read replies, without a group"),
        topic(Role.OPERATOR, dlq, "Read", why="list and show dead letters"),
        topic(Role.OPERATOR, ledger, "Read", why="see what was decided"),
        topic(Role.OPERATOR, attempts, "Read", "Write", why="see what was asked; ask again"),
        *(topic(Role.OPERATOR, name, "Write", why="send a reply again", prefixed=prefixed) for name, prefixed in replies),
        *four(Role.CREATOR, "Create", "Describe", why="make the topic where it is missing"),
        *four(Role.CHECKER, "Describe", "DescribeConfigs", why="see how the topic is set"),
    ]


def needed(settings: Settings, role: Role) -> dict[str, list[Operation]]:
    """Return what a role must be allowed on those of the four topics that it uses."""
    operations: dict[str, list[Operation]] = {}
    for right in least_rights(settings):
        if right.role is role and right.resource == "topic":
            # A pattern is there for the topics of replies, whatever else it covers.
            topic = settings.replies_topic if right.is_pattern and right.covers(settings.replies_topic) else right.name
            found = operations.setdefault(topic, [])
            found += [operation for operation in right.operations if operation not in found]
    ours = (settings.attempts_topic, settings.decisions_topic, settings.replies_topic, settings.dlq_topic)
    return {topic: operations[topic] for topic in ours if topic in operations}


def forbidden(resource: Literal["topic", "group"], name: str, *operations: Operation) -> str:
    """Return what to tell whoever lacks rights."""
    return f"we may not {' and '.join(operations)} on the {resource} {name}: grant it, `gate topics acls` prints how"


def remarks(settings: Settings) -> list[str]:
    """Return what cannot be granted as it is configured, and what is granted beyond it."""
    found: list[str] = []
    ours = (settings.attempts_topic, settings.decisions_topic, settings.dlq_topic)
    for pattern, (name, prefixed) in zip(settings.reply_topics, map(_acl_pattern, settings.reply_topics), strict=True):
        if name is None:
            found.append(
                f"GATE_REPLY_TOPICS: {pattern} cannot be an ACL, which knows whole names and prefixes only; "
                "grant the worker Write on each topic that it stands for"
            )
        elif name == "*":
            found.append("GATE_REPLY_TOPICS: * grants Write on every topic of the cluster; name prefixes instead")
        elif covered := [topic for topic in ours if topic.startswith(name)] if prefixed else []:
            found.append(
                f"GATE_REPLY_TOPICS: {pattern} grants Write on {', '.join(covered)}, too; replies never go there, "
                "but the right is wider than it need be"
            )
    return found


def _reply_topics(settings: Settings) -> Iterator[tuple[str | None, bool]]:
    """Yield name and kind of each pattern of reply topics, and the default topic where none of them covers it."""
    found = list(dict.fromkeys(map(_acl_pattern, settings.reply_topics)))
    yield from found
    default = settings.replies_topic
    if not any(name is not None and fnmatchcase(default, f"{name}*" if prefixed else name) for name, prefixed in found):
        yield default, False


def _acl_pattern(pattern: str) -> tuple[str | None, bool]:
    """Return the name that an ACL takes for a shell pattern, and whether it is a prefix; no name where there is none."""
    if pattern == "*":  # an ACL's literal wildcard
        return "*", False
    prefix = pattern.rstrip("*")
    if not prefix or any(sign in prefix for sign in "*?["):
        return None, False
    return prefix, prefix != pattern
