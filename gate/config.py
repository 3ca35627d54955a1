"""Settings: from flags, then environment (`GATE_…`), then `gate.toml`, then the defaults below.

This is the one module that reads the environment. `load()` reports everything that is wrong in one ConfigError, each
problem with the setting, where it came from, what is wrong and how to mend it. Values of secret settings are never
part of a message.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from gate.errors import ConfigError

PREFIX = "GATE_"
SECRET_PREFIX = "GATE_SECRET_"  # noqa: S105 - the prefix of action secrets (DESIGN.md section 3), not one of them
FILE = Path("gate.toml")
DEFAULT_CHAIN = Path("actions/chain.toml")

_KUBERNETES = re.compile(r"GATE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
"""What Kubernetes puts into every container beside a service named `gate` or `gate-…`; not settings."""


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _topic(name: str) -> str:
    if not re.fullmatch(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}", name):
        raise ValueError("is not a legal topic name; use up to 249 letters, digits, dots, underscores and hyphens")
    return name


def _addresses(value: str) -> str:
    for address in value.split(","):
        host, _, port = address.strip().rpartition(":")
        if "://" in address:
            raise ValueError("has a scheme; give host:port alone")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError("is not host:port; give one or more of them, comma-separated")
    return value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]
TopicName = Annotated[str, AfterValidator(_topic)]
Addresses = Annotated[str, AfterValidator(_addresses)]


class Settings(BaseModel):
    """All settings. Times are milliseconds where the name ends in `_ms`, seconds where it ends in `_s`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Kafka
    bootstrap_servers: Addresses | None = Field(
        None, description="host:port, comma-separated; unset: the broker of a running `gate dev`, else localhost:9092"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to the brokers"
    )
    ssl_cafile: Path | None = Field(None, description="PEM file with the authorities to trust; unset: the system's")
    ssl_certfile: Path | None = Field(None, description="PEM file with our certificate, for mutual TLS")
    ssl_keyfile: Path | None = Field(None, description="PEM file with our private key")
    ssl_password: SecretStr | None = Field(None, description="password of the private key")
    ssl_check_hostname: bool = Field(True, description="whether the broker's certificate must carry its host name")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"] = Field(
        "PLAIN", description="used with SASL_PLAINTEXT and SASL_SSL"
    )
    sasl_username: str | None = Field(None, description="user name for PLAIN and SCRAM")
    sasl_password: SecretStr | None = Field(None, description="password for PLAIN and SCRAM")
    sasl_oauth_token_file: Path | None = Field(
        None, description="file with the bearer token for OAUTHBEARER, read anew whenever one is needed"
    )
    sasl_kerberos_service_name: str = Field("kafka", description="service name for GSSAPI")
    sasl_kerberos_domain_name: str | None = Field(None, description="domain name for GSSAPI")
    connect_timeout_s: float = Field(
        15.0, gt=0, description="how long a command waits at start for a broker that does not answer"
    )

    # Topics
    attempts_topic: TopicName = Field("registration.attempts", description="where attempts come in")
    decisions_topic: TopicName = Field(
        "registration.decisions", description="the ledger; as many partitions as the attempts topic"
    )
    replies_topic: TopicName = Field("registration.replies", description="where replies go when the asker names no topic")
    dlq_topic: TopicName = Field("registration.attempts.dlq", description="where attempts go that could not be served as asked")
    reply_topics: CommaSeparated = Field(
        ("registration.replies*",), description="shell patterns of the reply topics that askers may name"
    )

    # Deciding
    chain: Path | None = Field(None, description="manifest, folder or single action file; unset: actions/chain.toml")
    secrets_dir: Path | None = Field(None, description="folder with one file per secret, named as its environment variable")
    watch_chain: bool = Field(
        False, description="whether to load the chain anew when a file of it changes; SIGHUP does so at any time"
    )
    set_user_id: bool = Field(False, description="whether actions may choose the user's id with api.user.set_user_id")
    messages: Path | None = Field(
        None, description="TOML file with the texts for persons, by language and cause; unset: the built-in English ones"
    )
    sync_threads: int = Field(64, ge=1, description="threads for plain `def` actions")
    mode: Literal["strict", "at_least_once"] = Field(
        "strict", description="`at_least_once` replies without waiting for the ledger; a crash may then decide again"
    )
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
    max_span: int = Field(
        50_000, ge=1, description="offsets between the oldest incomplete attempt of a partition and the newest taken"
    )
    session_timeout_ms: int = Field(6000, ge=1, description="how long the group waits for a silent worker")
    commit_interval_ms: int = Field(250, ge=1, description="how often completed offsets are committed")
    shutdown_grace_s: float = Field(20.0, ge=0, description="how long SIGTERM waits for what is in flight")
    ledger_bodies: int = Field(
        50_000, ge=0, description="decisions kept whole in memory; above it they are read from the ledger when asked for again"
    )
    ledger_entries_max: int = Field(2_000_000, ge=1, description="entries of the ledger table at which intake stops")

    # HTTP port and logs
    http_host: str = Field("127.0.0.1", description="address of /metrics, /healthz and /readyz")
    http_port: int = Field(9464, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0: any free one")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line that is written")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON lines")

    @property
    def chain_path(self) -> Path:
        """The chain to load: the one that is set, else `actions/chain.toml`."""
        return self.chain or DEFAULT_CHAIN


