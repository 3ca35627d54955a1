import json
import subprocess
import sys

import pytest

from gate.log import harmless

LINES = """
import logging, sys, warnings
from gate import log
logger = log.get("gate.worker")
log.configure({level!r}, {fmt!r})
logger.debug("attempt approved", attempt_id="a-1")
logger.info("attempt denied", attempt_id="a-2", cause="access_denied", queue_ms=1.5, key=b"\\xff")
logging.getLogger("aiokafka.conn").info("not interesting")
logging.getLogger("aiokafka.group").error("Group Coordinator Request failed: [Error 15] GroupCoordinatorNotAvailableError")
logging.getLogger("aiokafka.conn").warning("cannot connect to %s", "localhost:1")
warnings.warn("mind this")
try:
    raise ValueError("broken")
except ValueError:
    logger.exception("commit failed")
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)


def test_json_lines_go_to_stderr_with_those_of_libraries() -> None:
    done = run(LINES.format(level="info", fmt="json"))

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert "" == done.stdout
    assert [
        ("info", "gate.worker", "attempt denied"),
        ("warning", "aiokafka.conn", "cannot connect to localhost:1"),
        ("warning", "py.warnings", lines[2]["event"]),
        ("error", "gate.worker", "commit failed"),
    ] == [(line["level"], line["logger_name"], line["event"]) for line in lines]
    assert ("a-2", 1.5, "b'\\xff'") == (lines[0]["attempt_id"], lines[0]["queue_ms"], lines[0]["key"])
    assert "mind this" in lines[2]["event"]
    assert lines[3]["exception"].endswith("ValueError: broken")
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_auto_is_json_where_nobody_watches() -> None:
    done = run(LINES.format(level="error", fmt="auto"))

    assert "commit failed" == json.loads(done.stderr)["event"]


def test_console_lines_are_plain_text_where_there_is_no_terminal() -> None:
    done = run(LINES.format(level="debug", fmt="console"))

    assert "attempt approved [gate.worker] attempt_id=a-1" in done.stderr
    assert "ValueError: broken" in done.stderr
    assert "\x1b" not in done.stderr


def test_until_it_is_configured_the_host_program_decides(caplog: pytest.LogCaptureFixture) -> None:
    program = (
        "import logging, sys\n"
        "from gate import log\n"
        "log.get('gate.client').info('quiet')\n"
        "log.get('gate.client').warning('heard', n=1)\n"
        "logging.basicConfig(stream=sys.stdout, format='%(name)s %(levelname)s %(message)s')\n"
        "log.get('gate.client').warning('heard', n=2)\n"
    )

    done = run(program)

    assert "event='heard' logger_name='gate.client' n=1\n" == done.stderr
    assert "gate.client WARNING event='heard' logger_name='gate.client' n=2\n" == done.stdout


@pytest.mark.parametrize("hostile", ["\x1bc", "a\x9b2Jb", "a\u202eb", "a\x07", "a\r"])
def test_what_an_asker_wrote_cannot_steer_the_terminal(hostile: str) -> None:
    program = f"from gate import log\nlog.configure('info', 'console')\nlog.get('x').info('denied', attempt_id={hostile!r})\n"

    (line,) = run(program).stderr.split("\n")[:-1]

    assert line.isprintable()
    assert harmless(hostile) in line


def test_what_is_harmless_stays_as_it_is() -> None:
    assert "Zoë 日本 👋 a b" == harmless("Zoë 日本 👋 a b")
    assert "one\ntwo\\x1b[m" == harmless("one\ntwo\x1b[m", keep="\n")
