"""Loading a chain: all problems at once, each with file, line and mend; no secret in any of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gate.chain.loader import load_chain
from gate.chain.secrets import variable
from gate.errors import ChainError

ENTRY = "async def on_execute_pre_user_registration(event, api):\n    pass\n"


class Folder:
    """A folder with actions and perhaps a manifest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **files: str) -> Folder:
        for name, text in files.items():
            stem, _, suffix = name.rpartition("_")
            (self.path / f"{stem}.{suffix}").write_text(text)

        return self

    def problems(self, name: str = "", **options: Any) -> list[str]:
        with pytest.raises(ChainError) as caught:
            load_chain(self.path / name, environ=options.pop("environ", {}), **options)

        return [problem.replace(f"{self.path}/", "") for problem in caught.value.problems]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_manifest_a_folder_and_a_single_file_load(folder: Folder) -> None:
    folder.write(one_py=ENTRY, chain_toml='timeout_s = 7.5\n[[action]]\nname = "first"\nfile = "one.py"\n')

    for path in (folder.path, folder.path / "chain.toml"):
        chain = load_chain(path, environ={})
        assert (["first"], 7.5) == ([action.name for action in chain.actions], chain.timeout_s)

    single = load_chain(folder.path / "one.py", environ={})
    assert (["one"], 20.0) == ([action.name for action in single.actions], single.timeout_s)


def test_an_actions_entry_is_read_whole(folder: Folder) -> None:
    folder.write(
        one_py=ENTRY,
        chain_toml="""
        [[action]]
        file = "one.py"
        timeout_s = 0.5
        on_error = "skip"
        secrets = ["KEY"]
        when = { strategies = ["auth0"], countries = ["de"] }
        [action.config]
        list = [1, { a = "b" }]
        """,
    )
    action = load_chain(folder.path, environ={"GATE_SECRET_ONE_KEY": "v"}).actions[0]

    assert ("one", 0.5, "skip") == (action.name, action.timeout_s, action.on_error)
    assert ({"KEY": "v"}, {"list": [1, {"a": "b"}]}) == (action.secrets, action.config)
    assert action.when is not None
    assert (frozenset({"auth0"}), frozenset({"DE"})) == (action.when.strategies, action.when.countries)
    with pytest.raises(TypeError, match="read-only"):
        action.config["list"].append(2)


def test_all_problems_are_reported_at_once_with_file_and_line(folder: Folder) -> None:
    folder.write(
        one_py="x = 1\n",
        two_py="def f(:\n",
        chain_toml="""timeout_s = 0
timout = 3
[[action]]
name = "a b"
file = "one.py"
on_error = "ignore"
[[action]]
name = "two"
file = "two.py"
timeout_s = "5"
secrets = ["KEY"]
when = { country = ["DE"], countries = ["Germany"], clients = [], tenants = "t" }
[action.config]
day = 2026-01-01
[[action]]
file = "gone.py"
[[action]]
name = "x"
""",
    )

    assert [
        "chain.toml:2: unknown key timout; did you mean timeout_s?",
        "chain.toml:1: timeout_s must be a number of seconds above 0",
        "chain.toml:4: name must be 1 to 64 letters, digits, '-', '_' or '.', the first a letter or digit",
        'chain.toml:6: on_error must be "deny" or "skip"',
        "chain.toml:10: timeout_s must be a number of seconds above 0",
        "chain.toml:12: unknown key country; did you mean countries?",
        'chain.toml:12: when.tenants must be a list of texts, such as ["a", "b"]',
        "chain.toml:12: country 'GERMANY' must be two letters, as in ISO 3166-1 alpha-2",
        "chain.toml:12: when.clients is empty, so the action would never run; remove it or name some",
        "chain.toml:14: config.day must be plain: text, number, true, false, a list or a table of those",
        'chain.toml:17: file is missing; add file = "….py"',
        "one.py:1: no on_execute_pre_user_registration; define "
        "`async def on_execute_pre_user_registration(event: Event, api: Api) -> None`",
        "two.py:1: not Python: invalid syntax",
        "chain.toml:11: secret KEY of action two is missing; set GATE_SECRET_TWO_KEY, or GATE_SECRET_TWO_KEY_FILE to a file, "
        "or set GATE_SECRETS_DIR to a folder that holds it",
        "chain.toml:16: gone.py cannot be read: No such file or directory; paths are relative to the manifest",
    ] == folder.problems()


def test_a_manifest_that_is_not_toml_is_named_by_line(folder: Folder) -> None:
    assert ["chain.toml:2: not TOML: Invalid value"] == folder.write(chain_toml="timeout_s = 1\nx = \n").problems()


