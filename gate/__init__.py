"""Registration gate: may this person register, and with what metadata?

What an action imports; the client is `gate.client`, helpers for tests are in `gate.testing`. The names are loaded when
they are asked for: `gate --help`, for one, needs none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gate.chain.api import Api
    from gate.model.event import Event
    from gate.model.messages import Messages

__all__ = ["Api", "Event", "Messages"]

_HOMES = {"Api": "gate.chain.api", "Event": "gate.model.event", "Messages": "gate.model.messages"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
