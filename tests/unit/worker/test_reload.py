"""A chain is changed whole or not at all, and says which."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict

from gate.chain.loader import chain_files, load_chain
from gate.chain.runner import Chain
from gate.metrics import Metrics
from gate.worker import reload
from gate.worker.reload import ChainReloader

GOOD = "async def on_execute_pre_user_registration(event, api):\n    api.access.deny({!r})\n"
BROKEN = "async def on_execute_pre_user_registration(event):\n    pass\n"


class FakeWorker:
    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    async def change_chain(self, chain: Chain) -> None:
        self.chain = chain


class Folder:
    """A folder with a chain of one action that has a secret, the worker that runs it, and what it counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets = path / "secrets"
        self.secrets.mkdir()
        (self.secrets / "GATE_SECRET_ONE_KEY").write_text("1")
        (path / "chain.toml").write_text('[[action]]\nfile = "one.py"\nsecrets = ["KEY"]\n')
        self.write(GOOD.format("first"))
        self.metrics = Metrics()
        self.worker = FakeWorker(self.load())

    def write(self, source: str) -> None:
        beside = self.path / "one.new"
        beside.write_text(source)
        beside.replace(self.path / "one.py")

    def load(self) -> Chain:
        return load_chain(self.path, secrets_dir=self.secrets, environ={})

    def files(self) -> list[Path]:
        return chain_files(self.path, secrets_dir=self.secrets)

    def counted(self, result: str) -> float:
        return self.metrics.chain_reloads_total.labels(result).value

    @asynccontextmanager
    async def serving(self, *, watching: bool = False) -> AsyncIterator[None]:
        self.reloader = ChainReloader(self.load, self.metrics, files=self.files if watching else None)
        async with self.reloader.serving(self.worker):
            yield


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def test_a_good_chain_takes_over(folder: Folder, lines: list[EventDict], eventually: Any) -> None:
    before = folder.worker.chain
    folder.write(GOOD.format("second"))
    async with folder.serving():
        folder.reloader.request()
        await eventually(lambda: folder.counted("changed") == 1)

    assert folder.load().hash == folder.worker.chain.hash != before.hash
    assert [(before.hash, ["one"])] == [(line["before"], line["actions"]) for line in lines if line["event"] == "chain_changed"]


async def test_a_broken_chain_is_refused_with_every_problem_and_the_old_one_goes_on(
    folder: Folder, lines: list[EventDict], eventually: Any
) -> None:
    before = folder.worker.chain
    folder.write(BROKEN)
    (folder.secrets / "GATE_SECRET_ONE_KEY").unlink()
    async with folder.serving():
        folder.reloader.request()
        await eventually(lambda: folder.counted("refused") == 1)

    refused = [line for line in lines if line["event"] == "chain_refused"]
    assert folder.worker.chain is before
    assert {before.hash} == {line["goes_on"] for line in refused}
    assert ["one.py:1: on_execute_pre", "secret KEY of action one is missing"] == sorted(
        part
        for line in refused
        for part in ("one.py:1: on_execute_pre", "secret KEY of action one is missing")
        if part in line["problem"]
    )


async def test_the_same_chain_is_left_alone_but_a_new_secret_makes_it_another(folder: Folder, eventually: Any) -> None:
    before = folder.worker.chain
    async with folder.serving():
        folder.reloader.request()
        await eventually(lambda: folder.counted("unchanged") == 1)
        assert folder.worker.chain is before

        (folder.secrets / "GATE_SECRET_ONE_KEY").write_text("2")
        folder.reloader.request()
        await eventually(lambda: folder.counted("changed") == 1)

    assert "2" == folder.worker.chain.actions[0].secrets["KEY"]


