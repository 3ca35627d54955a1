"""Look for bytes that break a door, guided by coverage: `python -m tests.faults.fuzz --seconds 300`.

The time is shared by three targets (`hostile.Doors`): an attempt, a record of the ledger, a reply at the client. Each runs in a
process of its own, from the recorded frames of `tests/data`. Exits with 1 where something broke, after saying in which file
the input is; `--target attempt --input FILE` shows what it does. Needs atheris, which has wheels for Linux on x86-64.

One input is one record: a byte that says how many headers there are and whether there is a value, the key, the headers, then the
value. A key or a header's value is a byte with its length (255: none) and so many bytes; a header's name is a byte that
picks one of `NAMES`, or, beyond them, the name itself in the form of a value.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.headers import OF_AN_ATTEMPT, OF_THE_LEDGER

DATA: Final = Path(__file__).parent.parent / "data"
ROOT: Final = DATA.parent.parent
TARGETS: Final = ("attempt", "ledger", "reply")
NAMES: Final = (*OF_AN_ATTEMPT, *OF_THE_LEDGER)
NONE: Final = 255
NO_VALUE: Final = 0x80
MAX_BYTES: Final = 4096
EXIT_S: Final = 60.0  # what a target may take beyond its time: start, the last input, minimising nothing
INSTRUMENTED: Final = ["gate.model", "gate.ledger", "gate.worker", "gate.client"]

Headers = list[tuple[str, bytes | None]]


# -- One input, one record ----------------------------------------------------------------------------------------------


def decode(data: bytes) -> tuple[bytes | None, Headers, bytes | None]:
    """Return key, headers and value; any bytes are a record."""
    at = 0

    def byte() -> int:
        nonlocal at
        at += 1
        return data[at - 1] if at <= len(data) else 0

    def some() -> bytes | None:
        nonlocal at
        length = byte()
        if length == NONE:
            return None
        at += length
        return data[at - length : at]

    first = byte()
    key = some()
    headers: Headers = []
    for _ in range(first & 0x1F):
        code = byte()
        name = NAMES[code] if code < len(NAMES) else (some() or b"").decode("utf-8", "replace")
        headers.append((name, some()))
    return key, headers, None if first & NO_VALUE else data[at:]


def encode(key: bytes | None, headers: Headers, value: bytes | None) -> bytes:
    """Return the input that stands for a record, for the corpus; what is longer than a length byte says is cut."""

    def some(part: bytes | None) -> bytes:
        return bytes([NONE]) if part is None else bytes([len(part[:254])]) + part[:254]

    parts = [bytes([min(len(headers), 0x1F) | (NO_VALUE if value is None else 0)]), some(key)]
    for name, content in headers[:0x1F]:
        parts.append(bytes([NAMES.index(name)]) if name in NAMES else bytes([NONE]) + some(name.encode()))
        parts.append(some(content))
    return b"".join([*parts, value or b""])


def seeds(target: str) -> list[bytes]:
    """Return the recorded frames of a target as inputs."""
    if target == "attempt":
        records = [entry["record"] for entry in json.loads((DATA / "attempts.json").read_text())]
        return [encode(_hex(one["key"]), _headers(one["headers"]), _base64(one["value"])) for one in records]
    if target == "ledger":
        found = []
        for entry in json.loads((DATA / "ledger.json").read_text()):
            written = entry["headers"]
            headers: Headers = [
                ("digest", bytes.fromhex(written["digest"])),
                ("source", written["source"].encode()),
                ("attempt-ts", int(written["attempt_ts"]).to_bytes(8, "big", signed=True)),
                ("scope", written["scope"].encode()),
            ]
            found.append(encode(written["attempt_id"].encode(), headers, json.dumps(entry["body"]).encode()))
        return found
    documents = [entry["document"] for entry in json.loads((DATA / "replies.json").read_text())]
    return [encode(b"k", [("kafka_correlationId", b"inst-1")], json.dumps(one).encode()) for one in documents]


def _hex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _base64(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _headers(written: Sequence[Sequence[str | None]]) -> Headers:
    return [(str(name), _hex(value)) for name, value in written]


# -- Mutations that keep JSON readable: bytes changed at random rarely get past its parser ----------------------------------


OTHERS: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    2**64,
    1.5,
    float("nan"),
    "",
    "x",
    "\ud800",
    "é" * 300,
    [],
    [[]],
    {},
    {"a": None},
)


def change_json(data: bytes, rng: random.Random) -> bytes | None:
    """Return an input whose JSON value says something else in one place; None where it has no such value."""
    key, headers, value = decode(data)
    try:
        document = json.loads(value or b"")
        places = list(_places(document))
        if not places:
            return None
        container, name = rng.choice(places)
        deed = rng.randrange(4)
        if deed == 0:
            del container[name]
        elif deed == 1:
            other, elsewhere = rng.choice(places)
            container[name] = other[elsewhere]
        else:
            container[name] = rng.choice(OTHERS)
        return encode(key, headers, json.dumps(document).encode())
    except (ValueError, LookupError, TypeError, RecursionError):  # no JSON, nothing to take, or a circle
        return None


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in inner:
        yield value, name
        yield from _places(below)


# -- One target, in a process of its own --------------------------------------------------------------------------------


def run_target(target: str, arguments: list[str]) -> None:
    """Hand the process to atheris, which ends it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from .hostile import Doors, Hostile

    doors = Doors()
    take: Callable[[Any], Any] = {
        "attempt": doors.take_attempt,
        "ledger": doors.take_ledger_record,
        "reply": doors.take_reply,
    }[target]

    def one(data: bytes) -> None:
        key, headers, value = decode(data)
        take(Hostile(value, headers, key))

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = change_json(data, rng) if rng.random() < 0.5 else None
        return atheris.Mutate(data, max_size) if changed is None or len(changed) > max_size else changed

    atheris.Setup([sys.argv[0], *arguments], one, custom_mutator=mutate)
    atheris.Fuzz()


