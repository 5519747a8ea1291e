"""What DDNet's training step should cost on a GPU that is not at hand: nothing here is timed.

    python benchmarks/cuda_estimate.py                       tail as a matrix, as it is trained
    python benchmarks/cuda_estimate.py --layer-by-layer --precision tf32 --capability 8.0

The step's launches are noted (cuda_launches.py). Each kernel is compiled to PTX and assembled: that
gives its registers and the blocks that fit on a multiprocessor. A tile of it is executed by the PTX
machine of the tests, which counts instructions. A kernel is predicted to take the longest of

* its multiplications, those of padding included, at the peak rate of the units that it uses,
* its instructions at one a clock on each of a multiprocessor's four schedulers,
* the bytes of its arrays, each read or written once, at the rate of a copy,

the first two on the busiest multiprocessor, where blocks do not come out even. Its roofline knows
neither instructions nor padding. What the prediction leaves out makes a kernel slower: latencies,
shared memory, elements that are read twice, launches. The rates of 9.0 are an H100's, from the
design notes: those of tensor cores are for its own instructions (wgmma), and mma.sync is reported
to reach about two thirds of them. The rates of 8.0 are from an A100's data sheet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cuda_launches
import numpy as np
from cuda_launches import Launch, Step
from numba.cuda import types
from ptx_machine import Machine  # the tests', which cuda_launches makes importable
from report import positive, wanted

from deconv_core.cuda import config, offline
from deconv_core.geometry import ceil_div


@dataclass(frozen=True)
class Gpu:
    """A GPU's rates, a second: operations, bytes copied, clocks."""

    name: str
    multiprocessors: int
    float32: float
    tf32: float
    copied: float
    clock: float

    def rate(self, precision: str) -> float:
        """Return the operations of a precision; 3xtf32 makes three of each."""
        return {"float32": self.float32, "tf32": self.tf32, "3xtf32": self.tf32 / 3}[precision]

    @property
    def issued(self) -> float:
        """Instructions of warps."""
        return 4 * self.multiprocessors * self.clock


GPUS = {
    "9.0": Gpu("H100", 132, 67e12, 495e12, 3.0e12, 1.98e9),
    "8.0": Gpu("A100 80GB", 108, 19.5e12, 156e12, 1.8e12, 1.41e9),
}
# How often a kernel moves its arrays, on average, where it rewrites some of them in place.
REWRITES = {"adam": 7 / 4, "add": 3 / 2}
# Operations of a warp's instruction: ``fma`` by 32 lanes, or a third of a 16x8x8 ``mma``, or all.
PRODUCT = {"float32": 64, "3xtf32": 2048 / 3, "tf32": 2048}