def test_a_manifest_that_is_not_text(folder: Folder) -> None:
    (folder.path / "chain.toml").write_bytes(b"\xff\xfe")

    assert ["chain.toml:1: not UTF-8; a manifest is a TOML file, an action's name ends in .py"] == folder.problems()


def test_a_path_that_is_not_there_says_what_to_name(folder: Folder) -> None:
    mend = "the chain cannot be read: No such file or directory; name a folder with chain.toml, a manifest, or an action's file"

    assert [f"chain.toml: {mend}"] == folder.problems()
    assert [f"none.py: {mend}"] == folder.problems("none.py")


def test_a_manifest_without_actions(folder: Folder) -> None:
    assert ["chain.toml:1: no action; add [[action]] with name and file"] == folder.write(chain_toml="").problems()
    assert ["chain.toml:1: action must be tables; write [[action]]"] == folder.write(chain_toml="action = 3").problems()


def test_a_name_is_given_once(folder: Folder) -> None:
    folder.write(one_py=ENTRY, chain_toml='[[action]]\nfile = "one.py"\n[[action]]\nfile = "one.py"\n')

    assert ["chain.toml:4: the name one is taken by the action on line 2; every action needs its own"] == folder.problems()


def test_a_chain_has_at_most_twenty_actions(folder: Folder) -> None:
    actions = [f'[[action]]\nname = "a{number}"\nfile = "one.py"\n' for number in range(21)]

    assert 20 == len(load_chain(folder.write(one_py=ENTRY, chain_toml="".join(actions[:20])).path, environ={}).actions)
    folder.write(chain_toml="".join(actions))
    assert ["chain.toml:61: 21 actions, more than 20; remove some or join them"] == folder.problems()


def test_an_action_in_another_language_is_refused(folder: Folder) -> None:
    folder.write(chain_toml='[[action]]\nfile = "one.rb"\n')

    assert ["chain.toml:2: one.rb is not an action; its name must end in .py"] == folder.problems()


SIGNATURE = "`async def on_execute_pre_user_registration(event: Event, api: Api) -> None`"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", f"1: no on_execute_pre_user_registration; define {SIGNATURE}"),
        (
            "async def onExecutePreUserRegistration(event, api): pass",
            f"1: no on_execute_pre_user_registration; define {SIGNATURE} (there is onExecutePreUserRegistration)",
        ),
        (
            "on_execute_pre_user_registration = 3",
            f"1: on_execute_pre_user_registration is not a function but int; define {SIGNATURE}",
        ),
        (
            "\nasync def on_execute_pre_user_registration(event): pass",
            f"2: on_execute_pre_user_registration must take two arguments, the event and the api: {SIGNATURE}",
        ),
        (
            "def on_execute_pre_user_registration(event, api, more): pass",
            f"1: on_execute_pre_user_registration must take two arguments, the event and the api: {SIGNATURE}",
        ),
        (
            "def on_execute_pre_user_registration(*, event, api): pass",
            f"1: on_execute_pre_user_registration must take two arguments, the event and the api: {SIGNATURE}",
        ),
        (
            "async def on_execute_pre_user_registration(event, api): yield",
            f"1: on_execute_pre_user_registration is a generator; remove its `yield`: {SIGNATURE}",
        ),
        (
            "def on_execute_pre_user_registration(event, api): yield",
            f"1: on_execute_pre_user_registration is a generator; remove its `yield`: {SIGNATURE}",
        ),
        ("\n\nimport sys\nsys.exit(1)", "4: raised SystemExit when it was loaded"),
        ("key = 'hunter22'\nraise ValueError(key)", "2: raised ValueError when it was loaded"),
        ("undefined_name", "1: raised NameError when it was loaded: name 'undefined_name' is not defined"),
        (
            'from gate import Messages\nMessages({"en": "Hello", "es": ""})',
            "2: raised MessagesError when it was loaded: the message in the language es is empty; "
            "write one or leave the language out",
        ),
        (
            "import no_such_package",
            "1: raised ModuleNotFoundError when it was loaded: No module named 'no_such_package'; "
            "install it beside the gate (shared code belongs in an installed package)",
        ),
        ("x = (", "1: not Python: '(' was never closed"),
        ("x = 1\x00", "1: not Python: source code string cannot contain null bytes"),
    ],
)
def test_a_file_that_is_no_action_is_named_with_its_line(folder: Folder, source: str, problem: str) -> None:
    assert [f"one.py:{problem}"] == folder.write(one_py=source).problems("one.py")


