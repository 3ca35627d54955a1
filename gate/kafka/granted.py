"""Ask a broker what it lets us do, so that a missing right is told by its name and not by what fails without it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from gate.config import Settings
from gate.kafka.connection import REQUEST_TIMEOUT_MS
from gate.kafka.rights import OPERATION_CODES, Role, forbidden, needed

TOPIC_FORBIDDEN: Final = 29  # https://kafka.apache.org/protocol#protocol_error_codes
NOT_SAID: Final = -(2**31)  # of a broker that keeps the rights to itself


class _Answer(Response):  # type: ignore[misc] # aiokafka ships no types
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8")))),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _QuestionV8(RequestStruct):  # type: ignore[misc]
    """Metadata with the rights that we have (KIP-430); aiokafka knows it up to version 5."""

    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _Question(Request[_QuestionV8]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_QuestionV8]) -> _QuestionV8:
        return request_struct_class(self._topics, False, False, True)  # never makes a topic by asking for it


async def missing_rights(settings: Settings, options: Mapping[str, Any], role: Role, *, hidden_only: bool = False) -> list[str]:
    """Return a sentence for each topic on which we lack a right of `role`; none where the broker does not say.

    A topic that does not exist is no matter of rights. With `hidden_only`, only topics that we may not even Describe count,
    whether they exist or not. `options` are those of `client_options`.
    """
    wanted = needed(settings, role)
    admin = AIOKafkaAdminClient(**options, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        answer = await admin._send_request(_Question(list(wanted)))  # noqa: SLF001 - sends any request
    except (KafkaError, OSError, NotImplementedError):  # Kafka before 2.3, or one that is away: others will say so
        return []
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await admin.close()
    problems = []
    for code, topic, _, _, granted in answer.topics:
        hidden = code == TOPIC_FORBIDDEN
        told = code == 0 and granted != NOT_SAID and not hidden_only
        lacking = [operation for operation in wanted[topic] if hidden or (told and not granted >> OPERATION_CODES[operation] & 1)]
        if lacking:
            problems.append(forbidden("topic", topic, *lacking))
    return problems