class SettingsError(ConfigError):
    """Settings are wrong; `usable` has those that are right, to look for more problems with."""

    def __init__(self, problems: Sequence[str], usable: Settings) -> None:
        super().__init__(problems)
        self.usable = usable


def load(
    flags: Mapping[str, object] | None = None, *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings; raise one SettingsError with every problem. The arguments are those of `load_sources()`."""
    return load_sources(flags, file=file, environ=environ)[0]


def load_sources(
    flags: Mapping[str, object] | None = None, *, file: Path | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Return the settings and, for each that is no default, where it came from.

    `flags` are those of the command line by the name of their setting; None is one that was not given. `file` must
    exist where it is named; without it `gate.toml` in the working directory is read if there is one. An empty
    environment variable counts as unset. Paths in the file are relative to the file.
    """
    problems: list[str] = []
    given: dict[str, _Given] = {}

    for value in (
        *_from_file(file, problems),
        *_from_environment(os.environ if environ is None else environ, problems),
        *_from_flags(flags or {}, problems),
    ):
        given[value.setting] = value

    settings, wrong = _validated({name: value.value for name, value in given.items()})
    problems += [_explain(error, given[str(error["loc"][0])]) for error in wrong]
    unsure = {str(error["loc"][0]) for error in wrong}

    for check in CROSS_CHECKS:
        if unsure.isdisjoint(check.settings) and not check.holds(settings):
            culprits = [given[name].label for name in check.settings if name in given]
            problems.append(f"{', '.join(culprits or check.settings)}: {check.problem}")

    if problems:
        raise SettingsError(problems, settings)

    return settings, {name: value.source for name, value in given.items()}


def action_secrets() -> dict[str, str]:
    """Return the environment variables from which actions take their secrets (DESIGN.md section 3)."""
    return {name: value for name, value in os.environ.items() if name.startswith(SECRET_PREFIX)}


def packaged(name: str) -> Path:
    """Return the path of data that is shipped with the package: `kafka/pom.xml` or `actions`."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.exists() else package.parent / (name if name == "actions" else f"deploy/{name}")


# -- Reading the sources ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """A value somebody gave to a setting."""

    setting: str
    value: object
    written: str  # the setting's name as it is written there
    source: str

    @property
    def label(self) -> str:
        return f"{self.written} ({self.source})"


def _from_file(file: Path | None, problems: list[str]) -> Iterator[_Given]:
    path = FILE if file is None else file
    if file is None and not path.is_file():
        return

    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return
    except UnicodeDecodeError:
        problems.append(f"{path}: is not UTF-8 text; save it as UTF-8")
        return
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{path}: is not TOML: {error}")
        return

    for name, value in table.items():
        if name not in Settings.model_fields:
            problems.append(f"{name} ({path}): there is no such setting{_did_you_mean(name)}")
        else:
            # Where the file stands is what its author sees; the working directory is chance.
            is_path = isinstance(value, str) and Path in _types(name)
            yield _Given(setting=name, value=path.parent / str(value) if is_path else value, written=name, source=str(path))


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[_Given]:
    for variable in sorted(environ):
        value = environ[variable]
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or variable.startswith(SECRET_PREFIX) or not value:
            continue

        if name in Settings.model_fields and variable.isupper():
            yield _Given(setting=name, value=value, written=variable, source="environment")
        elif not (_KUBERNETES.fullmatch(variable) or value.startswith(("tcp://", "udp://"))):
            problems.append(
                f"{variable} (environment): there is no such setting{_did_you_mean(name, lambda field: PREFIX + field.upper())}"
            )


def _from_flags(flags: Mapping[str, object], problems: list[str]) -> Iterator[_Given]:
    for name, value in flags.items():
        if name not in Settings.model_fields:
            problems.append(f"{name} (flag): there is no such setting{_did_you_mean(name)}")
        elif value is not None:
            yield _Given(setting=name, value=value, written=name, source="flag")


def _did_you_mean(name: str, spell: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(name.lower(), Settings.model_fields, n=1)
    return f"; did you mean {spell(close[0])}?" if close else "; `gate config` lists them"


# -- Saying what is wrong -----------------------------------------------------------------------------------------------


def _validated(values: dict[str, object]) -> tuple[Settings, list[ErrorDetails]]:
    """Return the settings made of the values that are right, and what is wrong with the others."""
    try:
        return Settings.model_validate(values), []
    except ValidationError as error:
        wrong = error.errors()
        bad = {str(detail["loc"][0]) for detail in wrong}
        return Settings.model_validate({name: value for name, value in values.items() if name not in bad}), wrong


_PROBLEMS = {
    "int_parsing": "is not a whole number",
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "string_type": "is not text; put it in quotation marks",
    "path_type": "is not text; put it in quotation marks",
    "tuple_type": "is not a list",
    "greater_than": "is too small",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "literal_error": "is none of the choices",
}
"""Pydantic's error types in words for whoever runs the gate."""


def _explain(error: ErrorDetails, given: _Given) -> str:
    field = Settings.model_fields[given.setting]
    shown = (
        "the value"
        if SecretStr in _types(given.setting)
        else repr(error["input"] if len(error["loc"]) > 1 else _plain(given.value))
    )

    if error["type"] == "value_error":
        return f"{given.label}: {shown} {error['ctx']['error']}"

    problem = _PROBLEMS.get(error["type"], f"is not valid ({error['msg']})")
    mends = [part for part in (_range(given.setting), _choices(given.setting)) if part]
    mends.append("leave it out" if field.default is None else f"leave it out for {_shown(field.default)}")
    return f"{given.label}: {shown} {problem}; {', or '.join(mends)}"


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _shown(default: object) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _types(setting: str) -> tuple[Any, ...]:
    annotation = Settings.model_fields[setting].annotation
    return get_args(annotation) or (annotation,)


def _range(setting: str) -> str:
    parts = []
    for limit in Settings.model_fields[setting].metadata:
        if isinstance(limit, Gt):
            parts.append(f"above {limit.gt}")
        elif isinstance(limit, Ge):
            parts.append(f"at least {limit.ge}")
        elif isinstance(limit, Le):
            parts.append(f"at most {limit.le}")
    return f"give {' and '.join(parts)}" if parts else ""


def _choices(setting: str) -> str:
    choices = [choice for choice in _types(setting) if isinstance(choice, str)]
    return f"choose one of {', '.join(choices)}" if choices else ""


# -- Checks across settings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """A rule that several settings must keep together; not looked at where one of them is wrong by itself."""

    settings: tuple[str, ...]
    holds: Callable[[Settings], bool]
    problem: str


def _is_sasl(settings: Settings) -> bool:
    return settings.security_protocol.startswith("SASL_")


def _is_ssl(settings: Settings) -> bool:
    return settings.security_protocol.endswith("SSL")


def _readable(name: str) -> CrossCheck:
    def holds(settings: Settings) -> bool:
        path: Path | None = getattr(settings, name)
        return path is None or os.access(path, os.R_OK)

    return CrossCheck((name,), holds, "there is no such file, or it may not be read")


_SASL = ("sasl_username", "sasl_password", "sasl_oauth_token_file")
_SSL = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_password")
_TOPICS = ("attempts_topic", "decisions_topic", "replies_topic", "dlq_topic")

CROSS_CHECKS = (
    CrossCheck(
        ("default_timeout_ms", "max_timeout_ms"),
        lambda s: s.default_timeout_ms <= s.max_timeout_ms,
        "the default patience is longer than the longest one allowed; raise max_timeout_ms or lower default_timeout_ms",
    ),
    CrossCheck(
        _TOPICS,
        lambda s: len({getattr(s, name) for name in _TOPICS}) == len(_TOPICS),
        "two of the four topics have the same name; give each its own",
    ),
    CrossCheck(
        ("security_protocol", "sasl_mechanism", "sasl_username", "sasl_password"),
        lambda s: (
            not _is_sasl(s)
            or s.sasl_mechanism in ("GSSAPI", "OAUTHBEARER")
            or (s.sasl_username is not None and s.sasl_password is not None)
        ),
        "PLAIN and SCRAM need sasl_username and sasl_password; set both",
    ),
    CrossCheck(
        ("security_protocol", "sasl_mechanism", "sasl_oauth_token_file"),
        lambda s: not _is_sasl(s) or s.sasl_mechanism != "OAUTHBEARER" or s.sasl_oauth_token_file is not None,
        "OAUTHBEARER needs sasl_oauth_token_file; name the file that holds the token",
    ),
    CrossCheck(
        ("security_protocol", "sasl_mechanism"),
        lambda s: not _is_sasl(s) or s.sasl_mechanism != "GSSAPI" or importlib.util.find_spec("gssapi") is not None,
        "GSSAPI needs the Python package gssapi; install it beside the gate",
    ),
    CrossCheck(
        ("security_protocol", *_SASL),
        lambda s: _is_sasl(s) or all(getattr(s, name) is None for name in _SASL),
        "credentials are given, but security_protocol does not use SASL; choose SASL_SSL, or SASL_PLAINTEXT",
    ),
    CrossCheck(
        ("security_protocol", *_SSL),
        lambda s: _is_ssl(s) or all(getattr(s, name) is None for name in _SSL),
        "TLS files are given, but security_protocol does not use TLS; choose SSL or SASL_SSL",
    ),
    CrossCheck(
        ("ssl_certfile", "ssl_keyfile"),
        lambda s: s.ssl_keyfile is None or s.ssl_certfile is not None,
        "a private key without its certificate; set ssl_certfile",
    ),
    *map(_readable, ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "sasl_oauth_token_file", "secrets_dir")),
)
