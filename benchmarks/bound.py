"""How many times as fast as PyTorch the algorithms built here would be, if they ran perfectly.

    python benchmarks/kernels.py --table transposed --threads 2 --json kernels.json
    python benchmarks/bound.py kernels.json

A perfect pass takes as long as its multiply-adds need at the measured peak, or as its arrays need
to be moved once, at the speed of a copy that moves as many bytes. Where Winograd's tiles fit, their
products are counted instead, if they are fewer. Transforms, packing and all else are taken to cost
nothing.
PyTorch's time in its better layout, over that time, bounds the ratio. Only another algorithm could
pass it: tiles of large kernels in pieces, say.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kernels
import numpy as np
from ratios import geometric_mean

from deconv_core.cpu.depthwise.depthplan import is_depthwise
from deconv_core.cpu.winograd.tiling import fit_tiles
from deconv_core.geometry import ConvGeometry
from deconv_core.sweep import Sweep, forward_sweep

MIB = (1, 4, 16, 32, 64, 128)  # that copies move, from within the caches to beyond them


def copy_speeds(threads: int) -> dict[int, float]:
    """Return how many bytes a second `threads` copies read and write at best, by their number."""
    speeds = {}
    with ThreadPoolExecutor(threads) as pool:
        for size in MIB:
            pairs = [np.ones((2, (size << 19) // threads), np.uint8) for _ in range(threads)]
            moved, least = sum(pair.nbytes for pair in pairs), math.inf
            for _ in range(30):
                start = time.perf_counter()
                list(pool.map(lambda pair: np.copyto(pair[0], pair[1]), pairs))
                least = min(least, time.perf_counter() - start)
            speeds[moved] = moved / least
    return speeds


def speed_of(traffic: int, speeds: dict[int, float]) -> float:
    """Return the best speed of copies of so many bytes or more."""
    return max(speed for size, speed in speeds.items() if size >= min(traffic, max(speeds)))


def products(shape: ConvGeometry) -> float:
    """Return the fewest multiply-adds of a pass: its own, or those of Winograd's tiles."""
    sweeps = forward_sweep(shape.rows), forward_sweep(shape.cols)
    tiling = None if is_depthwise(shape) else fit_tiles(*sweeps)
    if tiling is None:
        return shape.macs
    return min(1.0, _taps((tiling.rows, tiling.columns)) / _taps(sweeps)) * shape.macs


def _taps(sweeps: Any) -> int:
    """Return the products of one image in one channel."""

    def along(axis: Sweep) -> int:
        return len(axis.taps) * axis.positions

    return math.prod(along(axis) for axis in sweeps)


def bounds(
    report: dict[str, Any], speeds: dict[int, float]
) -> Iterator[tuple[str, str, float, float]]:
    """Yield table, name, bound of the ratio and ratio of each pass in a report of kernels.py."""
    machine, in_better_layout = report["machine"], kernels.WAYS["in its better layout"]
    peak = 1e9 * machine["peak_gflops"][str(machine["threads"])]
    rows = (row for row in report["rows"] if row["rival"] and in_better_layout(row))
    timed = kernels.against_fastest(rows)
    for row in kernels.rows_of(None, False):
        if row.name in timed:
            found, shape = timed[row.name], row.geometry
            sizes = shape.input_shape, shape.output_shape, shape.weight_shape
            traffic = 4 * sum(math.prod(size) for size in sizes)
            least = max(2 * products(shape) / peak, traffic / speed_of(traffic, speeds))
            yield row.table, row.name, found["rival_s"] / least, found["ratio"]


def main(arguments: list[str] | None = None) -> None:
    """Print each pass, the tightest bound first, and the geometric means of each table."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("report", type=Path, help="what kernels.py --json wrote")
    report = json.loads(made.parse_args(arguments).report.read_text())
    speeds = copy_speeds(report["machine"]["threads"])
    for size, speed in speeds.items():
        print(f"copies that move {size >> 20} MiB: {speed / 1e9:.0f} GB/s")
    print(f"{'':54}  bound  ratio  reached")
    found = sorted(bounds(report, speeds), key=lambda row: row[2])
    for _, name, bound, ratio in found:
        print(f"{name:54} {bound:6.2f} {ratio:6.2f} {ratio / bound:7.0%}")
    for table in dict.fromkeys(row[0] for row in found):
        rows = [row for row in found if row[0] == table]
        bound, ratio = (geometric_mean([row[i] for row in rows]) for i in (2, 3))
        print(f"{table}: at most {bound:.2f}x, reached {ratio:.2f}x, {ratio / bound:.0%} of it")


if __name__ == "__main__":
    main()
