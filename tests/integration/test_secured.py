"""TLS and SASL reach a real broker that demands them, and a refusal is told at once."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.config import Settings
from gate.errors import KafkaUnavailable
from gate.kafka.connection import wait_for_kafka
from gate.kafka.embedded import HOST, EmbeddedKafka, port_is_free
from gate.kafka.topics import create_topics

pytestmark = [pytest.mark.kafka, pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")]

OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
PLAIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_gate="secret";'


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    free = (port for port in range(18_000, 19_000) if port_is_free(port))
    return {name: next(free) for name in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL", "CONTROLLER")}


@pytest.fixture(scope="module")
def secured(certificates: Path, ports: dict[str, int]) -> Iterator[EmbeddedKafka]:
    key, chain, authority = ((certificates / name).read_text() for name in ("broker.key", "broker.pem", "authority.pem"))
    listeners = ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())
    properties = {
        "listeners": listeners,
        "controller.quorum.voters": f"1@{HOST}:{ports['CONTROLLER']}",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN,OAUTHBEARER",
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config": f"{OAUTH} required;",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": PLAIN,
        "listener.name.sasl_ssl.plain.sasl.jaas.config": PLAIN,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.key": key,
        "ssl.keystore.certificate.chain": chain,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": authority,
        "listener.name.ssl.ssl.client.auth": "required",
    }
    with EmbeddedKafka(properties=properties) as broker:
        yield broker


def client(certificates: Path, **changes: object) -> Settings:
    """Settings that are right for every listener."""
    right = {
        "ssl_cafile": certificates / "authority.pem",
        "ssl_certfile": certificates / "client.pem",
        "ssl_keyfile": certificates / "client.locked",
        "ssl_password": "hunter2",
        "sasl_username": "gate",
        "sasl_password": "secret",
        "connect_timeout_s": 10,
    }
    return Settings(**(right | changes))


@pytest.mark.parametrize("protocol", ["SSL", "SASL_PLAINTEXT", "SASL_SSL"])
async def test_topics_are_made_over_a_secured_listener(secured, ports, certificates, protocol):
    settings = client(certificates, security_protocol=protocol, attempts_topic=f"{protocol}.attempts")
    bootstrap = f"{HOST}:{ports[protocol]}"

    await wait_for_kafka(settings, bootstrap)
    made = await create_topics(settings, bootstrap, partitions=1, replication=1)

    assert f"{protocol}.attempts" in [topic.name for topic in made]


async def test_the_bearer_token_of_a_file_is_accepted(secured, ports, certificates, tmp_path):
    parts = ({"alg": "none"}, {"sub": "gate", "iat": time.time(), "exp": time.time() + 600})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    (tmp_path / "token").write_text(".".join([*encoded, ""]) + "\n")
    settings = client(
        certificates, security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", sasl_oauth_token_file=tmp_path / "token"
    )

    await wait_for_kafka(settings, f"{HOST}:{ports['SASL_PLAINTEXT']}")


@pytest.mark.parametrize(
    ("protocol", "wrong", "said"),
    [
        (
            "SASL_PLAINTEXT",
            {"sasl_password": "wrong"},
            r"refused us \(SASL_PLAINTEXT, PLAIN\): .*check GATE_SECURITY_PROTOCOL, GATE_SASL_",
        ),
        ("SASL_SSL", {"sasl_username": "nobody"}, r"refused us \(SASL_SSL, PLAIN\): "),
        (
            "SASL_PLAINTEXT",
            {"sasl_mechanism": "SCRAM-SHA-512"},
            r"refused us \(SASL_PLAINTEXT, SCRAM-SHA-512\): The broker does not support",
        ),
        ("SSL", {"ssl_cafile": "stranger.pem"}, r"refused us \(SSL\): its certificate is not trusted"),
    ],
    ids=["password", "user", "mechanism", "authority"],
)
async def test_a_refusal_is_told_at_once_without_the_secret(secured, ports, certificates, protocol, wrong, said, caplog):
    if "ssl_cafile" in wrong:
        wrong = {"ssl_cafile": certificates / wrong["ssl_cafile"]}
    settings = client(certificates, security_protocol=protocol, connect_timeout_s=100, **wrong)

    with pytest.raises(KafkaUnavailable, match=said) as caught:
        await wait_for_kafka(settings, f"{HOST}:{ports[protocol]}")

    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [] == caplog.messages


@pytest.mark.parametrize(("ours", "theirs"), [("PLAINTEXT", "SSL"), ("SSL", "PLAINTEXT"), ("PLAINTEXT", "SASL_PLAINTEXT")])
async def test_the_wrong_protocol_ends_in_one_line_after_the_stated_wait(secured, ports, certificates, ours, theirs, caplog):
    settings = client(certificates, security_protocol=ours, connect_timeout_s=0.6)

    with pytest.raises(KafkaUnavailable, match=rf"^no Kafka broker answers at {HOST}:{ports[theirs]} within 0.6 s \("):
        await wait_for_kafka(settings, f"{HOST}:{ports[theirs]}")

    assert [] == caplog.messages
