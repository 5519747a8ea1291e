"""Measure the peak resident memory of DDNet's training, ours and PyTorch's, in fresh processes.

    python benchmarks/memory.py --threads 2

Everything counts, the interpreter and the libraries too. PyTorch stores the batch's activations; we
take the batch slice by slice, so that memory hardly grows with it. Before memory is measured, the
losses of the same steps must agree.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import ddnet_case
import numpy as np
import rivals
from report import Report, parser, positive, wanted
from worker import Worker

TOLERANCE = 2e-3  # of a loss
WIDTH = 44


def measure(side: rivals.Side, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the losses of a few steps in a fresh process, and its peak memory after them."""
    worker = Worker(options.threads, side.environment)
    with tempfile.TemporaryDirectory() as folder:
        case, result = Path(folder) / "case.npz", Path(folder) / "result.npy"
        np.savez(case, **ddnet_case.training(batch, options.image_size))  # type: ignore[arg-type]
        try:
            worker.prepare(side.name, f"{side.module}:step", case, side.options)
            before = worker.peak_mib()
            losses = [float(worker.result(side.name, result)) for _ in range(options.steps)]
            return {"losses": losses, "before_mib": before, "peak_mib": worker.peak_mib()}
        finally:
            worker.close()


def validate(name: str, losses: list[float], ours: list[float]) -> None:
    """Raise unless the losses are ours."""
    if not np.allclose(losses, ours, rtol=TOLERANCE, atol=0):
        raise SystemExit(f"losses differ: ours {ours}, {name} {losses}")


def add(report: Report, side: rivals.Side, batch: int, options: argparse.Namespace) -> dict:
    """Measure `--repeats` fresh processes, and add and print the row of their median."""
    runs = [measure(side, batch, options) for _ in range(options.repeats)]
    ours = [row for row in report.rows if row["rival"] is None]
    same = [row for row in ours if row["batch"] == batch]
    if same and side is not rivals.OURS:
        validate(side.name, runs[0]["losses"], same[0]["losses"])
    peaks = [run["peak_mib"] for run in runs]
    row = {
        "name": f"{side.name}, batch {batch}",
        "rival": None if side is rivals.OURS else side.name,
        "batch": batch,
        "losses": runs[0]["losses"],
        "before_mib": statistics.median(run["before_mib"] for run in runs),
        "peak_mib": statistics.median(peaks),
        "lowest": min(peaks),
        "highest": max(peaks),
    }
    first = (same or ours or [row])[0]
    row["ratio"] = row["peak_mib"] / first["peak_mib"]
    report.rows.append(row)
    spread = f"{row['lowest']:.0f}-{row['highest']:.0f}"
    print(
        f"{row['name']:{WIDTH}} {row['before_mib']:10.0f} {row['peak_mib']:10.0f}  {spread:12} "
        f"{row['ratio']:6.2f}",
        flush=True,
    )
    return row


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each side and batch."""
    options = _options(arguments)
    first, *more = options.batch_size
    sides = {side.name: side for side in rivals.installed(rivals.MEMORY)}
    names = wanted(list(sides), options.only) if sides else []
    report = Report(options, timed=False)
    print(f"{options.steps} training steps, peak resident memory; ratio to ours at batch {first}")
    print(f"{'':{WIDTH}} {'before, MiB':>10} {'peak, MiB':>10}  {'spread':12} {'ratio':>6}")
    measure(rivals.OURS, first, options)  # not counted: what must be compiled is compiled here
    ours = [add(report, rivals.OURS, batch, options) for batch in (first, *more)]
    theirs = [add(report, sides[name], first, options) for name in names]
    growth = ours[-1]["ratio"]
    report.conclude(
        "growth", growth, f"ours grows {growth:.2f}-fold from batch {first} to {ours[-1]['batch']}"
    )
    if theirs:
        least = min(theirs, key=lambda row: row["ratio"])
        text = f"{least['name']} takes {least['ratio']:.2f} times our memory, the least of them"
        report.conclude("ratio to PyTorch at its best", least["ratio"], text)
    report.save()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__, repeats=3)
    made.add_argument(
        "--batch-size", type=positive, nargs="+", default=[128, 256, 512, 1024], metavar="N"
    )
    made.add_argument("--image-size", type=positive, default=32)
    made.add_argument("--steps", type=positive, default=3)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
