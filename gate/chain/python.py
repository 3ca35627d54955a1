"""Loads an action written in Python from its file.

The file becomes a module of its own, so two chains may hold two versions of it at once. Shared code belongs in an installed
package: the folder of the actions is not on the import path.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import re
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from gate.chain.api import Api
from gate.chain.capture import ACTION_MODULES, loading
from gate.chain.effects import current
from gate.chain.places import ACTION_NAME, class_name, traceback_of
from gate.model.event import Event
from gate.model.messages import MessagesError

ENTRY_POINT: Final = "on_execute_pre_user_registration"
SIGNATURE: Final = f"async def {ENTRY_POINT}(event: Event, api: Api) -> None"

SUSPENDING: Final = frozenset({"GET_AWAITABLE", "GET_ANEXT", "SEND", "YIELD_VALUE"})
"""Bytecode without which a coroutine function cannot suspend."""


class ActionFileError(Exception):
    """A file does not hold an action; `line` is where, the message what and how to mend it."""

    def __init__(self, line: int, problem: str) -> None:
        self.line = line
        super().__init__(problem)


class _Entry:
    """An entry point and, where it was loaded from a file, the name of the module that the file became."""

    def __init__(self, entry: Callable[[Event, Api], Any]) -> None:
        self._entry = entry
        self.module: str | None = None

    def release(self) -> None:
        """Forget the module, which is this entry point's alone."""
        if self.module is not None:
            sys.modules.pop(self.module, None)


class CoroutineAction(_Entry):
    """An `async def` action: runs on the event loop, by hand if it never awaits."""

    ends_when_cancelled = True

    def __init__(self, entry: Callable[[Event, Api], Coroutine[Any, Any, object]], *, waits: bool) -> None:
        super().__init__(entry)
        self.waits = waits

    def __repr__(self) -> str:
        return f"<async def action, {'may wait' if self.waits else 'never waits'}>"

    def run_by_hand(self, event: Event, api: Api) -> None:
        """Run to the end at once."""
        try:
            self._entry(event, api).send(None)
        except StopIteration as end:
            if end.value is not None:
                _refuse_awaitable(end.value)
        else:
            raise RuntimeError("an action without an await has suspended")

    async def run(self, event: Event, api: Api) -> None:
        """Run as an awaitable."""
        result = await self._entry(event, api)

        if result is not None:
            _refuse_awaitable(result)


class FunctionAction(_Entry):
    """A plain `def` action: may block, so it runs in a thread."""

    waits = True
    ends_when_cancelled = False

    def __repr__(self) -> str:
        return "<def action, runs in a thread>"

    def run_by_hand(self, event: Event, api: Api) -> None:
        """Never called: it waits."""
        raise NotImplementedError

    async def run(self, event: Event, api: Api) -> None:
        """Run in a thread; when cancelled, the thread is abandoned."""
        effects = current.get()

        if effects is None or effects.resources is None:
            raise RuntimeError("plain `def` actions run while the chain is started: `async with chain`")

        result = await effects.resources.threads.call(self._entry, event, api)

        if result is not None:
            _refuse_awaitable(result)


def load_python(path: Path, source: bytes, *, name: str) -> CoroutineAction | FunctionAction:
    """Run an action's file and return its entry point; raises ActionFileError."""
    code = _compile(path, source)
    module = ModuleType(
        _free_name(f"{ACTION_MODULES}.{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{hashlib.sha256(source).hexdigest()[:12]}")
    )
    module.__file__ = str(path)
    module.__dict__[ACTION_NAME] = name
    registered = module.__name__  # which the file may change
    sys.modules[registered] = module  # dataclasses and pydantic look their module up there
    try:
        _execute(code, module, path)
        entry = vars(module).get(ENTRY_POINT)

        if entry is None:
            raise ActionFileError(1, f"no {ENTRY_POINT}; define `{SIGNATURE}`{_nearly(module)}")

        action = read_entry(entry, file=str(path))
    except BaseException:
        sys.modules.pop(registered, None)
        raise

    action.module = registered
    return action


