"""Where Kafka is found, how it is reached, and what is said when it is not."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import AuthenticationFailedError

from gate.config import Settings
from gate.errors import ConfigError, KafkaUnavailable
from gate.kafka.connection import TokenFile, client_options, resolve_bootstrap, wait_for_kafka
from gate.kafka.embedded import port_is_free


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_dev_file(text: str) -> None:
    Path(".gate").mkdir()
    Path(".gate/dev.json").write_text(text)


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_setting_wins():
    write_dev_file(json.dumps({"bootstrap": "127.0.0.1:1", "pid": os.getpid()}))

    assert ("kafka:9092", "GATE_BOOTSTRAP_SERVERS") == resolve_bootstrap(Settings(bootstrap_servers="kafka:9092"))


def test_a_running_gate_dev_is_found():
    write_dev_file(json.dumps({"bootstrap": "127.0.0.1:1", "pid": os.getpid(), "http_port": 9464}))

    assert ("127.0.0.1:1", ".gate/dev.json") == resolve_bootstrap(Settings())


def test_a_gate_dev_that_is_gone_is_not_believed():
    write_dev_file(json.dumps({"bootstrap": "127.0.0.1:1", "pid": ended_pid()}))

    assert ("localhost:9092", "default") == resolve_bootstrap(Settings())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"pid": 1}', '{"bootstrap": "x", "pid": 0}', '{"bootstrap": "x", "pid": "y"}', "\xff"]
)
def test_an_unreadable_dev_file_is_no_gate_dev(text):
    write_dev_file(text)

    assert ("localhost:9092", "default") == resolve_bootstrap(Settings())


def test_without_anything_it_is_the_default():
    assert ("localhost:9092", "default") == resolve_bootstrap(Settings())


def test_plaintext_needs_nothing_but_the_address():
    expected = {"bootstrap_servers": ["a:1", "b:2"], "client_id": "registration-gate", "security_protocol": "PLAINTEXT"}

    assert expected == client_options(Settings(), "a:1, b:2,")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_user_and_password_reach_the_client(mechanism):
    settings = Settings(security_protocol="SASL_SSL", sasl_mechanism=mechanism, sasl_username="gate", sasl_password="secret")

    options = client_options(settings, "a:1")

    assert (mechanism, "gate", "secret") == (
        options["sasl_mechanism"],
        options["sasl_plain_username"],
        options["sasl_plain_password"],
    )
    assert options["ssl_context"].check_hostname
    assert ssl.CERT_REQUIRED == options["ssl_context"].verify_mode


def test_host_names_need_not_match_if_told_so_but_the_certificate_is_still_verified():
    context = client_options(Settings(security_protocol="SSL", ssl_check_hostname=False), "a:1")["ssl_context"]

    assert not context.check_hostname
    assert ssl.CERT_REQUIRED == context.verify_mode


async def test_an_oauth_token_is_read_anew_for_each_connection():
    file = Path("token")
    settings = Settings(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", sasl_oauth_token_file=file)
    provider = client_options(settings, "a:1")["sasl_oauth_token_provider"]

    file.write_text("first\n")  # noqa: ASYNC240 -- nothing else runs here
    assert "first" == await provider.token()
    file.write_text("second")  # noqa: ASYNC240
    assert "second" == await provider.token()


@pytest.mark.parametrize("library_client", [AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "GSSAPI", "OAUTHBEARER"])
def test_every_client_of_the_library_takes_all_options(library_client, mechanism, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    settings = Settings(
        security_protocol="SASL_SSL",
        sasl_mechanism=mechanism,
        sasl_username="gate",
        sasl_password="secret",
        sasl_oauth_token_file="token",
    )

    assert set(client_options(settings, "a:1")) <= set(inspect.signature(library_client).parameters)


def test_kerberos_names_reach_the_client(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    settings = Settings(security_protocol="SASL_PLAINTEXT", sasl_mechanism="GSSAPI", sasl_kerberos_domain_name="example.org")

    options = client_options(settings, "a:1")

    assert ("kafka", "example.org") == (options["sasl_kerberos_service_name"], options["sasl_kerberos_domain_name"])


@pytest.mark.parametrize(
    ("wrong", "problems"),
    [
        ({"sasl_mechanism": "PLAIN", "sasl_username": "gate"}, ["PLAIN needs both GATE_SASL_USERNAME and GATE_SASL_PASSWORD"]),
        ({"sasl_mechanism": "OAUTHBEARER"}, ["OAUTHBEARER needs GATE_SASL_OAUTH_TOKEN_FILE"]),
        ({"sasl_mechanism": "GSSAPI"}, ["GSSAPI needs the Python package gssapi"]),
        (
            {"ssl_cafile": "/nowhere.pem", "ssl_certfile": "/none.pem", "sasl_mechanism": "SCRAM-SHA-512"},
            ["GATE_SSL_CAFILE=/nowhere.pem cannot be used", "GATE_SSL_CERTFILE=/none.pem with", "SCRAM-SHA-512 needs both"],
        ),
        (
            {"ssl_keyfile": "/key.pem", "sasl_username": "a", "sasl_password": "b"},
            ["GATE_SSL_KEYFILE is set without GATE_SSL_CERTFILE"],
        ),
    ],
)
def test_everything_that_is_missing_is_reported_at_once(wrong, problems, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        client_options(Settings(security_protocol="SASL_SSL", **wrong), "a:1")

    assert len(problems) == len(caught.value.problems)
    assert all(found.startswith(expected) for expected, found in zip(problems, caught.value.problems, strict=True))


def test_passwords_are_in_no_problem():
    Path("broken.pem").write_text("not PEM")
    settings = Settings(security_protocol="SSL", ssl_certfile="broken.pem", ssl_password="hunter2", sasl_password="hunter2")

    with pytest.raises(ConfigError) as caught:
        client_options(settings, "a:1")

    assert "hunter2" not in str(caught.value)


async def test_nobody_listening_is_one_line_with_address_wait_and_mend_and_no_log(caplog):
    port = next(port for port in range(21_000, 22_000) if port_is_free(port))

    with pytest.raises(KafkaUnavailable) as caught:
        await wait_for_kafka(Settings(connect_timeout_s=0.4), f"127.0.0.1:{port}")

    message = str(caught.value)
    assert f"no Kafka broker answers at 127.0.0.1:{port} within 0.4 s (" in message
    assert "Connect call failed" in message
    assert "set GATE_BOOTSTRAP_SERVERS" in message
    assert "\n" not in message
    assert [] == caplog.records


async def test_a_port_that_never_answers_does_not_hold_us_longer_than_stated(caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(KafkaUnavailable, match=r"within 0.3 s \(no answer"):
        await wait_for_kafka(Settings(connect_timeout_s=0.3), f"127.0.0.1:{silent.getsockname()[1]}")

    assert [] == caplog.records


async def test_an_unknown_host_is_named():
    with pytest.raises(KafkaUnavailable, match=r"no Kafka broker answers at kafka\.invalid:9092"):
        await wait_for_kafka(Settings(connect_timeout_s=0.3), "kafka.invalid:9092")


async def test_an_unreadable_token_file_is_named():
    with pytest.raises(AuthenticationFailedError, match=r"GATE_SASL_OAUTH_TOKEN_FILE=none cannot be read: .*No such file"):
        await TokenFile(Path("none")).token()


async def test_while_one_task_waits_other_clients_are_still_heard(caplog):
    waiting = asyncio.create_task(wait_for_kafka(Settings(connect_timeout_s=0.3), "127.0.0.1:1"))
    await asyncio.sleep(0)

    logging.getLogger("aiokafka").error("a worker's client lost its broker")

    assert ["a worker's client lost its broker"] == caplog.messages
    with pytest.raises(KafkaUnavailable):
        await waiting
    assert 1 == len(caplog.messages)