class CountingMachine(Machine):
    """The tests' PTX machine, which counts what a block's warps execute."""

    def __init__(self, ptx: str, threads: int) -> None:
        super().__init__(ptx, threads)
        self.executed = self.products = 0

    def execute(self, opcode: str, operands: list[str]) -> None:
        """Execute an instruction; moves between registers are not there after ptxas.

        Branches and barriers do not come here, and are not counted.
        """
        warps = np.unique(self.active // 32).size
        self.executed += warps * (not opcode.startswith("mov"))
        self.products += warps * opcode.startswith(("fma.rn.f32", "mma.sync"))
        super().execute(opcode, operands)


@cache
def compiled(kernel: Any, threads: int, cc: tuple[int, int], ptxas: str) -> offline.Report:
    """Compile and assemble a kernel."""
    function, kinds, blocks = kernel
    ptx = offline.compile_ptx(function, types.void(*kinds), cc, threads, blocks)
    return offline.assemble(ptx, cc, threads, ptxas)


def executed(launch: Launch, ptx: str) -> tuple[float, float]:
    """Return the instructions of a tile, of all its warps, and how many of them are products.

    That of the first tile, or where a pass has phases the mean of the first tile of each.
    """
    assert launch.tile is not None
    *_, plan = launch.arguments
    phases = getattr(plan, "phases", 1)  # a weight gradient has none
    tiles = getattr(plan, "padded_rows", 0) // launch.tile.rows  # of a phase's first columns
    machine = CountingMachine(ptx, launch.threads)
    machine.prepare([
        np.zeros(a.shape, a.dtype) if isinstance(a, np.ndarray)
        else a.copy_to_host() if hasattr(a, "copy_to_host") else a
        for a in launch.arguments
    ])  # fmt: skip
    for phase in range(phases):
        machine.run_block(phase * tiles)
    return machine.executed / phases, machine.products / phases


def useful(launch: Launch) -> float:
    """Return the operations of a tiled kernel that are not padding."""
    *_, p = launch.arguments
    sums = p.terms if hasattr(p, "chunks") else p.channels * p.taps
    return 2.0 * p.groups * p.positions * p.results * sums


def estimate(launch: Launch, gpu: Gpu, report: offline.Report) -> dict[str, Any]:
    """Return a row: what a launch does, and how long it is predicted to take."""
    tile = launch.tile
    nbytes = launch.nbytes * REWRITES.get(launch.name, 1)
    row = {
        "name": launch.name, "times": 1, "registers": report.registers,
        "resident": report.blocks, "occupancy": report.occupancy, "seconds": nbytes / gpu.copied,
    }  # fmt: skip
    row |= {"roofline": row["seconds"], "limit": "copy"}
    if tile is None:
        return row
    instructions, products = executed(launch, report.ptx)
    operations, needed = products * PRODUCT[launch.precision], useful(launch)
    # As if all multiprocessors had as much to do as the busiest.
    busiest = ceil_div(launch.blocks, gpu.multiprocessors) * gpu.multiprocessors
    limits = {
        "copy": nbytes / gpu.copied,
        launch.precision: busiest * operations / gpu.rate(launch.precision),
        "issue": busiest * instructions / gpu.issued,
    }
    limit = max(limits, key=lambda name: limits[name])
    return row | {
        "tile": f"{tile.rows}x{tile.columns}x{tile.depth}", "units": launch.precision,
        "blocks": launch.blocks, "instructions": instructions, "products": products,
        "tile_intensity": tile.rows * tile.columns / (2 * (tile.rows + tile.columns)),
        "intensity": needed / nbytes, "padding": launch.blocks * operations / needed - 1,
        "seconds": limits[limit], "limit": limit,
        "roofline": max(needed / gpu.rate(launch.precision), limits["copy"]),
    }  # fmt: skip


def rows(step: Step, gpu: Gpu, cc: tuple[int, int], ptxas: str, only: str | None) -> list[Any]:
    """Return the rows of a step, equal passes as one, and last what is done without a kernel."""
    found: dict[str, dict[str, Any]] = {}
    names = wanted(list(dict.fromkeys(launch.name for launch in step.launches)), only)
    for launch in step.launches:
        if launch.name in names:
            row = estimate(launch, gpu, compiled(launch.kernel, launch.threads, cc, ptxas))
            if (first := found.setdefault(row["name"], row)) is not row:
                first["times"] += 1
                first["seconds"] += row["seconds"]
                first["roofline"] += row["roofline"]
    for name, nbytes in () if only else step.moved.items():
        ways = 2 if "cpy" in name else 1
        found[name] = {"name": name, "times": step.calls[name], "limit": "copy"}
        found[name]["seconds"] = found[name]["roofline"] = ways * nbytes / gpu.copied
    return sorted(found.values(), key=lambda row: "tile" not in row)


COLUMNS = (
    "kernel", "times", "tile", "units", "registers", "occupancy", "blocks",
    "instructions of a tile (products)", "operations/byte: tile, arrays", "padding",
    "predicted, us", "of its roofline",
)  # fmt: skip


def cells(row: dict[str, Any]) -> Iterator[str]:
    """Yield the cells of a row."""
    yield from (row["name"], str(row["times"]), row.get("tile", ""), row.get("units", ""))
    yield str(row.get("registers", ""))
    yield f"{row['resident']} blocks, {row['occupancy']:.0%}" if "resident" in row else ""
    yield str(row.get("blocks", ""))
    if "tile" in row:
        yield f"{row['instructions']:.0f} ({row['products']:.0f})"
        yield f"{row['tile_intensity']:.0f}, {row['intensity']:.0f}"
        yield f"{row['padding']:.0%}"
    else:
        yield from ("", "", "")
    yield f"{row['seconds'] * 1e6:.1f} ({row['limit']})"
    yield f"{row['roofline'] / row['seconds']:.0%}"


def main(arguments: list[str] | None = None) -> None:
    """Print a table, the sum of its times, and the number of launches."""
    options = _options(arguments)
    ptxas = offline.find_tool("ptxas")
    if ptxas is None:
        raise SystemExit("ptxas is not installed: pip install nvidia-cuda-nvcc")
    gpu, cc = GPUS[options.capability], tuple(map(int, options.capability.split(".")))
    step = cuda_launches.of_a_step(
        options.batch_size, options.image_size, options.precision, not options.layer_by_layer, cc
    )
    table = rows(step, gpu, cc, ptxas, options.only)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in table:
        print("| " + " | ".join(cells(row)) + " |")
    summary = {
        "gpu": gpu.name,
        "seconds": sum(row["seconds"] for row in table),
        "roofline": sum(row["roofline"] for row in table),
        "launches": step.calls["launch"],
        "replayed": step.replayed,
    }
    print(f"\nPredicted for an {gpu.name}, together: {summary['seconds'] * 1e3:.2f} ms; ", end="")
    print(f"the sum of the rooflines is {summary['roofline'] * 1e3:.2f} ms.")
    replayed = ", ".join(f"{name} {times}" for name, times in step.replayed.items())
    print(f"Launches of a step: {summary['launches']}. The driver's calls of a replay: {replayed}.")
    if options.json:
        options.json.write_text(json.dumps({"rows": table, "summary": summary}, indent=1) + "\n")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--precision", choices=config.PRECISIONS, default="3xtf32")
    made.add_argument("--capability", choices=GPUS, default="9.0")
    made.add_argument("--batch-size", type=positive, default=128)
    made.add_argument("--image-size", type=positive, default=32)
    made.add_argument("--layer-by-layer", action="store_true", help="no affine tail as a matrix")
    made.add_argument("--only", metavar="TEXT", help="rows whose name contains this")
    made.add_argument("--json", metavar="FILE", type=Path, help="write the rows")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
