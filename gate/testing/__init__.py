"""For tests of users' own: what the project tests itself with."""

from gate.testing.log import InMemoryLog

__all__ = ["InMemoryLog"]
