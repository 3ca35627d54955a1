"""What tests of a worker on real Kafka share: somebody who asks, workers as processes of their own, certificates."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gate.config import Settings
from gate.kafka.embedded import HOST

from .peers import Asker, Start, WorkerProcess


@pytest.fixture
async def asker(topics: Settings) -> AsyncIterator[Asker]:
    """Somebody who asks on fresh topics and keeps every reply."""
    async with Asker(topics) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(settings)`: a worker process, killed at the end of the test if it still runs."""
    started: list[WorkerProcess] = []

    def worker(settings: Settings, **options: Any) -> WorkerProcess:
        started.append(WorkerProcess(settings, tmp_path, **options))
        return started[-1]

    yield worker
    for process in started:
        process.close()


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a broker's certificate for 127.0.0.1, a client's with a locked key, and a stranger's."""
    folder = tmp_path_factory.mktemp("certificates")
    days = ["-days", "2", "-newkey", "rsa:2048", "-nodes"]
    for name in ("authority", "stranger"):
        openssl("req", "-x509", *days, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", folder=folder)
    (folder / "names").write_text(f"subjectAltName=IP:{HOST}\n")
    for name in ("broker", "client"):
        openssl("req", *days[2:], "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr", folder=folder)
        signing = ["-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem", folder=folder)
    openssl("pkcs8", "-topk8", "-in", "client.key", "-out", "client.locked", "-passout", "pass:hunter2", folder=folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the attempt id of every run of the chain."""
    path = tmp_path / "runs"
    path.touch()
    monkeypatch.setenv("TEST_RUNS", str(path))
    return path
