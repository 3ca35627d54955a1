"""Settings: from flags, then environment (`GATE_…`), then `gate.toml`, then the defaults below."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """All settings. Times are milliseconds where the name ends in `_ms`, seconds where it ends in `_s`."""

    model_config = SettingsConfigDict(env_prefix="GATE_", frozen=True, extra="forbid")

    # Kafka
    bootstrap_servers: str | None = Field(None, description="host:port, comma-separated; unset: the broker of a running `gate dev`, else localhost:9092")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="how to talk to the brokers")
    ssl_cafile: Path | None = Field(None, description="PEM file with the authorities to trust; unset: the system's")
    ssl_certfile: Path | None = Field(None, description="PEM file with our certificate, for mutual TLS")
    ssl_keyfile: Path | None = Field(None, description="PEM file with our private key")
    ssl_password: SecretStr | None = Field(None, description="password of the private key")
    ssl_check_hostname: bool = Field(True, description="whether the broker's certificate must carry its host name")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] = Field("PLAIN", description="used with SASL_PLAINTEXT and SASL_SSL")
    sasl_username: str | None = Field(None, description="user name for PLAIN and SCRAM")
    sasl_password: SecretStr | None = Field(None, description="password for PLAIN and SCRAM")
    sasl_oauth_token_file: Path | None = Field(None, description="file with the bearer token for OAUTHBEARER, read anew whenever one is needed")
    sasl_kerberos_service_name: str = Field("kafka", description="service name for GSSAPI")
    sasl_kerberos_domain_name: str | None = Field(None, description="domain name for GSSAPI")
    connect_timeout_s: float = Field(15.0, gt=0, description="how long a command waits at start for a broker that does not answer")

    # Topics
    attempts_topic: str = Field("registration.attempts", description="where attempts come in")
    decisions_topic: str = Field("registration.decisions", description="the ledger; as many partitions as the attempts topic")
    replies_topic: str = Field("registration.replies", description="where replies go when the asker names no topic")
    dlq_topic: str = Field("registration.attempts.dlq", description="where attempts go that could not be served as asked")
    reply_topics: CommaSeparated = Field(("registration.replies*",), description="shell patterns of the reply topics that askers may name")

    # Deciding
    chain: Path | None = Field(None, description="manifest, folder or single action file; unset: actions/chain.toml")
    secrets_dir: Path | None = Field(None, description="folder with one file per secret, named as its environment variable")
    sync_threads: int = Field(64, ge=1, description="threads for plain `def` actions")
    mode: Literal["strict", "at_least_once"] = Field("strict", description="`at_least_once` replies without waiting for the ledger and gives up promises 1 and 3")
    default_timeout_ms: int = Field(30_000, ge=1, description="an asker's patience when it names none")
    max_timeout_ms: int = Field(120_000, ge=1, description="the longest patience an asker may name")
    max_queue_ms: int | None = Field(None, ge=1, description="deny `overloaded` after waiting longer than this; unset: never")
    max_event_bytes: int = Field(256 * 1024, ge=1, description="largest value of an attempt")
    window_ms: int = Field(120_000, ge=1, description="how far apart two attempts with one id may be and still share a decision")
    volatile_paths: CommaSeparated = Field(
        ("request.ip", "request.geoip", "request.user_agent", "security_context", "transaction", "authentication"),
        description="paths of the event that may differ between two attempts with one id without being a conflict",
    )

    # Worker
    group_id: str = Field("registration-gate", description="consumer group of the workers")
    worker_id: str | None = Field(None, description="name of this worker in the ledger; unset: host name and process id")
    max_in_flight: int = Field(1000, ge=1, description="attempts between being taken and their reply's acknowledgement")
    max_span: int = Field(50_000, ge=1, description="offsets between the oldest incomplete attempt of a partition and the newest taken")
    session_timeout_ms: int = Field(6000, ge=1, description="how long the group waits for a silent worker")
    commit_interval_ms: int = Field(250, ge=1, description="how often completed offsets are committed")
    shutdown_grace_s: float = Field(20.0, ge=0, description="how long SIGTERM waits for what is in flight")
    ledger_bodies: int = Field(50_000, ge=0, description="decisions kept whole in memory; above it they are read from the ledger when asked for again")
    ledger_entries_max: int = Field(2_000_000, ge=1, description="entries of the ledger table at which intake stops")

    # HTTP port and logs
    http_host: str = Field("127.0.0.1", description="address of /metrics, /healthz and /readyz")
    http_port: int = Field(9464, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0: any free one")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line that is written")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON lines")


def packaged(name: str) -> Path:
    """Return the path of data that ships with the gate, such as `kafka/pom.xml` or `actions`."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    if installed.exists():
        return installed
    root = package.parent  # an editable install: the repository itself
    return root / name if name.split("/")[0] == "actions" else root / "deploy" / name
