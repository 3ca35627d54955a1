"""What `pip install` gets: the wheel carries what `gate demo` needs besides the code."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_the_broker_and_the_samples(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    program = (
        "from gate.config import packaged\n"
        "from gate.testing import load_cases\n"
        "from gate.tools.dev import load_chain_here\n"
        "from gate.tools.user_service import UserService\n"
        "chain = load_chain_here(packaged('actions'), UserService())\n"
        "cases = load_cases(packaged('actions') / 'cases')\n"
        "print(packaged('kafka/pom.xml').is_file(), len(chain.actions), len(cases), packaged('actions'))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", program],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip

    assert f"True 4 11 {site}/gate/_data/actions\n" == shown
