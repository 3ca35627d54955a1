"""The jars are fetched once, whole, and with an error that says what to do where that fails."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from gate.errors import EmbeddedBrokerError
from gate.kafka import distribution

JAVA = """
if [ "$1" = -version ]; then echo 'openjdk version "{version}" 2025-04-15' >&2; exit {code}; fi
for argument; do last=$argument; done
folder=$(sed -n 's/^log.dirs=//p' "$last")
mkdir -p "$folder" && echo features > "$folder/bootstrap.checkpoint"
"""
MAVEN = """
echo run >> "$CALLS"
for argument; do case $argument in -DoutputDirectory=*) folder=${argument#*=};; esac; done
mkdir -p "$folder" && echo jar > "$folder/kafka.jar"
sleep 0.2
"""


class Machine:
    """A PATH with programs that pretend."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin = folder / "bin"
        self.cache = folder / "cache"
        self.calls = folder / "calls"
        self.bin.mkdir()
        for name in ("sh", "sed", "mkdir", "sleep", "cat"):
            (self.bin / name).symlink_to(next(Path(part, name) for part in os.defpath.split(":") if Path(part, name).exists()))
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.cache))
        monkeypatch.setenv("CALLS", str(self.calls))
        monkeypatch.delenv("JAVA_HOME", raising=False)

    def add(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!{self.bin}/sh\n{script}")
        path.chmod(0o755)

    def add_java(self, version: str = "17.0.15", code: int = 0) -> None:
        self.add("java", JAVA.format(version=version, code=code))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_the_first_fetch_downloads_and_later_ones_do_not(machine):
    machine.add_java()
    machine.add("mvn", MAVEN)
    said: list[str] = []

    first = distribution.fetch(said.append)
    second = distribution.fetch(said.append)

    assert first == second
    assert ["downloading Apache Kafka 4.3.1 through Maven, once (44 MB)"] == said
    assert "run\n" == machine.calls.read_text()
    assert "features\n" == first.checkpoint.read_text()
    assert machine.cache / "registration-gate" == first.home.parent
    assert {first.home.name, ".lock"} == {path.name for path in first.home.parent.iterdir()}


def test_processes_that_fetch_at_once_download_once(machine):
    machine.add_java()
    machine.add("mvn", MAVEN)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        homes = {fetched.home for fetched in pool.map(_fetch, range(3))}

    assert 1 == len(homes)
    assert "run\n" == machine.calls.read_text()


def _fetch(_: int) -> distribution.Distribution:
    return distribution.fetch()


def test_no_java_is_an_error_that_says_what_to_install_or_to_set(machine):
    with pytest.raises(
        EmbeddedBrokerError,
        match=r"needs Java 17 or newer, but there is no `java` on the PATH: install it .*GATE_BOOTSTRAP_SERVERS",
    ):
        distribution.fetch()


@pytest.mark.parametrize(("version", "shown"), [("11.0.2", "11"), ("1.8.0_402", "8"), ("16", "16")])
def test_an_old_java_is_an_error_that_names_it(machine, version, shown):
    machine.add_java(version)

    with pytest.raises(EmbeddedBrokerError, match=rf"needs Java 17 or newer, but {machine.bin}/java is Java {shown}: install it"):
        distribution.fetch()


@pytest.mark.parametrize("version", ["17", "21.0.1", "25-ea"])
def test_a_newer_java_will_do(machine, version):
    machine.add_java(version)
    machine.add("mvn", MAVEN)

    assert f"{machine.bin}/java" == distribution.fetch().java


def test_a_java_that_does_not_run_is_an_error(machine):
    machine.add_java(code=1)  # such as the stub of macOS

    with pytest.raises(EmbeddedBrokerError, match=r"but .*/java fails: install it"):
        distribution.fetch()


def test_java_home_wins_over_the_path(machine, monkeypatch, tmp_path):
    machine.add_java("21")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))

    with pytest.raises(EmbeddedBrokerError, match=r"JAVA_HOME=.*/jdk has no bin/java"):
        distribution.fetch()


def test_no_maven_is_an_error_that_says_what_to_install_or_to_set(machine):
    machine.add_java()

    with pytest.raises(EmbeddedBrokerError, match=r"no `mvn` on the PATH: install it .*GATE_BOOTSTRAP_SERVERS"):
        distribution.fetch()


def test_a_failing_maven_is_quoted_and_leaves_nothing_half_done(machine):
    machine.add_java()
    machine.add(
        "mvn",
        MAVEN + "echo '[ERROR] Could not transfer artifact: Connection refused'; echo '[ERROR] Re-run Maven using -X'; exit 1",
    )

    with pytest.raises(EmbeddedBrokerError) as caught:
        distribution.fetch()

    message = str(caught.value)
    assert "Maven could not download Apache Kafka 4.3.1 (exit code 1):\n  [ERROR] Could not transfer artifact" in message
    assert "Re-run" not in message
    assert "GATE_BOOTSTRAP_SERVERS" in message
    assert [".lock"] == [path.name for path in (machine.cache / "registration-gate").iterdir()]


def test_what_a_killed_download_left_is_cleaned_up_by_the_next(machine):
    machine.add_java()
    machine.add("mvn", MAVEN)
    left_over = machine.cache / "registration-gate" / ".fetching-abc"
    left_over.mkdir(parents=True)

    distribution.fetch()

    assert not left_over.exists()


def test_a_cache_that_cannot_be_written_is_an_error_that_says_what_to_set(machine):
    machine.add_java()
    machine.cache.write_text("a file where a folder should be")

    with pytest.raises(EmbeddedBrokerError, match=r"cannot keep Kafka's jars in .*set XDG_CACHE_HOME"):
        distribution.fetch()


def test_ids_are_22_characters_and_no_option_of_a_command_line():
    ids = {distribution.new_id() for _ in range(1000)}

    assert 1000 == len(ids)
    assert {22} == {len(text) for text in ids}
    assert not any(text.startswith("-") for text in ids)
