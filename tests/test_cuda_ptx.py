"""Every tiled kernel, compiled without a GPU: to PTX, and by ptxas, whose report is read."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numba
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)
if numba.config.ENABLE_CUDASIM:
    pytest.skip("the simulator does not compile", allow_module_level=True)

from deconv_core.cuda import config, conv, depthwise, few, offline, pack, splitk, spread
from deconv_core.cuda.config import Tile
from deconv_core.geometry import ceil_div

CAPABILITIES = [(7, 5), (8, 0), (9, 0)]
PTXAS = offline.find_tool("ptxas")
MAKERS = {"spread": (spread.spread_kernel, conv.SPREAD), "dot": (splitk.dot_kernel, conv.DOT)}


def variants() -> list[Any]:
    """Return every (kernel, tile, precision, compute capability) of the tables."""
    found = {}
    for cc in CAPABILITIES:
        for precision in config.PRECISIONS if cc >= (8, 0) else ("float32",):
            rows = [(kind, tile) for kind in MAKERS for *_, tile in config.table(kind, precision)]
            rows = [(kind, tile) for kind, tile in rows if not tile.direct]
            rows += [(kind, replace(tile, wide=True)) for kind, tile in rows if kind == "spread"]
            for kind, tile in rows:
                name = precision if tile.tensor else "float32"
                size = f"{tile.rows}x{tile.columns}x{tile.depth}" + "-wide" * tile.wide
                label = f"{kind}-{size}-{name}-sm{cc[0]}{cc[1]}"
                found[label] = pytest.param(kind, tile, name, cc, id=label)
    return list(found.values())


def report(
    function: Callable[..., None], signature: Any, cc: Any, threads: int, blocks: int
) -> Any:
    """Compile a kernel, and return ptxas's report of it."""
    if PTXAS is None:
        pytest.skip("ptxas is not installed: pip install nvidia-cuda-nvcc")
    ptx = offline.compile_ptx(function, signature, cc, threads, blocks)
    return offline.assemble(ptx, cc, threads, PTXAS)


def count(ptx: str, instruction: str) -> int:
    """Return how often an instruction stands in a kernel."""
    return len(re.findall(rf"^\s*(?:@%p\d+ )?{re.escape(instruction)}", ptx, re.MULTILINE))


def writes_together(ptx: str) -> bool:
    """Return whether a kernel has atomics: what several threads add up has no fixed order."""
    return bool(re.search(r"^\s*(?:@%p\d+ )?(?:atom|red)\.", ptx, re.MULTILINE))


@pytest.mark.parametrize(("kind", "tile", "precision", "cc"), variants())
def test_a_kernel_is_what_its_tile_says(
    kind: str, tile: Tile, precision: str, cc: tuple[int, int]
) -> None:
    maker, signature = MAKERS[kind]
    waits = cc >= (8, 0)
    kernel = maker(tile, precision, waits)
    found = report(kernel, signature, cc, tile.threads, tile.blocks)

    assert (found.stack, found.spills) == (0, 0)
    assert found.shared == tile.shared_bytes <= 48 << 10
    assert found.blocks >= (tile.blocks if waits else 2)

    # The arithmetic of one stage, each multiplication exactly once.
    sums = tile.thread_rows * tile.thread_columns
    products = {"float32": 0, "tf32": 1, "3xtf32": 3}[precision] * tile.depth // 8 * sums // 4
    assert count(found.ptx, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") == products
    assert count(found.ptx, "fma.rn.f32") == (0 if tile.tensor else tile.depth * sums)

    # What is copied in a stage, by 16 bytes and by 4, as often as the code of a copy stands there.
    source, each = tile.columns // (4 if tile.wide else 1), tile.depth / tile.threads
    wide, narrow = source * each if tile.wide else 0, 0 if tile.wide else source * each
    if kind == "spread":
        wide += ceil_div(tile.depth * tile.rows // 4, tile.threads)
        places = max(1, source // tile.threads)
    else:
        narrow += tile.rows * each
        places = source * each
    fetches = count(found.ptx, "cp.async.commit_group") if waits else 2
    assert fetches in (2, tile.stages)
    assert count(found.ptx, "cp.async.cg.shared.global") == (fetches * wide if waits else 0)
    assert count(found.ptx, "cp.async.ca.shared.global") == (fetches * narrow if waits else 0)
    assert count(found.ptx, "cp.async.wait_group") == int(waits)
    # The phases, and the tap of a stage; without asynchronous copies also what is copied.
    tables = 1 + fetches if kind == "spread" else 0
    assert count(found.ptx, "ld.global.v4") == tables + (0 if waits else fetches * wide)

    # What they multiply is read by 16 bytes, and so are the columns' places: on tensor cores each
    # lane has half of a warp's columns twice, for two of the eight terms.
    chunks = tile.thread_rows + tile.thread_columns
    if tile.tensor:
        chunks = (tile.thread_rows + tile.thread_columns // 2) // 4
    assert count(found.ptx, "ld.shared.v4") == tile.depth * chunks // 4 + fetches * places
    assert count(found.ptx, "ld.local") == count(found.ptx, "st.local") == 0
    assert not writes_together(found.ptx)


FEW = config.choose("spread", "float32", rows=4, others=1)
DIRECT = [
    (depthwise.depthwise_spread, conv.DEPTHWISE, config.DEPTHWISE_SPREAD, depthwise.STRIP, 0.5),
    (depthwise.depthwise_dot, conv.DOT, config.DEPTHWISE_DOT, config.DEPTHWISE_DOT.columns, 0.5),
    (few.few_kernel, conv.SPREAD, FEW, FEW.thread_rows * FEW.thread_columns, 0.35),
]


@pytest.mark.parametrize("cc", CAPABILITIES)
@pytest.mark.parametrize(
    ("maker", "signature", "tile", "sums", "occupancy"), DIRECT, ids=["spread", "dot", "few"]
)
def test_a_kernel_that_reads_where_things_lie_needs_no_tile(
    maker: Any, signature: Any, tile: Tile, sums: int, occupancy: float, cc: tuple[int, int]
) -> None:
    found = report(maker(tile, "float32", True), signature, cc, tile.threads, tile.blocks)
    assert (found.stack, found.spills) == (0, 0)
    assert found.blocks >= tile.blocks and found.occupancy >= occupancy
    assert count(found.ptx, "fma.rn.f32") % sums == 0 < count(found.ptx, "fma.rn.f32")
    assert not writes_together(found.ptx)


@pytest.mark.parametrize("cc", CAPABILITIES)
def test_the_small_kernels_compile(cc: tuple[int, int]) -> None:
    for function, signature, threads in (
        (pack.pack, pack.PACK, pack.THREADS),
        (splitk.add_chunks, conv.ADD_CHUNKS, splitk.THREADS),
    ):
        found = report(function, signature, cc, threads, 1)
        assert (found.stack, found.spills) == (0, 0)
        assert found.occupancy == 1
        assert not writes_together(found.ptx)


def test_a_report_counts_what_spills() -> None:
    """More sums than registers: the report that every kernel passes must be able to fail."""
    tile = Tile(64, 128, 8, 64, 32, blocks=8)
    kernel = spread.spread_kernel(tile, "float32", True)
    assert report(kernel, conv.SPREAD, (8, 0), tile.threads, tile.blocks).spills > 0
