"""Runs a command's work again whenever a file changes: `gate test --watch`."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Final

from watchfiles import Change, DefaultFilter, awatch

from gate.cli.output import console, fail, print_json, say
from gate.errors import CasesError, ConfigError, GateError, InputError

CLOCK_TICK_S: Final = 0.02
"""How much older than now the time of a file may be that is written now; kernels stamp files by a coarse clock."""


async def run_again_on_change(work: Callable[[], Awaitable[int]], folders: Callable[[], Collection[Path]], *, json: bool) -> None:
    """Run the work, then again after every change in the folders that it names; mistakes are shown, and it goes on."""
    watched = _Watched()
    try:
        while True:
            watched.look_at(folders())
            await asyncio.sleep(0)  # lets the watching begin before the files are read
            begun_s = time.time()
            _clear()
            try:
                await work()
            except GateError as error:
                _show(error, json=json)

            watched.look_at(folders(), since_s=begun_s)
            say("waiting for a change; Ctrl-C ends")
            await watched.change()
    finally:
        watched.close()


def _clear() -> None:
    out = console()
    if out.is_terminal:
        out.clear()


def _show(error: GateError, *, json: bool) -> None:
    fail([error])
    if json:
        print_json({"problems": error.problems if isinstance(error, (CasesError, ConfigError)) else [str(error)]})


class _Watched:
    """The folders that are watched, and whether something in them has changed since that was last asked."""

    def __init__(self) -> None:
        self._folders: frozenset[Path] = frozenset()
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def look_at(self, folders: Collection[Path], *, since_s: float = math.inf) -> None:
        """Watch these folders. What changed in the former ones is not forgotten, nor, in new ones, what did so since then."""
        there = frozenset(_existing(folder) for folder in folders)
        if there == self._folders and self._watching is not None and not self._watching.done():
            return

        if any(_changed_since(folder, since_s) for folder in there - self._folders):
            self._changed.set()
        self.close()
        self._folders = there
        self._watching = asyncio.create_task(self._watch(), name="watch")

    async def change(self) -> None:
        """Wait until something has changed."""
        waiting = asyncio.create_task(self._changed.wait(), name="change")
        assert self._watching is not None
        await asyncio.wait({waiting, self._watching}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._watching.done() and not self._changed.is_set():
            self._check(self._watching)
        self._changed.clear()

    def _check(self, watching: asyncio.Task[None]) -> None:
        """Raise InputError unless the watching ended because a folder is gone, which is a change."""
        try:
            watching.result()
        except FileNotFoundError:
            return
        except OSError as error:
            mend = "set WATCHFILES_FORCE_POLLING=1 to look without the system's help"
            raise InputError(f"cannot watch {', '.join(map(str, sorted(self._folders)))}: {error}; {mend}") from None

    def close(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        async for _ in awatch(*self._folders, watch_filter=_Relevant(), recursive=False):
            self._changed.set()


def _changed_since(folder: Path, since_s: float) -> bool:
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > since_s - CLOCK_TICK_S
    except OSError:  # something is gone meanwhile
        return True


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


class _Relevant(DefaultFilter):
    """All files but hidden ones, those of editors and caches, and the one that our own output goes to."""

    def __call__(self, change: Change, path: str) -> bool:
        return super().__call__(change, path) and not Path(path).name.startswith(".") and not _is_our_output(path)


def _is_our_output(path: str) -> bool:
    try:
        status: Any = os.stat(path)
        return any(os.path.samestat(status, os.fstat(number)) for number in (1, 2))
    except OSError:
        return False
