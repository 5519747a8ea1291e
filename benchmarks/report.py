"""What every table shares: its options, its printed lines, and its rows as JSON."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import peak
from ratios import Pairs, fastest


def positive(text: str) -> int:
    """Read an integer of at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def parser(doc: str | None, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every table has."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--threads", type=positive, default=os.cpu_count(), help="of every side")
    made.add_argument("--repeats", type=positive, default=repeats, help="turns of every side")
    made.add_argument("--only", metavar="TEXT", help="rows whose name contains this")
    made.add_argument("--json", metavar="FILE", type=Path, help="write the rows and the machine")
    return made


def wanted(names: Sequence[str], only: str | None) -> list[str]:
    """Return the names that contain `only`, whatever the case of its letters; raise if none do."""
    found = [name for name in names if not only or only.lower() in name.lower()]
    if not found:
        raise SystemExit(f"no row has {only!r} in its name; there are: {'; '.join(names)}")
    return found


class Report:
    """A table in the making: prints its lines as they come, writes JSON at the end.

    Parameters
    ----------
    options : what the command was asked for
    timed : whether it compares timings, so that the machine's peak is wanted
    """

    def __init__(self, options: argparse.Namespace, timed: bool = True) -> None:
        self.file = options.json
        self.machine = machine.describe(options.threads)
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.peak = 0.0
        print(f"{self.machine['processor']}, {options.threads} threads", end="")
        if timed:
            one, self.peak = peak.measure(1), peak.measure(options.threads)
            self.machine["peak_gflops"] = {"1": round(one, 1), str(options.threads): self.peak}
            print(f", measured peak {self.peak:.0f} GFLOP/s ({one:.0f} on one)", end="")
        print(flush=True)

    def compare(
        self, name: str, flops: float, times: dict[str, list[float]], **extra: Any
    ) -> list[dict[str, Any]]:
        """Add a row for each rival, fastest first, and return them.

        `times` are those of `Contest.time`, ours first; without rivals there is one row, of ours.
        """
        ours, *rivals = times
        gflops = flops / statistics.median(times[ours]) / 1e9
        shared = {"name": name, "gflops": gflops, "share_of_peak": gflops / self.peak, **extra}
        best = fastest({rival: times[rival] for rival in rivals}) if rivals else None
        rows = [
            {**shared, "rival": rival, "best": rival == best}
            | Pairs(times[ours], times[rival]).record()
            for rival in rivals
        ]
        if not rivals:
            rows = [{**shared, "rival": None} | Pairs(times[ours], times[ours]).record()]
        rows.sort(key=lambda row: row["rival_s"])
        self.rows += rows
        return rows

    def header(self, width: int) -> None:
        """Print the names of the columns of `line`."""
        print(
            f"{'':{width}} {'ours, ms':>9} {'GFLOP/s':>8} {'peak':>5} {'rival, ms':>9} "
            f"{'ratio':>6}  {'spread':11}  rival",
            flush=True,
        )

    def line(self, row: dict[str, Any], width: int) -> None:
        """Print a row of `compare`."""
        text = (
            f"{row['name']:{width}} {row['ours_s'] * 1e3:9.4g} {row['gflops']:8.1f} "
            f"{row['share_of_peak']:5.0%}"
        )
        if row["rival"]:
            spread = f"{row['lowest']:.2f}-{row['highest']:.2f}"
            text += f" {row['rival_s'] * 1e3:9.4g} {row['ratio']:6.2f}  {spread:11}  {row['rival']}"
        elif "made" in row:
            text += f" {row['share_of_peak'] * row['made']:5.0%} of it by the products made"
        print(text, flush=True)

    def conclude(self, name: str, value: float, text: str) -> None:
        """Print a last line, and keep its number under `name`."""
        self.summary[name] = value
        print(text, flush=True)

    def save(self) -> None:
        """Write the JSON file, when one was asked for."""
        if self.file:
            command = f"python {shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}"
            content = {
                "command": command,
                "machine": self.machine,
                "rows": self.rows,
                "summary": self.summary,
            }
            self.file.write_text(json.dumps(content, indent=1) + "\n")
