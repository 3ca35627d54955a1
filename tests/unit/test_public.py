"""What `import gate` gives, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import gate


def test_the_package_exports_what_an_action_needs() -> None:
    assert ["Api", "Event", "Messages"] == gate.__all__


def test_importing_the_package_loads_no_kafka_no_http_no_metrics() -> None:
    unwanted = ["aiokafka", "httpx", "prometheus_client", "structlog", "gate.config"]
    code = f"import gate, sys; print([name for name in {unwanted} if name in sys.modules])"

    assert "[]" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
