"""What the runners of the table share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The HTTP server that actions of the table call."""
    with Server() as server:
        yield server