async def test_a_chain_that_does_not_end_loading_is_refused_and_holds_up_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr(reload, "LOAD_TIMEOUT_S", 0.05)
    folder.write(
        "import time\nwhile time.sleep(0.01) is None and not __import__('pathlib').Path(__file__ + '.end').exists(): pass\n"
    )
    async with folder.serving():
        folder.reloader.request()
        await eventually(lambda: folder.counted("refused") == 1)
        folder.write(GOOD.format("second"))
        folder.reloader.request()
        await eventually(lambda: folder.counted("changed") == 1)
    (folder.path / "one.py.end").touch()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: folder.write(GOOD.format("second")),
        lambda folder: (folder.path / "chain.toml").write_text('timeout_s = 5\n[[action]]\nfile = "one.py"\n'),
        lambda folder: (folder.secrets / "GATE_SECRET_ONE_KEY").write_text("longer"),
    ],
    ids=["action", "manifest", "secret"],
)
async def test_watching_sees_a_change_of_every_kind_of_file(
    folder: Folder, change: Callable[[Folder], None], eventually: Any
) -> None:
    before = folder.worker.chain
    async with folder.serving(watching=True):
        change(folder)
        await eventually(lambda: folder.counted("changed") == 1)

    assert folder.worker.chain is not before


async def test_watching_goes_on_after_a_refusal_also_for_a_file_that_only_the_new_manifest_names(
    folder: Folder, eventually: Any
) -> None:
    async with folder.serving(watching=True):
        (folder.path / "chain.toml").write_text('[[action]]\nfile = "two.py"\n')
        await eventually(lambda: folder.counted("refused") == 1)
        (folder.path / "two.py").write_text(GOOD.format("two"))
        await eventually(lambda: folder.counted("changed") == 1)

    assert ["two"] == [action.name for action in folder.worker.chain.actions]


async def test_watching_sees_through_the_links_by_which_kubernetes_swaps_a_folder(tmp_path: Path, eventually: Any) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.py").write_text(GOOD.format(name))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "one.py").symlink_to("..data/one.py")
    metrics, path = Metrics(), tmp_path / "one.py"
    worker = FakeWorker(load_chain(path, environ={}))
    reloader = ChainReloader(lambda: load_chain(path, environ={}), metrics, files=lambda: chain_files(path))

    async with reloader.serving(worker):
        (tmp_path / "..new").symlink_to("v2")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        await eventually(lambda: metrics.chain_reloads_total.labels("changed").value == 1)

    assert load_chain(path, environ={}).hash == worker.chain.hash


async def test_a_folder_that_goes_away_and_comes_back_ends_nothing(folder: Folder, eventually: Any) -> None:
    async with folder.serving(watching=True):
        away = folder.path.rename(folder.path.with_name("away"))
        await eventually(lambda: folder.counted("refused") == 1)
        away.rename(folder.path)
        await eventually(lambda: folder.counted("unchanged") == 1)


@pytest.mark.parametrize("raised", ["RecursionError", "PermissionError", "KeyboardInterrupt"])
async def test_nothing_that_loading_raises_ends_the_worker(
    folder: Folder, raised: str, lines: list[EventDict], eventually: Any
) -> None:
    before = folder.worker.chain
    load = folder.load

    def fails() -> Chain:
        if raised == "KeyboardInterrupt":
            folder.write("raise KeyboardInterrupt\n")
            return load()
        raise {"RecursionError": RecursionError, "PermissionError": PermissionError}[raised]("hunter2")

    folder.load = fails  # type: ignore[method-assign]
    async with folder.serving():
        folder.reloader.request()
        await eventually(lambda: folder.counted("refused") == 1)

    assert folder.worker.chain is before
    assert [(True, False)] == [
        (raised in line["problem"], "hunter2" in line["problem"]) for line in lines if line["event"] == "chain_refused"
    ]


async def test_watching_goes_on_after_a_pipe_that_nobody_writes_to(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr(reload, "LOAD_TIMEOUT_S", 0.05)
    manifest = folder.path / "chain.toml"
    text = manifest.read_text()
    looks: list[int] = []
    files = folder.files

    def counted() -> list[Path]:
        looks.append(1)
        return files()

    folder.files = counted  # type: ignore[method-assign]
    async with folder.serving(watching=True):
        manifest.unlink()
        os.mkfifo(manifest)
        await eventually(lambda: len(looks) >= 3)
        stuck = manifest.rename(folder.path / "stuck")
        manifest.write_text(text.replace("KEY", "KEY2"))
        (folder.secrets / "GATE_SECRET_ONE_KEY2").write_text("2")
        await eventually(lambda: folder.counted("changed") == 1)
    os.close(os.open(stuck, os.O_RDWR | os.O_NONBLOCK))