def fuzz(target: str, seconds: int, folder: Path) -> str | None:
    """Run a target so long; return what broke and the file with the input, None where nothing did."""
    corpus = folder / target
    corpus.mkdir(parents=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    before = {path.name for path in folder.iterdir()}
    command = [sys.executable, "-m", "tests.faults.fuzz", "--target", target, "--"]
    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=10", "-rss_limit_mb=2048"]
    log = folder / f"{target}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *limits, f"-artifact_prefix={folder}/{target}-", str(corpus)], cwd=ROOT, stdout=output, stderr=output
        )
        try:
            code = process.wait(seconds + EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = -1
    text = log.read_text(errors="replace")
    if code == 0:
        print(f"{target}: {_runs(text)} inputs in {seconds} s, nothing broke", flush=True)
        return None
    inputs = sorted({path.name for path in folder.iterdir()} - before - {log.name})
    telling = [line for line in text.splitlines() if line.startswith(("=== ", "Traceback", "  File")) or "Error" in line]
    reason = "\n  ".join(telling[-12:] or text.splitlines()[-12:])
    return f"{target}: exit code {code}, input in {', '.join(str(folder / name) for name in inputs) or 'no file'}\n  {reason}"


def _runs(text: str) -> str:
    done = [line for line in text.splitlines() if line.startswith("Done ")]  # "Done 12345 runs in 10 second(s)"
    return done[-1].split()[1] if done else "?"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz all targets; return 1 where something broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, help="one of them, in this process; what follows -- goes to libFuzzer")
    parser.add_argument("--input", type=Path, help="with --target: a file to run once")
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: it has wheels for Linux on x86-64 and Python 3.11 to 3.13", file=sys.stderr)
        return 2
    if given.target:
        run_target(given.target, [*given.rest, *([str(given.input)] if given.input else [])])
    folder = Path(tempfile.mkdtemp(prefix=f"gate-fuzz-{time.strftime('%H%M%S')}-"))
    print(f"inputs and logs are in {folder}", flush=True)
    broken = [found for target in TARGETS if (found := fuzz(target, max(1, given.seconds // len(TARGETS)), folder))]
    for found in broken:
        print(found, flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    sys.exit(main())
