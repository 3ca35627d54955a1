"""How every Kafka client of ours finds and reaches the brokers; the edge where the library's connection errors become ours."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import ssl
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from aiokafka.abc import AbstractTokenProvider
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from gate.config import Settings
from gate.errors import ConfigError, KafkaUnavailable
from gate.kafka import mends  # noqa: F401 - whoever makes a client takes its options from here

CLIENT_ID: Final = "registration-gate"
DEV_FILE: Final = Path(".gate/dev.json")
"""Written by `gate dev` while it runs: `bootstrap`, `pid` and more (DESIGN.md section 4)."""
DEFAULT_BOOTSTRAP: Final = "localhost:9092"

REQUEST_TIMEOUT_MS: Final = 10_000
"""Of requests to the cluster as a whole; 40 s by default."""
UNKNOWN_TOPIC: Final = 3  # https://kafka.apache.org/protocol#protocol_error_codes
RETRY_S: Final = 0.25
CLOSE_S: Final = 0.5
REFUSED: Final = (
    AuthenticationFailedError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    IllegalSaslStateError,
    ssl.SSLCertVerificationError,
)
"""What waiting does not mend."""


def resolve_bootstrap(settings: Settings) -> tuple[str, str]:
    """Return the brokers' address and where it comes from: the setting, a running `gate dev` here, or the default."""
    if settings.bootstrap_servers:
        return settings.bootstrap_servers, "GATE_BOOTSTRAP_SERVERS"
    if address := _dev_bootstrap():
        return address, str(DEV_FILE)
    return DEFAULT_BOOTSTRAP, "default"


def _dev_bootstrap() -> str | None:
    try:
        written = json.loads(DEV_FILE.read_bytes())
        bootstrap, pid = str(written["bootstrap"]), int(written["pid"])
        if pid <= 0:  # would mean a process group
            return None
        os.kill(pid, 0)
    except PermissionError:  # alive, but somebody else's
        return bootstrap
    except (OSError, ValueError, LookupError, TypeError, OverflowError):  # no file, no such process, or not what we write
        return None
    return bootstrap


