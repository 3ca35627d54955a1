"""The sample actions do what their first lines say, one by one and as the sample chain."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gate.chain.loader import load_chain
from gate.chain.runner import Chain
from gate.chain.texts import load_texts
from gate.chain.trial import run_trial
from gate.errors import ChainError
from gate.model.decision import Cause
from gate.testing import Case, assert_expected, load_cases, run_chain

ACTIONS = Path(__file__).parents[3] / "actions"
SECRET = "GATE_SECRET_STORE_USER_ID_USER_SERVICE_URL"
NOBODY = "http://127.0.0.1:9/users"


def chain(url: str = NOBODY) -> Chain:
    return load_chain(ACTIONS, environ={SECRET: url})


def attempt(**changes: Any) -> dict[str, Any]:
    return {
        "connection": {"strategy": "auth0"},
        "request": {"geoip": {"continentCode": "EU"}},
        "user": {"email": "ana@example.org"},
        **changes,
    }


def outcomes(reply: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["outcome"] for entry in reply["trace"]}


async def test_an_ordinary_attempt_is_approved_with_a_screen_name_and_leaves_the_process_alone() -> None:
    reply = await run_trial(chain(), attempt(user={"email": "ana@example.org", "user_metadata": {"old": 1}}))

    assert ("approved", {"old": 1, "screen_name": "ana"}) == (reply["status"], reply["user_metadata"])
    assert {
        "deny-by-location": "ran",
        "deny-by-fingerprint": "ran",
        "set-metadata": "ran",
        "store-user-id": "not_matched",
    } == outcomes(reply)
    assert not any(action.waits for action in chain().actions if action.when is None)


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("en", "You cannot register from where you are."),
        ("es", "No puedes registrarte desde donde estás."),
        ("es-MX", "No puedes registrarte desde donde estás."),
        ("pt-BR,pt;q=0.9,en;q=0.8", "O registo não está disponível no lugar onde está."),
        ("fr", "You cannot register from where you are."),
        (None, "You cannot register from where you are."),
    ],
)
async def test_north_america_is_denied_in_the_persons_language(language: str | None, message: str) -> None:
    reply = await run_trial(chain(), attempt(request={"geoip": {"continentCode": "NA"}, "language": language}))

    assert {
        "cause": "access_denied",
        "reason": "no_signups_from_north_america",
        "user_message": message,
        "action": "deny-by-location",
        "errors": [],
    } == reply["denial"]


@pytest.mark.parametrize("geoip", [None, {}, {"continentCode": "SA"}])
async def test_from_elsewhere_or_nobody_knows_where_is_not_denied(geoip: Any) -> None:
    assert "approved" == (await run_trial(chain(), attempt(request={"geoip": geoip})))["status"]


@pytest.mark.parametrize(
    "context", [{"ja3": "0b5d4c1a9e3f72865d0c4b1fe2a79d38"}, {"ja3": "x", "ja4": "t13d1812h2_5b1f0c9ad7e2_3c8e64f01b9a"}]
)
async def test_a_fingerprint_on_the_list_is_denied_and_named_in_the_trace(context: dict[str, str]) -> None:
    reply = await run_trial(chain(), attempt(security_context=context))

    assert ("access_denied", "suspicious_tls_fingerprint", "deny-by-fingerprint") == (
        reply["denial"]["cause"],
        reply["denial"]["reason"],
        reply["denial"]["action"],
    )
    assert reply["trace"][1]["logs"][0].startswith("INFO: on the list: ja3=")


async def test_a_browser_that_is_not_trusted_is_told_so_in_its_language() -> None:
    context = {"ja3": "0b5d4c1a9e3f72865d0c4b1fe2a79d38"}

    reply = await run_trial(chain(), attempt(security_context=context, request={"language": "de-AT"}))

    assert reply["denial"]["user_message"].startswith("Diesem Browser")


@pytest.mark.parametrize("context", [None, {}, {"ja3": "x", "ja4": "y"}])
async def test_no_fingerprint_or_another_is_not_denied(context: Any) -> None:
    assert "approved" == (await run_trial(chain(), attempt(security_context=context)))["status"]


@pytest.mark.parametrize(
    ("user", "metadata"),
    [
        ({"nickname": "nick", "username": "name", "email": "a@b"}, {"screen_name": "nick"}),
        ({"username": "name", "email": "a@b"}, {"screen_name": "name"}),
        ({"email": "a@b"}, {"screen_name": "a"}),
        ({"phone_number": "+33000"}, {}),
    ],
)
async def test_the_screen_name_is_the_best_name_there_is(user: dict[str, str], metadata: dict[str, str]) -> None:
    assert metadata == (await run_trial(chain(), attempt(user=user)))["user_metadata"]


async def test_passwordless_users_get_no_metadata_but_a_warning() -> None:
    reply = await run_trial(chain(), attempt(connection={"strategy": "email"}))

    assert ("approved", {}) == (reply["status"], reply["user_metadata"])
    assert ["passwordless_metadata_dropped"] == [entry["code"] for entry in reply["warnings"]]


class UserService:
    """The other system: answers every request with the bytes it is given."""

    url = ""
    request = ""
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"id": "42"}'

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.write(self.answer)
        writer.close()


@pytest.fixture
async def service() -> AsyncIterator[UserService]:
    service = UserService()
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/users"
    yield service
    server.close()


PORTAL = {"client": {"client_id": "partner-portal"}}


async def test_the_remote_id_is_stored(service: UserService) -> None:
    reply = await run_trial(chain(service.url), attempt(**PORTAL), attempt_id="a-7")

    assert ("approved", {"remote_user_id": "42"}) == (reply["status"], reply["app_metadata"])
    assert service.request.startswith("GET /users?email=ana%40example.org ")
    assert "idempotency-key: a-7" in service.request.lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno!",
        b"",
    ],
)
async def test_whatever_else_the_service_answers_is_a_validation_error(service: UserService, answer: bytes) -> None:
    service.answer = answer

    reply = await run_trial(chain(service.url), attempt(**PORTAL))

    assert ("validation_error", "user_service_failed") == (reply["denial"]["cause"], reply["denial"]["reason"])


async def test_a_service_that_is_down_is_a_validation_error_that_shows_no_secret() -> None:
    reply = await run_trial(chain(), attempt(**PORTAL))

    assert "validation_error" == reply["denial"]["cause"]
    assert NOBODY not in str(reply)


def test_without_its_secret_the_sample_chain_says_what_to_set() -> None:
    with pytest.raises(ChainError, match=f"secret USER_SERVICE_URL of action store-user-id is missing; set {SECRET}"):
        load_chain(ACTIONS, environ={})


# -- actions/README.md --------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ACTIONS / "README.md").read_text(), re.DOTALL)


async def test_the_readmes_action_works(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(blocks("python")[0])

    reply = await run_trial(load_chain(tmp_path / "one.py", environ={}), attempt(user={"email": "a@mailinator.example"}))

    assert "throw_away_address" == reply["denial"]["reason"]


async def test_the_readmes_manifest_loads(tmp_path: Path) -> None:
    (tmp_path / "chain.toml").write_text(blocks("toml")[0])
    (tmp_path / "store_user_id.py").write_bytes((ACTIONS / "store_user_id.py").read_bytes())

    assert ["store-user-id"] == [action.name for action in load_chain(tmp_path, environ={SECRET: "x"}).actions]


def test_the_readmes_texts_load(tmp_path: Path) -> None:
    (tmp_path / "texts.toml").write_text(blocks("toml")[1])
    texts = load_texts(tmp_path / "texts.toml")

    assert texts is not None
    assert "a tiempo" in texts.for_document({"request": {"language": "es"}})[Cause.EXPIRED]


@pytest.mark.parametrize("block", blocks("python")[1:], ids=["cases and assertions", "a server of the test"])
def test_the_readmes_tests_pass(block: str, tmp_path: Path) -> None:
    (tmp_path / "actions").symlink_to(ACTIONS)
    (tmp_path / "test_readme_block.py").write_text(block)
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]

    done = subprocess.run([sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout
    assert re.search(r"^[1-9][0-9]* passed", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("case", load_cases(ACTIONS / "cases"), ids=str)
async def test_the_sample_case_holds(case: Case) -> None:
    assert_expected(await run_chain(chain(), case), case)


def test_the_sample_cases_name_only_actions_of_the_sample_chain() -> None:
    assert 11 == len(load_cases(ACTIONS / "cases", actions=[action.name for action in chain().actions]))
