"""Measure the gate side by side with what people would use instead, on a real Kafka, and print the ratios.

    make bench                                        everything
    .venv/bin/python tests/benchmarks/run.py --quick  less of it, in a minute

The broker, the attempts and the machine are the same for all; the order alternates; figures are medians of rounds.
Linux only: CPU is read from the processes' own clocks.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import drain
import orjson
from contestants import Contestant
from machinery import run_machinery
from rich.console import Console
from rich.table import Table

from gate.kafka.embedded import EmbeddedKafka

CONTESTANTS: dict[str, Contestant] = {"echo": drain.ECHO, "gate": drain.GATE}


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the attempts, three rounds")
    parser.add_argument("--rounds", type=int, help="rounds of each contestant")
    parser.add_argument("--attempts", type=int, help="attempts in the backlog")
    parser.add_argument("--only", action="append", choices=CONTESTANTS, help="contestants, repeatedly; default: all")
    parser.add_argument("--json", type=Path, default=Path(".gate/bench.json"), help="where the figures go (default: %(default)s)")
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("the benchmarks read CPU clocks of other processes, which needs Linux")

    count = options.attempts or (20_000 if options.quick else 60_000)
    rounds = options.rounds or (3 if options.quick else 5)
    contestants = [CONTESTANTS[name] for name in options.only or CONTESTANTS]
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a topic that was just made is retried, with a warning each time
    console = Console(stderr=True)
    began = time.monotonic()

    with EmbeddedKafka(progress=console.print) as broker, console.status("") as status:
        assert broker.pid is not None
        drains = asyncio.run(
            drain.run_drain(
                contestants,
                bootstrap=broker.bootstrap,
                broker_pid=broker.pid,
                count=count,
                rounds=rounds,
                progress=lambda line: say(console, status, line),
            )
        )

    with tempfile.TemporaryDirectory() as folder:
        parts = run_machinery(rounds, Path(folder))
    document = {
        "machine": machine(),
        "commit": commit(),
        "drain": {"attempts": count, **drain.to_json(drains)},
        "machinery_cpu_us": parts,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    Console(width=None if sys.stdout.isatty() else 120).print(table(document), machinery_table(document))
    console.print(f"{time.monotonic() - began:.0f} s; every round is in {options.json}", style="dim")


def say(console: Console, status: Any, line: str) -> None:
    """Show what is going on: in place on a terminal, as lines elsewhere."""
    if console.is_terminal:
        status.update(line)
    else:
        console.print(line, highlight=False)


def table(document: dict[str, Any]) -> Table:
    """Return the figures as people read them."""
    row, computer = document["drain"], document["machine"]
    shown = Table(
        title=f"Drain {row['attempts']:,} attempts, four in-process actions, strict, one process",
        title_justify="left",
        caption=f"medians; {computer['cpus']} CPUs, Python {computer['python']}, commit {document['commit']}",
        caption_justify="left",
    )
    shown.add_column("")
    for heading in ("attempts/s", "slowest-fastest", "CPU µs each", "broker's", "peak MB", "first reply"):
        shown.add_column(heading, justify="right")
    for name, figures in row["medians"].items():
        shown.add_row(
            name,
            f"{figures['rate']:,.0f}",
            f"{figures['rate_min']:,.0f}-{figures['rate_max']:,.0f}",
            f"{figures['cpu_us']:.1f}",
            f"{figures['broker_cpu_us']:.1f}",
            f"{figures['peak_mb']:.0f}",
            f"{figures['start_s']:.2f} s",
        )
    if "ratios" in row:
        ratios, goals = row["ratios"], row["goals"]
        shown.add_section()
        shown.add_row(
            "gate / echo",
            verdict(ratios["rate"], ratios["rate"] >= goals["rate"]),
            "",
            verdict(ratios["cpu"], ratios["cpu"] <= goals["cpu"]),
        )
        shown.add_row("goal", f"≥ {goals['rate']}", "", f"≤ {goals['cpu']}", style="dim")
    return shown


def machinery_table(document: dict[str, Any]) -> Table:
    """Return what the parts of deciding cost, beside what the echo takes for a whole attempt."""
    echo = document["drain"]["medians"].get("echo")
    shown = Table(title="Deciding one attempt, in tight loops without Kafka", title_justify="left")
    for heading in ("", "CPU µs", "of the echo's CPU"):
        shown.add_column(heading, justify="right" if heading else "left")
    for name, cpu_us in document["machinery_cpu_us"].items():
        shown.add_row(name, f"{cpu_us:.1f}", f"{cpu_us / echo['cpu_us']:.2f} ×" if echo else "")
    return shown


def verdict(ratio: float, reached: bool) -> str:
    """Return a ratio in the colour of whether its goal is reached."""
    return f"[{'green' if reached else 'bold red'}]{ratio:.2f} ×[/]"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}


def commit() -> str:
    """Return the commit that was measured, with a + if files differ from it."""
    here = Path(__file__).parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=here, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