def client_options(settings: Settings, bootstrap: str) -> dict[str, Any]:
    """Return the keyword arguments that all aiokafka clients share: address, TLS, SASL.

    Raises ConfigError with everything that is missing or cannot be read.
    """
    problems: list[str] = []
    options: dict[str, Any] = {
        "bootstrap_servers": [part.strip() for part in bootstrap.split(",") if part.strip()],
        "client_id": CLIENT_ID,
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol in {"SSL", "SASL_SSL"}:
        options["ssl_context"] = _ssl_context(settings, problems)
    if settings.security_protocol in {"SASL_PLAINTEXT", "SASL_SSL"}:
        options |= _sasl_options(settings, problems)
    if problems:
        raise ConfigError(problems)
    return options


def _ssl_context(settings: Settings, problems: list[str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if settings.ssl_cafile:
            context = ssl.create_default_context(cafile=str(settings.ssl_cafile))
    except OSError as error:  # ssl.SSLError is one
        problems.append(f"GATE_SSL_CAFILE={settings.ssl_cafile} cannot be used: {_reason(error)}; name a PEM file of authorities")
    context.check_hostname = settings.ssl_check_hostname
    if settings.ssl_certfile:
        password = settings.ssl_password.get_secret_value() if settings.ssl_password else ""
        keyfile = str(settings.ssl_keyfile) if settings.ssl_keyfile else None
        try:
            # A password is always given: without one OpenSSL would ask on the terminal.
            context.load_cert_chain(str(settings.ssl_certfile), keyfile, password)
        except OSError as error:
            problems.append(
                f"GATE_SSL_CERTFILE={settings.ssl_certfile} with GATE_SSL_KEYFILE={keyfile or 'unset'} cannot be used: "
                f"{_reason(error)}; name PEM files that belong together, and GATE_SSL_PASSWORD if the key has one"
            )
    elif settings.ssl_keyfile:
        problems.append("GATE_SSL_KEYFILE is set without GATE_SSL_CERTFILE: set both or none")
    return context


def _sasl_options(settings: Settings, problems: list[str]) -> dict[str, Any]:
    mechanism = settings.sasl_mechanism
    options: dict[str, Any] = {"sasl_mechanism": mechanism}
    if mechanism == "OAUTHBEARER":
        if settings.sasl_oauth_token_file is None:
            problems.append("OAUTHBEARER needs GATE_SASL_OAUTH_TOKEN_FILE: a file with the bearer token")
        else:
            options["sasl_oauth_token_provider"] = TokenFile(settings.sasl_oauth_token_file)
    elif mechanism == "GSSAPI":
        if importlib.util.find_spec("gssapi") is None:
            problems.append("GSSAPI needs the Python package gssapi: run `pip install gssapi`")
        options["sasl_kerberos_service_name"] = settings.sasl_kerberos_service_name
        options["sasl_kerberos_domain_name"] = settings.sasl_kerberos_domain_name
    elif settings.sasl_username is None or settings.sasl_password is None:
        problems.append(f"{mechanism} needs both GATE_SASL_USERNAME and GATE_SASL_PASSWORD")
    else:
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return options


class TokenFile(AbstractTokenProvider):  # type: ignore[misc] # aiokafka ships no types
    """The bearer token in a file that somebody else renews, read whenever a connection is made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r})"

    async def token(self) -> str:
        """Return the token; a file that cannot be read is a failed connection, which is tried again."""
        try:
            text = await asyncio.to_thread(self.path.read_text, encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise AuthenticationFailedError(f"GATE_SASL_OAUTH_TOKEN_FILE={self.path} cannot be read: {_reason(error)}") from error
        return text.strip()


async def wait_for_kafka(settings: Settings, bootstrap: str) -> None:
    """Return as soon as a broker answers; raise KafkaUnavailable after `settings.connect_timeout_s`.

    A broker that refuses our certificate or credentials is not asked again. What aiokafka logs meanwhile is not shown: the
    last of it is the reason in the error.
    """
    options = client_options(settings, bootstrap)
    patience_s = settings.connect_timeout_s
    deadline = time.monotonic() + patience_s
    with _heard() as heard:
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    if await _ask(options, timeout_s=min(left_s, 5.0)):
                        return
            except (KafkaError, OSError, ValueError) as error:  # TimeoutError is an OSError; ValueError: a wrong SCRAM signature
                heard.append(error)
            refusal = next((error for error in heard if isinstance(error, REFUSED)), None)
            if refusal:
                mend = "check GATE_SECURITY_PROTOCOL, GATE_SASL_… and GATE_SSL_…"
                how = ", ".join([settings.security_protocol, *filter(None, [options.get("sasl_mechanism")])])
                raise KafkaUnavailable(
                    f"the Kafka broker at {bootstrap} refused us ({how}): {_reason(refusal)}; {mend}"
                ) from refusal
            await asyncio.sleep(min(RETRY_S, max(0.0, deadline - time.monotonic())))
    reasons = [reason for error in heard if (reason := _reason(error)) and not reason.startswith("Unable to bootstrap")]
    raise KafkaUnavailable(
        f"no Kafka broker answers at {bootstrap} within {patience_s:g} s ({reasons[-1] if reasons else 'no answer'}); "
        "start one (`gate dev`) or set GATE_BOOTSTRAP_SERVERS"
    )


async def describe_topics(admin: AIOKafkaAdminClient) -> dict[str, dict[str, Any]]:
    """Return all topics there are, by name. Never ask for one by its name: that may create it."""
    return {topic["topic"]: topic for topic in await admin.describe_topics() if topic["error_code"] != UNKNOWN_TOPIC}


async def _ask(options: dict[str, Any], *, timeout_s: float) -> bool:
    """Ask whether a broker answers; when cancelled, let the question end first.

    A connection that is cut while aiokafka opens it is not closed by anybody.
    """
    question = asyncio.create_task(_answers(options, timeout_s=timeout_s), name="is kafka there")
    try:
        return await asyncio.shield(question)
    except asyncio.CancelledError:
        await asyncio.wait({question}, timeout=CLOSE_S)
        question.cancel()
        await asyncio.wait({question})
        if not question.cancelled():
            question.exception()  # nobody wants to know any more
        raise


async def _answers(options: dict[str, Any], *, timeout_s: float) -> bool:
    """Tell whether there is a cluster with a broker in it, not just an open port."""
    admin = AIOKafkaAdminClient(**options, request_timeout_ms=max(1, int(timeout_s * 1000)))
    try:
        await admin.start()
        return bool((await admin.describe_cluster())["brokers"])
    finally:
        await admin.close()


@contextlib.contextmanager
def mapped_errors(bootstrap: str, doing: str) -> Iterator[None]:
    """Turn what the library raises for a broker that is away into KafkaUnavailable."""
    try:
        yield
    except (KafkaError, OSError) as error:
        raise KafkaUnavailable(f"Kafka at {bootstrap} did not let us {doing}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return one line that says what happened, without the class names of the library."""
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message or error.reason}"
    text = " ".join(str(error).split())
    if isinstance(error, KafkaError):  # "[Error 33] UnsupportedSaslMechanismError: <AIOKafkaConnection …>"
        text = text.partition(f"{type(error).__name__}: ")[2] or text
        if text.startswith("<AIOKafkaConnection"):
            text = str(getattr(error, "description", text)).rstrip(".")
    return text or type(error).__name__


_hearing: ContextVar[list[BaseException] | None] = ContextVar("hearing", default=None)


class _Hear(logging.Filter):
    """Keep the errors that aiokafka only logs, and keep them off the user's screen, in the tasks that ask for it.

    A context variable, not the logger's level: the clients of a worker in the same process are still heard.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        heard = _hearing.get()
        if heard is None:
            return True
        heard.extend(argument for argument in record.args or () if isinstance(argument, BaseException))
        return False


_FILTER: Final = _Hear()
_LOGGERS: Final = ("aiokafka", "aiokafka.conn", "aiokafka.cluster", "aiokafka.admin.client")


@contextlib.contextmanager
def _heard() -> Iterator[list[BaseException]]:
    """Collect the exceptions that aiokafka logs in this task and the tasks it makes."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)  # adding it twice changes nothing
    heard: list[BaseException] = []
    token = _hearing.set(heard)
    try:
        yield heard
    finally:
        _hearing.reset(token)