def read_entry(entry: object, *, file: str) -> CoroutineAction | FunctionAction:
    """Return the code of an entry point that was defined in a file; raises ActionFileError if it cannot be one."""
    if not isinstance(entry, FunctionType):
        raise ActionFileError(1, f"{ENTRY_POINT} is not a function but {type(entry).__name__}; define `{SIGNATURE}`")

    line = entry.__code__.co_firstlineno if entry.__code__.co_filename == file else 1

    if inspect.isgeneratorfunction(entry) or inspect.isasyncgenfunction(entry):
        raise ActionFileError(line, f"{ENTRY_POINT} is a generator; remove its `yield`: `{SIGNATURE}`")

    if not _takes_event_and_api(entry):
        raise ActionFileError(line, f"{ENTRY_POINT} must take two arguments, the event and the api: `{SIGNATURE}`")

    if inspect.iscoroutinefunction(entry):
        return CoroutineAction(entry, waits=may_suspend(entry.__code__))

    return FunctionAction(entry)


def may_suspend(code: CodeType) -> bool:
    """Tell whether a coroutine function with this code could ever wait for something."""
    return any(instruction.opname in SUSPENDING for instruction in dis.get_instructions(code))


def _compile(path: Path, source: bytes) -> CodeType:
    try:
        return compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ActionFileError(error.lineno or 1, f"not Python: {error.msg}") from None
    except ValueError as error:  # null bytes
        raise ActionFileError(1, f"not Python: {error}") from None
    except (MemoryError, RecursionError):
        raise ActionFileError(1, "nested too deeply for Python; split its longest expression") from None


def _execute(code: CodeType, module: ModuleType, path: Path) -> None:
    try:
        with loading():
            exec(code, module.__dict__)  # noqa: S102 - running the operator's own file is the point
    except BaseException as error:  # a foreign file; even its SystemExit is a problem to report
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # Ctrl-C while a command loads its chain; only the main thread gets that

        raise ActionFileError(_line_of(error, path), f"raised {class_name(error)} when it was loaded{_detail(error)}") from None


def _free_name(name: str) -> str:
    """Return a module's name that no chain has: while one takes over from another, both may hold the same file."""
    return next(free for number in count() if (free := f"{name}_{number}" if number else name) not in sys.modules)


def _line_of(error: BaseException, path: Path) -> int:
    lines = [frame.lineno for frame in traceback.extract_tb(traceback_of(error)) if frame.filename == str(path)]
    return (lines[-1] if lines else 1) or 1


def _detail(error: BaseException) -> str:
    """Return the texts of errors that name code, not data; those of other errors could name anything."""
    if isinstance(error, ModuleNotFoundError):
        return f": {error}; install it beside the gate (shared code belongs in an installed package)"

    if isinstance(error, ImportError) and error.name is not None:  # by the import statement, not by somebody's `raise`
        return f": {error}"

    return f": {error}" if isinstance(error, (NameError, AttributeError, MessagesError)) else ""


def _nearly(module: ModuleType) -> str:
    """Name a function that was probably meant."""
    near = [
        name
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and name.lower().replace("_", "") == ENTRY_POINT.replace("_", "")
    ]
    return f" (there is {near[0]})" if near else ""


def _takes_event_and_api(entry: FunctionType) -> bool:
    signature = inspect.signature(entry)
    positional = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    wild = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return wild or len(positional) >= 2


def _refuse_awaitable(result: object) -> None:
    """Fail where an action returns what should have been awaited: it would silently do nothing."""
    if isinstance(result, Awaitable):
        if isinstance(result, Coroutine):
            result.close()

        raise TypeError(f"the action returned {type(result).__name__}, which nobody awaits; write `await` before the call")
