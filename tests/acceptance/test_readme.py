"""The README is true: its commands are run in order, and what they print is compared with what it shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gate.tools.ask import build_event

from .conftest import Gate

README = Path(__file__).parents[2] / "README.md"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VARYING = (
    (re.compile(r"\d+(\.\d+)? m?s\b"), "<time>"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"\(\d+/s\)"), "(<rate>)"),
    (re.compile(r"[ \t]+"), " "),
)
ELLIPSIS = "…"


def blocks(language: str) -> list[str]:
    return [content for name, content in BLOCK.findall(README.read_text()) if name == language]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of the console blocks, each with the lines that the README shows for it."""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, shown


def plain(line: str) -> str:
    for pattern, name in VARYING:
        line = pattern.sub(name, line)
    return line.strip()


def matches(shown: list[str], printed: list[str]) -> bool:
    """Whether the printed lines are those shown, where a line of one … stands for any lines and a … at an end for its rest."""
    if not shown:
        return not printed
    first, *rest = shown
    if first == ELLIPSIS:
        return any(matches(rest, printed[skipped:]) for skipped in range(len(printed) + 1))
    if not printed:
        return False
    same = printed[0].startswith(first.removesuffix(ELLIPSIS)) if first.endswith(ELLIPSIS) else first == printed[0]
    return same and matches(rest, printed[1:])


def test_ellipsis_stands_for_any_lines_but_nothing_else_does() -> None:
    assert matches(["a", ELLIPSIS, "d"], ["a", "b", "c", "d"])
    assert matches(["a", ELLIPSIS], ["a"])
    assert matches(["a b…"], ["a b c"])
    assert not matches(["a"], ["a", "b"])
    assert not matches(["a", ELLIPSIS, "d"], ["a", "b"])


@pytest.mark.kafka
def test_every_command_prints_what_the_readme_shows(gate: Gate) -> None:
    action = blocks("python")[0]
    (gate.cwd / action.partition("\n")[0].removeprefix("# ")).write_text(action)
    (gate.cwd / "event.json").write_text(json.dumps(build_event("ana@mail.example")))
    (gate.cwd / "cases").mkdir()
    (gate.cwd / "cases/denver.json").write_text(blocks("json")[0])
    run = 0

    for command, shown in commands():
        if command.startswith("gate dev"):
            dev = gate.start(*command.split()[1:], GATE_HTTP_PORT="0")
            dev.wait_for((gate.cwd / ".gate/dev.json").exists, within_s=90)
        else:
            done = subprocess.run(
                command, shell=True, cwd=gate.cwd, env=gate.env, timeout=60, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            printed = [plain(line) for line in done.stdout.splitlines() if line.strip()]
            assert matches([plain(line) for line in shown], printed), f"$ {command}\n{done.stdout}"
        run += 1

    assert run > 6


def test_the_first_screen_has_the_sentence_the_action_and_its_answers() -> None:
    screen = "\n".join(README.read_text().splitlines()[:30])

    assert "exactly one decision per attempt" in screen
    assert "async def on_execute_pre_user_registration" in screen
    assert "approved in " in screen
    assert "denied in " in screen


def test_every_named_setting_command_and_file_exists(gate: Gate) -> None:
    from gate.config import Settings

    text = README.read_text()

    assert {name.lower() for name in re.findall(r"GATE_(\w+)", text)} - {"chian"} <= Settings.model_fields.keys()
    assert [] == [path for path in re.findall(r"\]\(([^)#:]+)\)", text) if not (README.parent / path).exists()]
    verbs = gate("--help").stdout
    assert [] == [verb for verb in set(re.findall(r"(?:`|\$ )gate ([a-z]+)", text)) if f" {verb} " not in verbs]


@pytest.mark.kafka
def test_the_demo_answers_everybody_and_leaves_nothing_behind(gate: Gate) -> None:
    done = gate("demo", within_s=110)

    assert 0 == done.returncode, done.stdout + done.stderr
    for part in (
        "user_metadata.screen_name = ana.lopes",
        "You cannot register from where you are.",
        "No puedes registrarte desde donde estás.",
        "validation_error: user_service_failed",
        "access_denied: suspicious_tls_fingerprint",
        "app_metadata.remote_user_id = u-",
        "warning: users of passwordless connections get no metadata",
        "2,000 of 2,000 answered",
        "20% denied",
        "gate dev",
    ):
        assert part in done.stdout
    assert re.search(r"p50 \d+\.\d ms +p95 \d+\.\d ms +p99 \d+\.\d ms", done.stdout)
    assert "\x1b" not in done.stdout
    assert [] == gate.processes()
    assert [] == [path.name for path in gate.cwd.iterdir()]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_demo_is_gate_demo() -> None:
    command = ["make", "--no-print-directory", "--dry-run", "demo"]
    plan = subprocess.run(command, cwd=README.parent, check=True, capture_output=True, text=True).stdout

    assert plan.splitlines()[-1].endswith("/gate demo")
