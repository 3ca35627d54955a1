"""Least rights: with exactly these everything works, and whoever lacks one is told which, before or after the start."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gate.client import GateClient
from gate.config import Settings
from gate.errors import ConfigError, KafkaUnavailable
from gate.kafka.connection import client_options, wait_for_kafka
from gate.kafka.embedded import HOST, EmbeddedKafka, port_is_free
from gate.kafka.producer import BatchProducer
from gate.kafka.rights import Right, Role, forbidden, least_rights, needed
from gate.kafka.topics import check_topics, create_topics
from gate.ledger.ports import LogForbidden
from gate.model.wire import Message

from .accounts import grant, make_user, revoke
from .peers import EVENT, Asker, Start, body, environment, event, header, lag, read_all, serving

pytestmark = [pytest.mark.kafka, pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")]

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
PASSWORD = "correct-horse"
Settled = Callable[..., Settings]
USERS = {role: f"User:{role}" for role in Role}


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    free = (port for port in range(19_000, 20_000) if port_is_free(port))
    return {name: next(free) for name in ("PLAINTEXT", "SASL_SSL", "CONTROLLER")}


@pytest.fixture(scope="module")
def guarded(certificates: Path, ports: dict[str, int]) -> Iterator[str]:
    """The administrators' address of a broker that lets nobody else do anything but what ACLs allow."""
    properties = {
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items()),
        "controller.quorum.voters": f"1@{HOST}:{ports['CONTROLLER']}",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # whoever comes over PLAINTEXT
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": SCRAM,
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": SCRAM,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.key": (certificates / "broker.key").read_text(),
        "ssl.keystore.certificate.chain": (certificates / "broker.pem").read_text(),
    }
    address = f"{HOST}:{ports['PLAINTEXT']}"

    async def make_users() -> None:
        for role in Role:
            await make_user(address, role, PASSWORD)

    with EmbeddedKafka(properties=properties):
        asyncio.run(make_users())
        yield address


@pytest.fixture
def fresh(guarded: str) -> Callable[..., Settings]:
    """`fresh()`: an administrator's settings with names that nobody has used."""

    def settings(**options: Any) -> Settings:
        unique = uuid.uuid4().hex[:8]
        names = {
            "attempts_topic": f"{unique}.attempts",
            "decisions_topic": f"{unique}.decisions",
            "replies_topic": f"{unique}.replies",
            "dlq_topic": f"{unique}.attempts.dlq",
            "reply_topics": (f"{unique}.replies*", f"{unique}.other-?"),  # the second one cannot be an ACL
            "group_id": f"{unique}.gate",
        }
        return Settings(**{**names, "bootstrap_servers": guarded, "http_port": 0, "session_timeout_ms": 2000, **options})

    return settings


@pytest.fixture
def user(certificates: Path, ports: dict[str, int]) -> Callable[..., Settings]:
    """`user(settings, role)`: the same settings as that user has them."""

    def settings_of(settings: Settings, role: Role, *, mechanism: str = "SCRAM-SHA-512", **changes: Any) -> Settings:
        given = {
            "bootstrap_servers": f"{HOST}:{ports['SASL_SSL']}",
            "security_protocol": "SASL_SSL",
            "ssl_cafile": certificates / "authority.pem",
            "sasl_mechanism": mechanism,
            "sasl_username": role.value,
            "sasl_password": SecretStr(PASSWORD),
        }
        return settings.model_copy(update=given | changes)

    return settings_of


def rights_of(role: Role, settings: Settings) -> list[Right]:
    """Each operation as a right of its own."""
    rights = [right for right in least_rights(settings) if right.role is role]
    return [replace(right, operations=(operation,)) for right in rights for operation in right.operations]


def the(operation: str, name: str, settings: Settings, role: Role = Role.WORKER) -> Right:
    return next(right for right in rights_of(role, settings) if right.name == name and right.operations == (operation,))


def unseen(lacking: Right, settings: Settings) -> str:
    """Return what is said; the broker tells nothing of a topic that we may not Describe, so all that is needed is named."""
    hidden = lacking.operations == ("Describe",)
    return forbidden("topic", lacking.name, *(needed(settings, lacking.role)[lacking.name] if hidden else lacking.operations))


