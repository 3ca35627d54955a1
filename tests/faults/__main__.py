"""`python -m tests.faults`: inject every fault on real Kafka, check what is left behind, end with a table."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gate.kafka.embedded import EmbeddedKafka

from . import brokers, clusters, network, processes, soak, topics  # noqa: F401 - they enter their faults
from .grants import PROPERTIES
from .matrix import FAULTS, Fault, run
from .scene import Report

out = Console(width=200, highlight=False)


def main() -> int:
    """Run the faults that the command line names; return 1 unless every promise was kept."""
    arguments = _arguments()
    chosen = [fault for fault in FAULTS.values() if not arguments.names or any(name in fault.name for name in arguments.names)]
    chosen.sort(key=lambda fault: fault.row == "all")  # the long one comes last
    if not chosen:
        out.print("no fault has such a name; `--list` has them all", markup=False)
        return 2
    if arguments.list:
        for fault in chosen:
            out.print(f"{fault.row:>4}  {fault.name}", markup=False)
        return 0
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="gate-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "harness.log", level=logging.WARNING)  # aiokafka says a lot during an outage
    reports = asyncio.run(_run_all(chosen, folder, scale=arguments.scale))
    out.print(_table(reports))
    for report in reports:
        _explain(report)
    if arguments.json:
        arguments.json.write_text(json.dumps([_plain(report) for report in reports], indent=1, default=str))
    held = all(report.held for report in reports)
    print("nothing lost, nothing decided twice" if held else f"NOT HELD; the evidence is in {folder}")
    return 0 if held else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of the faults to run; none: all")
    parser.add_argument("--list", action="store_true", help="only print their names")
    parser.add_argument("--scale", type=_scale, default=1.0, help="how long things go on, above 0; 1 is a full run, the default")
    parser.add_argument("--keep", type=Path, help="folder for evidence and logs; none: a temporary one")
    parser.add_argument("--json", type=Path, help="file to write the table to as JSON")
    return parser.parse_args()


def _scale(text: str) -> float:
    scale = float(text)
    if scale <= 0:
        raise ValueError
    return scale


async def _run_all(faults: Sequence[Fault], folder: Path, *, scale: float) -> list[Report]:
    reports = []
    with ExitStack() as stack:
        shared: Any = None
        for number, fault in enumerate(faults, 1):
            out.print(f"{time.strftime('%H:%M:%S')} {number}/{len(faults)} {fault.name}", markup=False)
            place = folder / f"{number:02}-{''.join(c if c.isalnum() else '-' for c in fault.name)}"
            if fault.kafka is None:
                shared = shared or stack.enter_context(EmbeddedKafka(properties=PROPERTIES))
                report = await run(fault, shared, place, scale=scale)
            else:
                report = await _run_on_its_own(fault, fault.kafka, place, scale=scale)
            reports.append(report)
            out.print(f"         {report.verdict} in {report.seconds:.0f} s", markup=False)
    return reports


async def _run_on_its_own(fault: Fault, make: Callable[[], Any], place: Path, *, scale: float) -> Report:
    kafka = make()
    await asyncio.to_thread(kafka.__enter__)
    try:
        return await run(fault, kafka, place, scale=scale)
    finally:
        await asyncio.to_thread(kafka.__exit__, None, None, None)


def _table(reports: Sequence[Report]) -> Table:
    table = Table(title="Faults", title_justify="left")
    table.add_column("fault")
    for name in ("row", "attempts", "answered", "lost", "decided twice", "duplicates", "ran again", "longest wait", "recovered"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for report in reports:
        row = report.figures
        cells = (
            [""] * 8
            if row is None
            else [
                f"{row.attempts:,}",
                f"{row.answered:,}",
                str(row.lost),
                str(row.decided_twice),
                str(row.duplicates),
                str(row.run_again),
                f"{row.longest_wait_s:.1f} s",
                f"{row.recovered_s:.1f} s" if row.recovered_s else "",
            ]
        )
        table.add_row(report.fault, report.row, *cells, "held" if report.held else "[bold red]NOT HELD")
    return table


def _explain(report: Report) -> None:
    facts = ", ".join(f"{name}: {value}" for name, value in report.facts.items())
    if facts:
        out.print(f"{report.fault}: {facts}", markup=False)
    for complaint in report.complaints:
        out.print(f"{report.fault}: {complaint}", markup=False)
    for violation in report.violations[:10]:
        out.print(f"{report.fault}: {violation}", markup=False)


def _plain(report: Report) -> dict[str, Any]:
    return {
        "fault": report.fault,
        "row": report.row,
        "seconds": round(report.seconds, 1),
        "held": report.held,
        "figures": report.figures and asdict(report.figures),
        "violations": [str(violation) for violation in report.violations],
        "complaints": report.complaints,
        "facts": report.facts,
    }


if __name__ == "__main__":
    sys.exit(main())
