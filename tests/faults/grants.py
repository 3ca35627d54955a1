"""Take the right to write to a topic away from everybody, and give it back; the broker must have PROPERTIES."""

from __future__ import annotations

from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

PROPERTIES: Final = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}

# https://kafka.apache.org/protocol, ACL resource types, pattern types, operations and permissions
_TOPIC, _LITERAL, _ALL, _WRITE, _DENY, _ALLOW = 2, 3, 2, 4, 2, 3
_EVERYBODY = ("User:*", "*")


async def forbid_writes(bootstrap: str, topic: str) -> None:
    """Refuse every record for a topic; everything else stays allowed."""
    await _send(
        bootstrap,
        CreateAclsRequest(_TOPIC, topic, _LITERAL, *_EVERYBODY, _ALL, _ALLOW),
        CreateAclsRequest(_TOPIC, topic, _LITERAL, *_EVERYBODY, _WRITE, _DENY),
    )


async def allow_writes(bootstrap: str, topic: str) -> None:
    """Take records for the topic again."""
    await _send(bootstrap, DeleteAclsRequest(_TOPIC, topic, _LITERAL, *_EVERYBODY, _WRITE, _DENY))


async def _send(bootstrap: str, *requests: CreateAclsRequest | DeleteAclsRequest) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for request in requests:
            response = await admin._send_request(request)
            results = response.creation_responses if isinstance(request, CreateAclsRequest) else response.filter_responses
            assert [0] == [result[0] for result in results], response
    finally:
        await admin.close()