async def prepare(settings: Settings, *roles: Role) -> None:
    """Make the topics and grant all rights of these roles."""
    assert settings.bootstrap_servers
    await create_topics(settings, settings.bootstrap_servers, partitions=2, replication=1)
    for role in roles:
        await grant(settings.bootstrap_servers, USERS[role], *rights_of(role, settings))


async def gate(*arguments: str, settings: Settings) -> tuple[int, str, str]:
    """Run the command; return exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "gate"),
        *arguments,
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


# -- All that is needed -------------------------------------------------------------------------------------------------


async def test_with_exactly_these_rights_worker_and_client_do_all_of_their_work(
    fresh: Settled, user: Settled, start: Start, eventually: Any
) -> None:
    """Approved, denied, a dead letter, commits, and a takeover, all over SASL_SSL with SCRAM."""
    settings = fresh()
    await prepare(settings, Role.WORKER, Role.CLIENT)
    unlisted = settings.attempts_topic.replace("attempts", "other-1")
    more = {
        "replies_topic": unlisted,
        "attempts_topic": f"{unlisted}.a",
        "decisions_topic": f"{unlisted}.d",
        "dlq_topic": f"{unlisted}.q",
    }
    await prepare(settings.model_copy(update=more))
    first = await start(user(settings, Role.WORKER)).ready()

    code, out, err = await gate("ask", "zoe@example.com", "--json", "--timeout", "30", settings=user(settings, Role.CLIENT))
    assert (0, "approved") == (code, json.loads(out)["status"]), err

    asking = user(settings, Role.CLIENT, mechanism="SCRAM-SHA-256")
    async with GateClient(settings=asking) as client, Asker(settings) as asker:
        denied = await client.ask({**EVENT, "user": {"email": "denied@example.com"}}, timeout_s=30)
        await asker.submit("bad", b"nonsense")
        await asker.submit("unlisted", event(), kafka_replyTopic=unlisted.encode())
        await eventually(lambda: asker.to("bad"), within_s=30)
        await eventually(lambda: len(first.lines("dead_letter")) == 2, within_s=30)

        second = start(user(settings, Role.WORKER))
        await eventually(lambda: second.lines("assigned"), within_s=30)
        first.send(signal.SIGKILL)
        later = await asyncio.gather(*(client.ask(EVENT, timeout_s=60) for _ in range(8)))

    assert "no_such_person" == denied.denial.reason if denied.denial else None
    assert ["approved"] * 8 == [decision.status for decision in later]
    assert "invalid_attempt" == body(asker.to("bad")[0])["denial"]["cause"]
    letters = await read_all(settings, settings.dlq_topic)
    # A topic that we may not Describe is not in the broker's list for us.
    assert {b"bad": b"invalid_attempt", b"unlisted": b"reply_topic_unknown"} == {
        header(letter, "gate-attempt-id"): header(letter, "gate-dlq-reason") for letter in letters
    }
    assert 0 == await second.end()
    assert 0 == sum((await lag(settings)).values())


async def test_an_operator_reads_and_asks_again_but_decides_nothing(fresh: Settled, user: Settled) -> None:
    settings = fresh()
    await prepare(settings, Role.OPERATOR)
    own = user(settings, Role.OPERATOR)
    options = client_options(own, str(own.bootstrap_servers))
    producer = BatchProducer(options, on_restart=lambda: None)
    await producer.start()
    try:
        for topic in (settings.attempts_topic, settings.replies_topic):
            await producer.send(topic, 0, [Message(b"k", b"v", [])])
        refused = [
            await _refusal(producer.send(topic, 0, [Message(b"k", b"v", [])]))
            for topic in (settings.decisions_topic, settings.dlq_topic)
        ]
    finally:
        await producer.stop()

    assert [forbidden("topic", topic, "Write") for topic in (settings.decisions_topic, settings.dlq_topic)] == refused
    for topic, found in ((settings.attempts_topic, 1), (settings.decisions_topic, 0), (settings.dlq_topic, 0)):
        assert found == len(await read_all(settings, topic, options=options))


async def _refusal(sending: Awaitable[Any]) -> str:
    with pytest.raises(LogForbidden) as caught:
        await sending
    return str(caught.value)


# -- One right less, at the start ---------------------------------------------------------------------------------------


async def test_a_worker_without_a_right_names_it_and_does_not_start(
    fresh: Settled, user: Settled, guarded: str, start: Start
) -> None:
    settings = fresh()
    await prepare(settings, Role.WORKER)
    for right in rights_of(Role.WORKER, settings):
        await revoke(guarded, USERS[Role.WORKER], right)
        name = settings.replies_topic if right.prefixed else right.name

        with pytest.raises((ConfigError, ExceptionGroup)) as caught:
            async with serving(user(settings, Role.WORKER)):
                pass

        error = caught.value.exceptions[0] if isinstance(caught.value, ExceptionGroup) else caught.value
        assert forbidden(right.resource, name, *right.operations) == str(error)
        await grant(guarded, USERS[Role.WORKER], right)

    await revoke(guarded, USERS[Role.WORKER], the("Read", settings.group_id, settings))
    worker = start(user(settings, Role.WORKER))
    assert 2 == await worker.ended()
    assert [f"gate: {forbidden('group', settings.group_id, 'Read')}"] == [
        line for line in worker.log.splitlines() if not line.startswith("{")
    ]


async def test_whoever_asks_without_a_right_is_told_which(fresh: Settled, user: Settled, guarded: str) -> None:
    settings = fresh()
    await prepare(settings, Role.CLIENT)
    for right in rights_of(Role.CLIENT, settings):
        await revoke(guarded, USERS[Role.CLIENT], right)

        with pytest.raises(ConfigError) as caught:
            async with GateClient(settings=user(settings, Role.CLIENT)):
                pass

        assert forbidden("topic", right.name, *right.operations) == str(caught.value)
        await grant(guarded, USERS[Role.CLIENT], right)


async def test_whoever_makes_topics_without_a_right_is_told_which(fresh: Settled, user: Settled, guarded: str) -> None:
    for number in range(8):
        settings = fresh()
        own = user(settings, Role.CREATOR)
        rights = rights_of(Role.CREATOR, settings)
        lacking = rights.pop(number)
        await grant(guarded, USERS[Role.CREATOR], *rights)

        with pytest.raises(ConfigError) as caught:
            await create_topics(own, str(own.bootstrap_servers), partitions=1, replication=1)

        assert unseen(lacking, settings) == str(caught.value)

    await grant(guarded, USERS[Role.CREATOR], lacking)
    await create_topics(own, str(own.bootstrap_servers), partitions=1, replication=1)


async def test_whoever_checks_topics_without_a_right_is_told_which(fresh: Settled, user: Settled, guarded: str) -> None:
    settings = fresh()
    await prepare(settings, Role.CHECKER)
    own = user(settings, Role.CHECKER)
    for right in rights_of(Role.CHECKER, settings):
        await revoke(guarded, USERS[Role.CHECKER], right)

        if right.operations == ("DescribeConfigs",):  # a part can be checked without it
            findings = await check_topics(own, str(own.bootstrap_servers))
            assert [right.name] == [finding.topic for finding in findings if finding.setting == "permission"]
        else:
            with pytest.raises(ConfigError) as caught:
                await check_topics(own, str(own.bootstrap_servers))
            assert unseen(right, settings) == str(caught.value)
        await grant(guarded, USERS[Role.CHECKER], right)

    assert "permission" not in [finding.setting for finding in await check_topics(own, str(own.bootstrap_servers))]


async def test_a_wrong_password_is_one_line_without_it(fresh: Settled, user: Settled, start: Start) -> None:
    wrong = user(fresh(), Role.WORKER, sasl_password=SecretStr("battery-staple"))
    worker = start(wrong)
    (code, out, err), ended = await asyncio.gather(gate("ask", "zoe@example.com", settings=wrong), worker.ended())

    assert (3, 3, "") == (code, ended, out)
    for text in (worker.log, err):
        (said,) = [line for line in text.splitlines() if line.startswith("gate: ")]
        assert "refused us (SASL_SSL, SCRAM-SHA-512)" in said
        assert "check GATE_SECURITY_PROTOCOL, GATE_SASL_" in said
        assert "battery-staple" not in text
        assert "Traceback" not in text
    with pytest.raises(KafkaUnavailable, match=r"refused us \(SASL_SSL, SCRAM-SHA-256\)"):
        await wait_for_kafka(wrong.model_copy(update={"sasl_mechanism": "SCRAM-SHA-256"}), str(wrong.bootstrap_servers))


# -- One right less, while it runs --------------------------------------------------------------------------------------


async def test_rights_taken_from_a_running_worker_are_named_and_nothing_is_lost(
    fresh: Settled, user: Settled, guarded: str, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers of six groups, each with another right less for a while."""

    async def without(operation: str, topic: str | None) -> None:
        settings = fresh()
        await prepare(settings, Role.WORKER)
        name = settings.group_id if topic is None else getattr(settings, topic)
        right = the(operation, name, settings)
        missing = forbidden(right.resource, right.name, right.operations[0])
        async with serving(user(settings, Role.WORKER)) as worker, Asker(settings) as asker:
            await asker.submit("before", event())
            await eventually(lambda: asker.to("before"), within_s=30)

            await revoke(guarded, USERS[Role.WORKER], right)
            meanwhile = [f"meanwhile-{number}" for number in range(10)]
            for attempt_id in meanwhile:
                await asker.submit(attempt_id, b"nonsense" if topic == "dlq_topic" else event())
            if topic == "dlq_topic":
                await eventually(lambda: missing in caplog.text, within_s=60)
                assert worker.status().ready
            elif topic == "replies_topic":
                await eventually(lambda: caplog.text.count("reason='reply_forbidden'") == 10, within_s=60)
                assert missing in caplog.text
            else:
                await eventually(lambda: [why for why in worker.status().reasons if missing in why], within_s=60)
            await grant(guarded, USERS[Role.WORKER], right)

            if topic != "replies_topic":
                await eventually(lambda: all(asker.to(attempt_id) for attempt_id in meanwhile), within_s=60)
            await eventually(lambda: worker.status().ready, within_s=60)
            await asker.submit("after", event())
            await eventually(lambda: asker.to("after"), within_s=60)
        reasons = [header(letter, "gate-dlq-reason") for letter in await read_all(settings, settings.dlq_topic)]
        expected = {"dlq_topic": b"invalid_attempt", "replies_topic": b"reply_forbidden"}
        assert ([expected[topic]] * 10 if topic in expected else []) == reasons
        assert 0 == sum((await lag(settings)).values())

    async def without_reading_the_ledger() -> None:
        """A worker that reads nothing back needs no right to; one that takes over does."""
        settings = fresh()
        await prepare(settings, Role.WORKER)
        right = the("Read", settings.decisions_topic, settings)
        async with Asker(settings) as asker, serving(user(settings, Role.WORKER)) as staying:
            async with serving(user(settings, Role.WORKER)):
                for number in range(10):  # something to be read back in each partition
                    await asker.submit(f"before-{number}", event())
                await eventually(lambda: len(asker.replies) == 10, within_s=60)
                await revoke(guarded, USERS[Role.WORKER], right)
            missing = forbidden("topic", settings.decisions_topic, "Read")
            await eventually(lambda: [why for why in staying.status().reasons if missing in why], within_s=60)
            ids = [f"meanwhile-{number}" for number in range(10)]
            for attempt_id in ids:
                await asker.submit(attempt_id, event())
            await grant(guarded, USERS[Role.WORKER], right)
            await eventually(lambda: staying.status().ready, within_s=60)
            await eventually(lambda: all(asker.to(attempt_id) for attempt_id in ids), within_s=60)

    async with asyncio.TaskGroup() as cases:
        cases.create_task(without_reading_the_ledger(), name="without Read on the ledger")
        for operation, topic in (
            ("Read", "attempts_topic"),
            ("Write", "decisions_topic"),
            ("Write", "replies_topic"),
            ("Write", "dlq_topic"),
            ("Read", None),
        ):
            cases.create_task(without(operation, topic), name=f"without {operation} {topic}")
