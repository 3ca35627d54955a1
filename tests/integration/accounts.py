"""Users and their rights on a broker, by the requests that Kafka's own tools send; aiokafka's admin client has none of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields

from gate.kafka.rights import OPERATION_CODES, Right

SCRAM = {"SCRAM-SHA-256": (1, hashlib.sha256), "SCRAM-SHA-512": (2, hashlib.sha512)}
ITERATIONS = 4096  # the least that Kafka takes

# Numbers of org.apache.kafka.common.resource.ResourceType and .PatternType, and of AclPermissionType
RESOURCES = {"topic": 2, "group": 3}
LITERAL, PREFIXED = 3, 4
ALLOW = 3


class _Altered(Response):
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString()), ("error_code", Int16), ("error_message", CompactString()), ("tags", TaggedFields)
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterV0(RequestStruct):
    """AlterUserScramCredentials (KIP-554)."""

    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Altered
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString()), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString()),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Alter(Request[_AlterV0]):
    API_KEY = 51

    def __init__(self, upsertions: list[tuple[str, int, int, bytes, bytes, dict[int, bytes]]]) -> None:
        self._upsertions = upsertions

    def build(self, request_struct_class: type[_AlterV0]) -> _AlterV0:
        return request_struct_class([], self._upsertions, {})


@asynccontextmanager
async def administrator(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def make_user(bootstrap: str, name: str, password: str) -> None:
    """Let a user come in by either SCRAM mechanism."""
    async with administrator(bootstrap) as admin:
        for number, digest in SCRAM.values():  # one request each: the broker takes a name once in a request
            salt = os.urandom(16)
            salted = hashlib.pbkdf2_hmac(digest().name, password.encode(), salt, ITERATIONS)
            answer = await admin._send_to_controller(_Alter([(name, number, ITERATIONS, salt, salted, {})]))
            assert [(name, 0)] == [(user, code) for user, code, *_ in answer.results], answer


async def grant(bootstrap: str, principal: str, *rights: Right) -> None:
    """Give rights to a principal."""
    async with administrator(bootstrap) as admin:
        for right in rights:
            for operation in right.operations:
                pattern = PREFIXED if right.prefixed else LITERAL
                request = CreateAclsRequest(
                    RESOURCES[right.resource], right.name, pattern, principal, "*", OPERATION_CODES[operation], ALLOW
                )
                answer = await admin._send_to_controller(request)
                assert [0] == [code for code, *_ in answer.creation_responses]


async def revoke(bootstrap: str, principal: str, *rights: Right) -> None:
    """Take rights away from a principal; each must be there."""
    async with administrator(bootstrap) as admin:
        for right in rights:
            for operation in right.operations:
                pattern = PREFIXED if right.prefixed else LITERAL
                request = DeleteAclsRequest(
                    RESOURCES[right.resource], right.name, pattern, principal, "*", OPERATION_CODES[operation], ALLOW
                )
                answer = await admin._send_to_controller(request)
                assert [(0, 1)] == [(code, len(matching)) for code, _, matching in answer.filter_responses]
