from pathlib import Path

import pytest

from gate.config import CROSS_CHECKS, Settings, load, load_sources, packaged
from gate.errors import ConfigError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has no gate.toml."""
    monkeypatch.chdir(tmp_path)


def problems(**sources: object) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(**{"environ": {}, **sources})
    return list(raised.value.problems)


def test_nothing_given_is_the_defaults() -> None:
    assert Settings() == load(environ={})


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("http_port = 1\nmax_in_flight = 1\nwindow_ms = 1\n")

    settings, sources = load_sources(
        {"http_port": 3, "max_in_flight": None}, environ={"GATE_HTTP_PORT": "2", "GATE_MAX_IN_FLIGHT": "2"}
    )

    assert (3, 2, 1) == (settings.http_port, settings.max_in_flight, settings.window_ms)
    assert {"http_port": "flag", "max_in_flight": "environment", "window_ms": "gate.toml"} == sources


def test_the_constructor_does_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_HTTP_PORT", "1")

    assert 9464 == Settings().http_port


def test_all_problems_of_all_sources_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text('htp_port = 1\nwindow_ms = "soon"\n')

    found = problems(
        flags={"mode": "stric"}, environ={"GATE_CHIAN": "x", "GATE_HTTP_PORT": "99999", "GATE_DEFAULT_TIMEOUT_MS": "200000"}
    )

    assert sorted(
        [
            "htp_port (gate.toml): there is no such setting; did you mean http_port?",
            "window_ms (gate.toml): 'soon' is not a whole number; give at least 1, or leave it out for 120000",
            "mode (flag): 'stric' is none of the choices; choose one of strict, at_least_once, or leave it out for strict",
            "GATE_CHIAN (environment): there is no such setting; did you mean GATE_CHAIN?",
            "GATE_HTTP_PORT (environment): '99999' is too large; give at least 0 and at most 65535, or leave it out for 9464",
            "GATE_DEFAULT_TIMEOUT_MS (environment): the default patience is longer than the longest one allowed; "
            "raise max_timeout_ms or lower default_timeout_ms",
        ]
    ) == sorted(found)


def test_comma_separated_and_list_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text('reply_topics = ["a", "b*"]\n')

    assert ("a", "b*") == load(environ={}).reply_topics
    assert ("a", "b*") == load(environ={"GATE_REPLY_TOPICS": " a, b*,"}).reply_topics


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings() == load(environ={"GATE_CHAIN": "", "GATE_HTTP_PORT": ""})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATE_SECRET_STORE_USER_ID_URL", "http://127.0.0.1"),
        ("GATE_SERVICE_HOST", "10.0.0.1"),
        ("GATE_PORT", "tcp://10.0.0.1:9464"),
        ("GATE_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ("GATE_WORKER_SERVICE_PORT_HTTP", "9464"),
        ("PATH", "/bin"),
    ],
)
def test_variables_that_are_no_settings_of_ours_are_left_alone(variable: str, value: str) -> None:
    assert Settings() == load(environ={variable: value})


@pytest.mark.parametrize("content", [b"http_port = ", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gate.toml").write_bytes(content)

    assert 1 == len(problems())


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert [f"{tmp_path}/no.toml: cannot be read: No such file or directory"] == problems(file=tmp_path / "no.toml")


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/gate.toml").write_text('chain = "actions/chain.toml"\n')

    assert tmp_path / "etc/actions/chain.toml" == load(environ={}, file=tmp_path / "etc/gate.toml").chain
    assert Path("actions") == load(environ={"GATE_CHAIN": "actions"}).chain


def test_secrets_are_never_shown() -> None:
    settings = load(environ={"GATE_SASL_PASSWORD": "hush", "GATE_SASL_USERNAME": "u", "GATE_SECURITY_PROTOCOL": "SASL_SSL"})
    found = problems(flags={"sasl_password": 5}, environ={"GATE_SSL_PASSWORD": "hush"})

    assert "hush" not in repr(settings)
    assert "5" not in "".join(found)
    assert "hush" not in "".join(found)


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_USERNAME": "u"}, "PLAIN and SCRAM need sasl_username and sasl_password"),
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER"}, "OAUTHBEARER needs sasl_oauth_token_file"),
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "GSSAPI"}, "GSSAPI needs the Python package gssapi"),
        ({"SASL_USERNAME": "u", "SASL_PASSWORD": "p"}, "security_protocol does not use SASL"),
        ({"SSL_PASSWORD": "p"}, "security_protocol does not use TLS"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_KEYFILE": __file__}, "a private key without its certificate"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_CAFILE": "/no/such.pem"}, "there is no such file"),
        ({"DLQ_TOPIC": "registration.attempts"}, "two of the four topics have the same name"),
        ({"DEFAULT_TIMEOUT_MS": "10", "MAX_TIMEOUT_MS": "9"}, "the default patience is longer"),
        ({"BOOTSTRAP_SERVERS": "kafka://a:9092"}, "has a scheme"),
        ({"BOOTSTRAP_SERVERS": "a:9092,b"}, "is not host:port"),
        ({"ATTEMPTS_TOPIC": ".."}, "is not a legal topic name"),
    ],
)
def test_what_does_not_fit_together_is_refused(environ: dict[str, str], problem: str) -> None:
    found = problems(environ={f"GATE_{name}": value for name, value in environ.items()})

    assert [True] == [problem in line for line in found], found


def test_a_rule_is_not_looked_at_where_one_of_its_settings_is_wrong_by_itself() -> None:
    assert 1 == len(problems(environ={"GATE_DEFAULT_TIMEOUT_MS": "soon", "GATE_MAX_TIMEOUT_MS": "1"}))


def test_every_cross_check_names_settings_and_holds_for_the_defaults() -> None:
    for check in CROSS_CHECKS:
        assert set(check.settings) <= Settings.model_fields.keys()
        assert check.holds(Settings())


def test_every_setting_has_a_description() -> None:
    assert [] == [name for name, field in Settings.model_fields.items() if not field.description]


@pytest.mark.parametrize("name", ["actions", "kafka/pom.xml"])
def test_packaged_data_is_there(name: str) -> None:
    assert packaged(name).exists()
