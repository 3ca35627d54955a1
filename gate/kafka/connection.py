"""How every Kafka client of ours finds and reaches the brokers."""

from __future__ import annotations

from typing import Any

from gate.config import Settings


def client_options(settings: Settings, bootstrap: str) -> dict[str, Any]:
    """Return the keyword arguments that all aiokafka clients share."""
    return {"bootstrap_servers": bootstrap, "client_id": "registration-gate", "security_protocol": settings.security_protocol}
