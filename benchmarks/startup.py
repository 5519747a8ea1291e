"""Measure what is paid before the first result: the import, and DDNet's first training step.

    python benchmarks/startup.py --threads 2

Every number is a fresh process. The import is what `deconv_core` takes beyond NumPy and Numba. The
step is measured with all kernels to compile (an empty cache folder), and then with that folder
full; "until" counts from the start of the process to the end of the step. The losses must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ddnet_case
import numpy as np
import rivals
from report import Report, parser, positive, wanted

TOLERANCE = 1e-4  # of a loss
WIDTH = 34

IMPORT = """
import json, time
before = time.perf_counter()
import numpy, numba
start = time.perf_counter()
import deconv_core
end = time.perf_counter()
print(json.dumps({"seconds": end - start, "numpy_numba_s": start - before, "end": time.time()}))
"""

STEP = """
import importlib, json, sys, time
folder, module, case, threads, options = sys.argv[1:]
sys.path.insert(0, folder)
import numpy
begin = time.perf_counter()
step = importlib.import_module(module).step(
    dict(numpy.load(case)), threads=int(threads), **json.loads(options)
)
start = time.perf_counter()
loss = step()
end = time.perf_counter()
print(json.dumps(
    {"seconds": end - start, "prepare_s": start - begin, "loss": float(loss), "end": time.time()}
))
"""


def fresh(script: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a script in a fresh process and return what it printed, with its seconds since birth."""
    command = [sys.executable, "-c", script, *arguments]
    start = time.time()
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer | {"until_s": answer.pop("end") - start}


def first_step(
    side: rivals.Side, case: Path, threads: int, cache: Path | None = None
) -> dict[str, Any]:
    """Take one step in a fresh process, with the kernels' cache in a folder."""
    environment = dict(side.environment, OMP_NUM_THREADS=str(threads))
    if cache:
        environment |= {"NUMBA_CACHE_DIR": str(cache), "NUMBA_NUM_THREADS": str(threads)}
    folder = str(Path(__file__).parent)
    options = json.dumps(side.options)
    return fresh(STEP, folder, side.module, str(case), str(threads), options, **environment)


def add(report: Report, name: str, runs: list[dict[str, Any]], **extra: Any) -> None:
    """Add and print the row of some runs' medians."""
    seconds = [run["seconds"] for run in runs]
    row = {
        "name": name,
        "seconds": statistics.median(seconds),
        "until_s": statistics.median(run["until_s"] for run in runs),
        "lowest": min(seconds),
        "highest": max(seconds),
        "runs": len(runs),
        **extra,
    }
    report.rows.append(row)
    report.summary[name] = row["seconds"]
    spread = f"{row['lowest']:.3f}-{row['highest']:.3f}"
    print(
        f"{name:{WIDTH}} {row['seconds']:10.3f} {spread:>16} {row['until_s']:10.3f} {len(runs):5}",
        flush=True,
    )


def validate(runs: list[dict[str, Any]]) -> None:
    """Raise unless all first losses agree."""
    losses = [run["loss"] for run in runs]
    if not np.allclose(losses, losses[0], rtol=TOLERANCE, atol=0):
        raise SystemExit(f"first losses differ: {losses}")


def main(arguments: list[str] | None = None) -> None:
    """Print the rows that are wanted."""
    options = _options(arguments)
    ours = ["import deconv_core", "first step, cold cache", "first step, warm cache"]
    sides = {f"first step, {s.name}": s for s in rivals.installed(rivals.STEP[:1])}
    names = wanted([*ours, *sides], options.only)
    report = Report(options, timed=False)
    columns = f"{'seconds':>10} {'spread':>16} {'until, s':>10} {'runs':>5}"
    print(f"{'':{WIDTH}} {columns}")
    if ours[0] in names:
        runs = [fresh(IMPORT) for _ in range(options.repeats + 1)][1:]
        others = statistics.median(run["numpy_numba_s"] for run in runs)
        add(report, ours[0], runs, numpy_numba_s=others)
        print(f"{'(NumPy and Numba before it)':{WIDTH}} {others:10.3f}")
    with tempfile.TemporaryDirectory() as folder:
        _steps(report, options, [name for name in names if name != ours[0]], sides, Path(folder))
    report.save()


def _steps(
    report: Report,
    options: argparse.Namespace,
    names: list[str],
    sides: dict[str, rivals.Side],
    folder: Path,
) -> None:
    """Measure first steps, ours from an empty cache and a full one, and the rivals'."""
    case = folder / "case.npz"
    np.savez(case, **ddnet_case.training(options.batch_size))  # type: ignore[arg-type]
    caches = [folder / f"cache{i}" for i in range(options.cold)]
    everything: list[dict[str, Any]] = []
    if any("cache" in name for name in names):  # a warm cache is one that was cold
        cold = [first_step(rivals.OURS, case, options.threads, cache) for cache in caches]
        add(report, "first step, cold cache", cold)
        everything += cold
    if "first step, warm cache" in names:
        warm = [
            first_step(rivals.OURS, case, options.threads, caches[0])
            for _ in range(options.repeats)
        ]
        add(report, "first step, warm cache", warm)
        everything += warm
    for name, side in sides.items():
        if name in names:
            runs = [first_step(side, case, options.threads) for _ in range(options.repeats)]
            add(report, name, runs)
            everything += runs
    if everything:
        validate(everything)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__, repeats=5)
    made.add_argument("--batch-size", type=positive, default=128)
    made.add_argument(
        "--cold", type=positive, default=1, metavar="N", help="runs from an empty cache"
    )
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
