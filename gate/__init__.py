"""Registration gate: may this person register, and with what metadata?

What an action imports; the client is `gate.client`, helpers for tests are in `gate.testing`.
"""

from gate.chain.api import Api
from gate.model.event import Event

__all__ = ["Api", "Event"]