@pytest.mark.parametrize(
    ("source", "waits"),
    [
        ("async def on_execute_pre_user_registration(event, api): pass", False),
        ("async def on_execute_pre_user_registration(_event, api, extra=None): pass", False),
        ("async def on_execute_pre_user_registration(*args): pass", False),
        ("async def on_execute_pre_user_registration(event, api):\n    await api.http.get('')", True),
        ("async def on_execute_pre_user_registration(event, api):\n    async for _ in api: pass", True),
        ("async def on_execute_pre_user_registration(event, api):\n    async with api: pass", True),
        ("async def on_execute_pre_user_registration(event, api):\n    [x async for x in api]", True),
        ("async def on_execute_pre_user_registration(event, api):\n    async def inner(): await api", False),
        ("def on_execute_pre_user_registration(event, api): pass", True),
    ],
)
def test_an_action_that_can_never_suspend_is_known(folder: Folder, source: str, *, waits: bool) -> None:
    assert waits is load_chain(folder.write(one_py=source).path / "one.py", environ={}).actions[0].waits


def test_what_a_file_prints_when_it_is_loaded_is_not_on_stdout(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    load_chain(folder.write(one_py=ENTRY + "print('loaded')").path / "one.py", environ={})

    assert ("", "loaded\n") == capsys.readouterr()


def test_dataclasses_and_annotations_work_in_an_action(folder: Folder) -> None:
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n" + ENTRY
    )

    load_chain(folder.write(one_py=source).path / "one.py", environ={})


def test_two_versions_of_one_file_can_be_loaded_at_once(folder: Folder) -> None:
    first = load_chain(folder.write(one_py=ENTRY).path / "one.py", environ={})
    second = load_chain(folder.write(one_py=ENTRY + "\n# changed").path / "one.py", environ={})

    assert first.actions[0].version != second.actions[0].version
    assert first.hash != second.hash


def test_the_hash_covers_manifest_and_files_and_nothing_else(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> None:
    manifest = '[[action]]\nfile = "one.py"\nsecrets = ["KEY"]\n'
    folder.write(one_py=ENTRY, chain_toml=manifest)

    def hash_of(folder: Folder, secret: str = "v") -> str:
        return load_chain(folder.path, environ={"GATE_SECRET_ONE_KEY": secret}).hash

    before = hash_of(folder)
    copy = Folder(tmp_path_factory.mktemp("copy")).write(one_py=ENTRY, chain_toml=manifest)

    assert before.startswith("sha256:")
    assert len("sha256:") + 64 == len(before)
    assert before == hash_of(copy) == hash_of(folder, "other")
    assert before != hash_of(folder.write(one_py=ENTRY + "#"))
    assert before != hash_of(folder.write(one_py=ENTRY, chain_toml=manifest + "#"))


# -- Secrets ------------------------------------------------------------------------------------------------------------

SECRET_MANIFEST = '[[action]]\nname = "store-user.id"\nfile = "one.py"\nsecrets = ["USER_SERVICE-url"]\n'
VARIABLE = "GATE_SECRET_STORE_USER_ID_USER_SERVICE_URL"


def test_the_variable_of_a_secret_is_upper_case_with_other_characters_as_underscores() -> None:
    assert VARIABLE == variable("store-user.id", "USER_SERVICE-url")


@pytest.mark.parametrize("where", ["environment", "file", "folder"])
def test_a_secret_comes_from_the_environment_a_file_or_the_secrets_folder(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory, where: str
) -> None:
    folder.write(one_py=ENTRY, chain_toml=SECRET_MANIFEST)
    secrets = tmp_path_factory.mktemp("secrets")
    (secrets / (VARIABLE if where == "folder" else "other")).write_text("hunter22\n")
    environ = {"environment": {VARIABLE: "hunter22"}, "file": {f"{VARIABLE}_FILE": str(secrets / "other")}, "folder": {}}[where]

    chain = load_chain(folder.path, secrets_dir=secrets, environ=environ)

    assert "hunter22" == chain.actions[0].secrets["USER_SERVICE-url"]
    assert "hunter22" not in f"{chain!r} {chain.actions!r} {chain.actions[0].code!r} {chain.actions[0].secrets}"


def test_a_missing_secret_names_every_place_to_put_it(folder: Folder, tmp_path: Path) -> None:
    folder.write(one_py=ENTRY, chain_toml=SECRET_MANIFEST)

    assert [
        "chain.toml:4: secret USER_SERVICE-url of action store-user.id is missing; "
        f"set {VARIABLE}, or {VARIABLE}_FILE to a file, or put it into secrets/{VARIABLE}"
    ] == folder.problems(secrets_dir=tmp_path / "secrets")


def test_an_empty_variable_is_a_missing_secret(folder: Folder) -> None:
    folder.write(one_py=ENTRY, chain_toml=SECRET_MANIFEST)

    assert "is missing" in folder.problems(environ={VARIABLE: ""})[0]


def test_an_unreadable_secret_file_is_a_problem_that_shows_nothing_of_it(folder: Folder, tmp_path: Path) -> None:
    folder.write(one_py=ENTRY, chain_toml=SECRET_MANIFEST)
    (tmp_path / "bad").write_bytes(b"hunter22\xff")

    for name, reason in (("bad", "not UTF-8"), ("none", "No such file or directory")):
        problems = folder.problems(environ={f"{VARIABLE}_FILE": str(tmp_path / name)})
        assert [f"chain.toml:4: secret file {name} (named by {VARIABLE}_FILE) cannot be read: {reason}"] == problems


@pytest.mark.parametrize(
    ("first", "second"), [(("a", "B_C"), ("a-b", "C")), (("a", "K-1"), ("a", "K_1")), (("a", "K"), ("a", "K_FILE"))]
)
def test_two_secrets_that_would_read_one_variable_are_refused(folder: Folder, first: Any, second: Any) -> None:
    actions: dict[str, list[str]] = {}

    for name, key in (first, second):
        actions.setdefault(name, []).append(key)

    text = "".join(f'[[action]]\nname = "{name}"\nfile = "one.py"\nsecrets = {keys!r}\n' for name, keys in actions.items())
    folder.write(one_py=ENTRY, chain_toml=text)
    environ = {variable(*first): "1", variable(*second): "2"}

    assert any("would both be read from GATE_SECRET_A_" in problem for problem in folder.problems(environ=environ))


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "-" * 100_000 + "1\n",
        "x = " + "+".join(["1"] * 100_000) + "\n",
        "x = " + "[" * 10_000 + "]" * 10_000 + "\n",
        "import sys\ndel sys.modules[__name__]\nraise ValueError\n",
        "def __getattr__(name):\n    raise ValueError\n",
    ],
    ids=["deep", "long", "brackets", "unregistered", "getattr"],
)
def test_an_odd_file_is_a_problem_with_its_place_and_nothing_else(folder: Folder, source: str) -> None:
    (problem,) = folder.write(one_py=source).problems("one.py")

    assert problem.startswith("one.py:")


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000 + "]" * 5000], ids=["digits", "brackets"])
def test_an_odd_manifest_is_a_problem_and_nothing_else(folder: Folder, value: str) -> None:
    (problem,) = folder.write(one_py=ENTRY, chain_toml=f'[[action]]\nfile = "one.py"\nconfig = {{ x = {value} }}\n').problems()

    assert problem.startswith("chain.toml:1: cannot be read: ")


