"""The tasks that a pass is cut into, and the multiply-adds of each, read from the engine's plans.

A run is watched: every launch of a pass is noted with its plan, so that what is counted is what
runs. Multiply-adds are the register tiles': whole vectors, whether their last elements are of use
or not. Packing and unpacking go with them and are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any
from unittest import mock

import numba
import numpy as np

from deconv_core.cpu import conv
from deconv_core.cpu.amx.amxpass import run_amx
from deconv_core.cpu.amx.blend import DEPTH, SIDE
from deconv_core.cpu.batch import batchplan
from deconv_core.cpu.batch.batchgradplan import BatchDotPlan, BatchGradPlan
from deconv_core.cpu.batch.batchplan import BatchPlan
from deconv_core.cpu.config import MACHINE
from deconv_core.cpu.conv import choose, choose_grad
from deconv_core.cpu.matrices import gemmplan, linear
from deconv_core.cpu.matrices.gemmplan import GemmPlan
from deconv_core.cpu.matrices.wideplan import WidePlan
from deconv_core.cpu.positions import made
from deconv_core.cpu.positions.blocking import covered
from deconv_core.cpu.positions.plan import Plan
from deconv_core.cpu.runtime import tasks
from deconv_core.cpu.winograd import tilegradplan
from deconv_core.cpu.winograd.tilegradplan import TileGradPlan
from deconv_core.cpu.winograd.tilepassplan import TilePlan
from deconv_core.geometry import ConvGeometry, ceil_div

share_parts = numba.njit(
    lambda worker, workers, ends, each: tasks.share_parts(worker, workers, ends, each)
)

KINDS = {  # of a convolution's passes, of a transposed one's
    "forward": ("result", "source gradient"),
    "input grad": ("source gradient", "result"),
    "weight grad": ("weight gradient", "weight gradient"),
}


@dataclass(frozen=True)
class Launch:
    """One launch of a pass.

    Attributes
    ----------
    kind : "result", "source gradient" or "weight gradient" of a convolution; the sizes of a
        product of matrices
    geometry : of the convolution; None for matrices
    loads : multiply-adds of each task, in the order of the tasks
    cut : what the tasks are
    workers : threads that the launch wakes at most
    ends : what all parts of the work before each take, where that decides how tasks are shared
    """

    kind: str
    geometry: ConvGeometry | None
    loads: tuple[int, ...]
    cut: str
    workers: int
    ends: tuple[int, ...] = ()

    @cached_property
    def total(self) -> int:
        """Multiply-adds of all tasks."""
        return sum(self.loads)

    def busiest(self, cores: int) -> int:
        """Return the multiply-adds of the thread that has most: each takes a run of the tasks."""
        workers = min(cores, self.workers)
        ends = np.array(self.ends or range(len(self.loads) + 1))
        each = len(self.loads) // (len(ends) - 1)
        runs = (share_parts(worker, workers, ends, each) for worker in range(workers))
        return max(sum(self.loads[a:b]) for a, b in runs)

    def bound(self, cores: int) -> float:
        """Return how many times as fast as on one core the pass can be at most."""
        return self.total / self.busiest(cores)


def spread_loads(plan: Plan, itemsize: int) -> tuple[int, ...]:
    """Return the multiply-adds of a forward pass's or an input gradient's tasks."""
    p, width = plan.numbers[0], MACHINE.vector_bytes // itemsize
    each = int(p["source_channels"]) * len(plan.taps)
    loads = [
        [
            each * lanes * sum(covered(length, lanes, vectors, width) for length in run)
            for run in plan.runs(vectors)
        ]
        for lanes, vectors in ((int(unit[2]), int(unit[4])) for unit in plan.units)
    ]
    return tuple(chain.from_iterable(zip(*loads, strict=True)))


def dot_loads(plan: Plan, itemsize: int) -> tuple[int, ...]:
    """Return the multiply-adds of a weight gradient's tasks."""
    p, width = plan.numbers[0], MACHINE.vector_bytes // itemsize
    units = made.unit_products(plan.numbers, plan.units)
    chunks, lengths = (
        int(p["chunks"]),
        [sum(ceil_div(n, width) * width for n in run) for run in plan.runs(1)],
    )
    ends = [chunk * len(lengths) // chunks for chunk in range(chunks + 1)]
    return tuple(sum(lengths[a:b]) * unit for a, b in pairwise(ends) for unit in units)


def _of_gemm(kind: str, geometry: ConvGeometry, plan: GemmPlan, itemsize: int) -> Launch:
    """Return the launch of a pass that is a product of matrices."""
    p, block = plan.numbers[0], gemmplan.VECTORS * (MACHINE.vector_bytes // itemsize)
    tile = gemmplan.LANES * block
    if kind == "weight gradient":
        loads = (int(p["tiles"] * p["positions"]) * tile,) * len(plan.units)
        return Launch(kind, geometry, loads, f"{len(loads)} blocks of columns", len(loads))
    ends = np.minimum(np.arange(p["blocks"] + 1) * p["unit_run"], p["tiles"])
    each = int(p["source_channels"] * p["kernel"]) * tile
    loads = tuple(int(tiles) * each for tiles in np.diff(ends) for _ in plan.units)
    cut = f"{p['blocks']} runs of positions x {len(plan.units)} blocks of channels"
    return Launch(kind, geometry, loads, cut, len(loads))


def _of_batches(kind: str, geometry: ConvGeometry, plan: BatchPlan, itemsize: int) -> Launch:
    """Return the launch of a pass with images innermost."""
    p, width = plan.numbers[0], MACHINE.vector_bytes // itemsize
    loads = [
        int(p["source_channels"])
        * batchplan.run_products(plan.classes[a:b], plan.runs, int(lanes), int(vectors), width)
        for _, _, lanes, vectors in plan.units
        for a, b in pairwise(plan.class_at)
    ] * int(p["blocks"])
    cut = f"{p['blocks']} blocks of images x {len(plan.units)} tiles x {p['row_blocks']} rows"
    return Launch(kind, geometry, tuple(loads), cut, plan.workers)


def _of_batch_sums(geometry: ConvGeometry, plan: BatchGradPlan, itemsize: int) -> Launch:
    """Return the launch of a weight gradient with sums over images."""
    p, block = plan.numbers[0], batchplan.VECTORS * (MACHINE.vector_bytes // itemsize)
    chunks, units = int(p["chunks"]), int(p["weight_size"] // p["panel_size"])
    ends = [chunk * int(p["blocks"]) // chunks * int(p["images"]) for chunk in range(chunks)]
    work = int(plan.runs[:, 3].sum()) * batchplan.LANES * block
    lengths = [b - a for a, b in pairwise([*ends, geometry.batch])]
    loads = tuple(length * work for length in lengths for _ in range(units))
    cut = f"{chunks} chunks x {units} tiles of channels"
    return Launch("weight gradient", geometry, loads, cut, plan.workers)


def _of_batch_dots(geometry: ConvGeometry, plan: BatchDotPlan) -> Launch:
    """Return the launch of a weight gradient whose vectors are images."""
    p = plan.numbers[0]
    chunks, each = int(p["chunks"]), int(p["rows"] * p["positions"])
    ends = [chunk * int(p["blocks"]) // chunks for chunk in range(chunks + 1)]
    units = [unit * each for unit in made.unit_products(plan.numbers, plan.units)]
    loads = tuple((b - a) * unit for a, b in pairwise(ends) for unit in units)
    cut = f"{chunks} chunks x {len(units)} tiles of channels"
    return Launch("weight gradient", geometry, loads, cut, plan.workers)


def _of_tiles(kind: str, geometry: ConvGeometry, plan: TilePlan, itemsize: int) -> Launch:
    """Return the launch of a forward pass or an input gradient by Winograd's tiles."""
    width, (lanes, vectors) = MACHINE.vector_bytes // itemsize, MACHINE.spread[0]
    each = int(plan.numbers[0]["source_channels"]) * len(plan.runs)
    blocks = [ceil_div(b - a, lanes) * lanes for a, b in pairwise(plan.ends.tolist())]
    units = [1 if count <= width else vectors for _, _, count in plan.units.tolist()]
    loads = tuple(each * tiles * wide * width for tiles in blocks for wide in units)
    cut = f"{len(blocks)} blocks x {len(units)} tiles of channels"
    return Launch(kind, geometry, loads, cut, plan.workers, tuple(plan.ends.tolist()))


def _of_tile_sums(geometry: ConvGeometry, plan: TileGradPlan, itemsize: int) -> Launch:
    """Return the launch of a weight gradient by Winograd's tiles."""
    block, ends = tilegradplan.VECTORS * (MACHINE.vector_bytes // itemsize), plan.ends.tolist()
    chunks = len(ends) - 1
    each = plan.tasks // chunks
    work = len(plan.reads) * tilegradplan.LANES * block
    loads = tuple((b - a) * work for a, b in pairwise(ends) for _ in range(each))
    cut = f"{chunks} chunks x {each} tiles of channels"
    return Launch("weight gradient", geometry, loads, cut, len(loads), tuple(ends))


def _of_rows(geometry: ConvGeometry, plan: WidePlan, itemsize: int) -> Launch:
    """Return the launch of a weight gradient along the kernel's rows."""
    p, (lanes, vectors) = plan.numbers[0], MACHINE.spread[0]
    wide = covered(int(p["streams"]), lanes, vectors, MACHINE.vector_bytes // itemsize)
    each = int(p["positions"] * p["tiles"]) * lanes * wide
    taps = np.diff(plan.phase_at)
    loads = tuple(int(taps[phase]) * each for _, _, phase in plan.units)
    return Launch("weight gradient", geometry, loads, f"{len(loads)} phases of rows", plan.workers)


def _of_registers(kind: str, geometry: ConvGeometry, plan: Plan) -> Launch:
    """Return the launch of a pass by matrix registers."""
    each = int(plan.numbers[0]["depths"]) * DEPTH * SIDE * len(plan.taps)
    blocks = [sum(ceil_div(length, SIDE) * SIDE for length in run) for run in plan.runs()]
    loads = tuple(each * int(unit[4]) * length for length in blocks for unit in plan.units)
    cut = f"{len(blocks)} blocks x {len(plan.units)} tiles of channels"
    return Launch(kind, geometry, loads, cut, plan.workers, tuple(plan.ends.tolist()))


def of_plan(kind: str, geometry: ConvGeometry, itemsize: int) -> Launch | None:
    """Return the launch of a convolution's pass; None of those whose tiles are others."""
    if kind == "weight gradient":
        _, plan = choose_grad(geometry, itemsize)
    else:
        run, plan = choose(geometry, kind == "source gradient", itemsize)
        if run is run_amx:
            return _of_registers(kind, geometry, plan)
    if isinstance(plan, GemmPlan):
        return _of_gemm(kind, geometry, plan, itemsize)
    if isinstance(plan, BatchPlan):
        return _of_batches(kind, geometry, plan, itemsize)
    if isinstance(plan, BatchGradPlan):
        return _of_batch_sums(geometry, plan, itemsize)
    if isinstance(plan, BatchDotPlan):
        return _of_batch_dots(geometry, plan)
    if isinstance(plan, TilePlan):
        return _of_tiles(kind, geometry, plan, itemsize)
    if isinstance(plan, TileGradPlan):
        return _of_tile_sums(geometry, plan, itemsize)
    if isinstance(plan, WidePlan):
        return _of_rows(geometry, plan, itemsize)
    if not isinstance(plan, Plan):
        return None
    p = plan.numbers[0]
    loads = (dot_loads if kind == "weight gradient" else spread_loads)(plan, itemsize)
    parts = "chunks" if kind == "weight gradient" else "blocks"
    cut = f"{p[parts]} {parts} x {len(plan.units)} tiles of channels"
    return Launch(kind, geometry, loads, cut, plan.workers, tuple(plan.ends.tolist()))


def _of_strips(columns: int, channels: int, lanes: int, strip: int) -> Launch:
    """Return the launch of a product that combines rows: a task is a strip of columns."""
    ends = [*range(0, columns, strip), columns]
    loads = tuple((b - a) * channels * lanes for a, b in pairwise(ends))
    kind = f"{lanes}x{channels} by {channels}x{columns}"
    return Launch(kind, None, loads, f"{len(loads)} strips of columns", len(loads))


def _of_sums(batch: int, features: int, lanes: list[int], chunk: int) -> Launch:
    """Return the launch of a product that sums over features: outputs by chunks of features."""
    ends = [*range(0, features, chunk), features]
    lengths = [b - a for a, b in pairwise(ends)]
    loads = tuple(batch * count * length for count in lanes for length in lengths)
    kind = f"{batch}x{features} by {features}x{sum(lanes)}"
    return Launch(kind, None, loads, f"{len(loads)} chunks of features", len(loads))


@contextmanager
def watched() -> Iterator[Counter[Launch]]:
    """Count the launches made inside the block.

    They are noted where kernels are chosen. A convolution as large as the picture shows as the
    products that it is; depthwise convolutions, of which DDNet has none, are not noted.
    """
    found: Counter[Launch] = Counter()

    def note(kind: str, geometry: ConvGeometry, itemsize: int) -> None:
        launch = of_plan(kind, geometry, itemsize)
        if launch is not None:
            found[launch] += 1

    def source(geometry: ConvGeometry, adjoint: bool, itemsize: int) -> conv.Choice:
        note("source gradient" if adjoint else "result", geometry, itemsize)
        return choose(geometry, adjoint, itemsize)

    def weight(geometry: ConvGeometry, itemsize: int) -> conv.Choice:
        note("weight gradient", geometry, itemsize)
        return choose_grad(geometry, itemsize)

    combine, forward = linear._combine, linear._forward

    def strips(*given: Any) -> None:
        _, _, weights, _, _, _, channels, columns, _, strip, *_ = given
        found[_of_strips(columns, channels, weights.size // channels, strip)] += 1
        combine(*given)

    def sums(*given: Any) -> None:
        _, x, _, _, y, _, out, units, runs, chunk = given
        lanes = [int(units[a:b, 1].sum()) for a, b in pairwise(runs)]
        batch = y.size // out
        found[_of_sums(batch, x.size // batch, lanes, chunk)] += 1
        forward(*given)

    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (conv, "choose", source), (conv, "choose_grad", weight),
        (linear, "_combine", strips), (linear, "_forward", sums),
    ]  # fmt: skip
    patches = [mock.patch.object(*change) for change in changes]
    for patch in patches:
        patch.start()
    try:
        yield found
    finally:
        for patch in patches:
            patch.stop()
