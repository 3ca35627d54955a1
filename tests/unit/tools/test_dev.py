import os
from pathlib import Path

import httpx
import orjson
import pytest

from gate.config import Settings, packaged
from gate.errors import ConfigError
from gate.model.decision import Cause, Decision, Denial, Status
from gate.tools.ask import LISBON
from gate.tools.demo import BAD_FINGERPRINT, CASES, PARTNER_PORTAL, Answer, Case
from gate.tools.dev import DEV_FILE, _write_dev_file, refuse_second, sample_chain_or
from gate.tools.user_service import UserService, user_id


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_second_dev_in_the_same_folder_is_refused_while_the_first_one_lives() -> None:
    remove = _write_dev_file("127.0.0.1:1", 2)

    with pytest.raises(ConfigError, match=rf"runs in this folder already \(process {os.getpid()}, Kafka at 127\.0\.0\.1:1\)"):
        refuse_second()

    remove()
    refuse_second()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"pid": "x"}', b'{"pid": 99999999, "bootstrap": "127.0.0.1:1"}'])
def test_what_a_killed_dev_has_left_is_no_obstacle(content: bytes) -> None:
    DEV_FILE.parent.mkdir()
    DEV_FILE.write_bytes(content)

    refuse_second()


def test_the_file_says_where_everything_is_and_goes_away_with_its_folder() -> None:
    remove = _write_dev_file("127.0.0.1:1", 2)

    assert {"bootstrap": "127.0.0.1:1", "pid": os.getpid(), "http_port": 2} == orjson.loads(DEV_FILE.read_bytes())

    remove()
    assert not DEV_FILE.parent.exists()


def test_a_folder_that_holds_more_stays() -> None:
    remove = _write_dev_file("127.0.0.1:1", 2)
    (DEV_FILE.parent / "kept").touch()

    remove()

    assert {"kept", ".gitignore"} == {path.name for path in DEV_FILE.parent.iterdir()}


def test_the_samples_are_the_fallback() -> None:
    samples = packaged("actions") / "chain.toml"

    assert (samples, True) == sample_chain_or(Settings())
    assert (Path("my.py"), False) == sample_chain_or(Settings(chain=Path("my.py")))

    Path("actions").mkdir()
    Path("actions/chain.toml").touch()
    assert (Path("actions/chain.toml"), False) == sample_chain_or(Settings())


def test_the_samples_are_known_as_such_in_their_own_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(packaged("actions").parent)

    assert sample_chain_or(Settings())[1]


async def test_the_user_service_is_refused_while_it_is_down_and_answers_while_it_is_up() -> None:
    service = UserService()
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(service.url, params={"email": "a@b.example"})

            async with service:
                known = await client.get(service.url, params={"email": "a@b.example"})
                missing = await client.get(service.url)
    finally:
        service.close()

    assert {"id": user_id("a@b.example")} == known.json()
    assert 400 == missing.status_code


def test_a_case_changes_only_what_it_says() -> None:
    plain = Case(email="a@b.example", place=LISBON, story="", cause=None).event()
    changed = Case(email="a@b.example", place=LISBON, story="", cause=None, changes={"connection": {"strategy": "sms"}}).event()

    assert {**plain, "connection": {**plain["connection"], "strategy": "sms"}} == changed


def test_the_demo_knows_what_the_sample_chain_looks_at() -> None:
    manifest = (packaged("actions") / "chain.toml").read_text()

    assert f'ja4 = ["{BAD_FINGERPRINT}"]' in manifest
    assert f'clients = ["{PARTNER_PORTAL["client"]["name"]}"]' in manifest


def test_the_demo_shows_every_case_of_the_page_it_started_from() -> None:
    assert [None, Cause.ACCESS_DENIED, Cause.ACCESS_DENIED, Cause.VALIDATION_ERROR, Cause.ACCESS_DENIED, None, None] == [
        case.cause for case in CASES
    ]
    assert CASES[3].event() == CASES[5].event()
    assert [False, True] == [CASES[3].service_up, CASES[5].service_up]


def test_an_answer_that_is_not_the_expected_one_is_noticed() -> None:
    denial = Denial(cause=Cause.TIMED_OUT, reason="timed_out")
    denied = Decision(attempt_id="a", status=Status.DENIED, denial=denial)
    approved = Decision(attempt_id="a", status=Status.APPROVED)

    assert [True, False] == [Answer(case=CASES[0], decision=decision, took_s=0).as_expected for decision in (approved, denied)]
    assert [False, False] == [Answer(case=CASES[1], decision=decision, took_s=0).as_expected for decision in (approved, denied)]