def test_a_chain_that_is_refused_leaves_no_module_behind(folder: Folder) -> None:
    before = set(sys.modules)
    folder.write(
        good_py=ENTRY, none_py="x = 1\n", wrong_py="def on_execute_pre_user_registration(): pass\n", bad_py="raise ValueError\n"
    )
    folder.write(chain_toml="".join(f'[[action]]\nfile = "{name}.py"\n' for name in ("good", "none", "wrong", "bad")))
    folder.problems()

    assert before == set(sys.modules)


def test_a_chain_that_is_released_leaves_no_module_behind_though_its_entry_point_names_another(folder: Folder) -> None:
    before = set(sys.modules)
    folder.write(one_py=ENTRY + "on_execute_pre_user_registration.__module__ = None\n")
    load_chain(folder.path / "one.py", environ={}).release()

    assert before == set(sys.modules)


def test_an_empty_secret_file_is_refused_as_an_empty_variable_is(folder: Any, tmp_path: Path) -> None:
    folder.write(one_py=ENTRY, chain_toml='[[action]]\nfile = "one.py"\nsecrets = ["KEY"]\n')
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "GATE_SECRET_ONE_KEY").write_text("\n")

    with pytest.raises(ChainError, match=r"GATE_SECRET_ONE_KEY \(in the secrets folder\) is empty; write the secret into it"):
        load_chain(folder.path, secrets_dir=secrets, environ={})


def test_the_text_of_an_import_error_is_shown_only_where_the_import_statement_wrote_it(folder: Any) -> None:
    typo = folder.write(one_py="from gate import Evnt\n").path / "one.py"
    with pytest.raises(ChainError, match="cannot import name 'Evnt' from 'gate'"):
        load_chain(typo, environ={})

    own = folder.write(one_py="raise ImportError('hunter22')\n").path / "one.py"
    with pytest.raises(ChainError) as caught:
        load_chain(own, environ={})
    assert "hunter22" not in str(caught.value)
