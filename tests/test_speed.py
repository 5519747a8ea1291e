"""A change that halves the speed fails here: ratios inside one run, and instructions counted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from itertools import product

import numba
import numpy as np
import pytest

from deconv_core import functional as F
from deconv_core import geometry, memory
from deconv_core.cpu.config import MACHINE, SUM_TERMS
from deconv_core.cpu.runtime import linking
from deconv_core.cpu.tiles import spread as tile

LANES, VECTORS = MACHINE.spread[0]
POSITIONS = VECTORS * MACHINE.vector_bytes // 4
CHANNELS, TAPS, REPEATS = 32, 9, 200


@numba.njit
def tile_alone(w, x, taps, bias, y):
    """Run the largest tile over and over, on operands in the nearest cache."""
    for _ in range(REPEATS):
        tile.spread(
            LANES, 1, POSITIONS, w, 0, 0, x, 0, 0, POSITIONS, CHANNELS, taps, 0, TAPS, bias, 0,
            y, 0, 0, POSITIONS, 1, 0, SUM_TERMS,
        )  # fmt: skip


def tile_call() -> Callable[[], None]:
    """Return a call of `tile_alone`."""
    w, bias = np.ones(LANES * CHANNELS * TAPS, np.float32), np.zeros(LANES, np.float32)
    x, y = np.ones(POSITIONS * (CHANNELS + 1), np.float32), np.empty(LANES * POSITIONS, np.float32)
    taps = np.arange(TAPS)
    return lambda: tile_alone(w, x, taps, bias, y)


def seconds(call: Callable[[], object]) -> float:
    """Return the shortest of several calls."""
    call()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let kernels run on one thread."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


def calls() -> dict[str, tuple[Callable[[], object], int, float]]:
    """Return DDNet's conv3 and deconv1 by pass: the call, its multiply-adds, the share it needs.

    The share is of the bare tile's speed, about half of what was measured: 1.7 for Winograd's
    tiles, 0.85 and 0.75 for what is direct.
    """
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, np.float32) for s in ((4, 64, 32, 32), (128, 64, 3, 3)))
    conv = geometry.conv(x.shape, w.shape, padding=1)
    z = rng.standard_normal(conv.output_shape, np.float32)
    v = rng.standard_normal((128, 64, 3, 3), np.float32)
    deconv = geometry.conv_transpose(z.shape, v.shape, stride=2, padding=1)
    dy = rng.standard_normal(deconv.input_shape, np.float32)
    strided = {"stride": 2, "padding": 1}
    return {
        "conv3": (lambda: F.conv2d(x, w, padding=1), conv.macs, 0.8),
        "conv3, weight gradient": (
            lambda: F.conv2d_weight_grad(z, x, w.shape, padding=1), conv.macs, 0.5
        ),
        "deconv1": (lambda: F.conv_transpose2d(z, v, **strided), deconv.macs, 0.4),
        "deconv1, input gradient": (
            lambda: F.conv_transpose2d_input_grad(dy, v, z.shape, **strided), deconv.macs, 0.4
        ),
        "deconv1, weight gradient": (
            lambda: F.conv_transpose2d_weight_grad(dy, z, v.shape, **strided), deconv.macs, 0.35
        ),
    }  # fmt: skip


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", list(calls()))
def test_kernels_keep_their_share_of_the_tiles_speed(name: str) -> None:
    call, macs, least = calls()[name]
    bare = tile_call()
    for _ in range(3):  # another program may have had the core
        tile_rate = REPEATS * CHANNELS * TAPS * LANES * POSITIONS / seconds(bare)
        share = macs / seconds(call) / tile_rate
        if share > least:
            return
    pytest.fail(f"{name} runs at {share:.2f} of the bare tile's speed, less than {least}")


def leave(value: float) -> None:
    """Fill whatever waits in the pool with float32 numbers."""
    for size, blocks in memory._idle.items():
        for block, begin in blocks:
            np.ndarray(size // 4, np.float32, block, begin).fill(value)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("size", "weight", "options"),
    [
        ((8, 128, 14, 14), (128, 128, 2, 2), {"stride": 2}),  # direct, forward and back
        ((1, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),  # by Winograd's tiles
        ((44, 46, 4, 4), (46, 18, 3, 3), {"padding": 1}),  # with images innermost
        ((8, 64, 27, 27), (64, 64, 5, 5), {"padding": 2}),  # by matrix registers, if there are any
    ],
)
def test_subnormal_numbers_left_in_memory_cost_nothing(
    size: tuple[int, ...], weight: tuple[int, ...], options: dict[str, int]
) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(size, np.float32), rng.standard_normal(weight, np.float32)
    dy = F.conv_transpose2d(x, w, **options)
    passes: list[Callable[[], object]] = [
        lambda: F.conv_transpose2d(x, w, **options),
        lambda: F.conv_transpose2d_input_grad(dy, w, x.shape, **options),
        lambda: F.conv_transpose2d_weight_grad(dy, x, w.shape, **options),
    ]
    for call in passes:
        call()
        times: dict[float, list[float]] = {0.0: [], 1e-40: []}
        for _, value in product(range(7), times):
            leave(value)
            start = time.perf_counter()
            call()
            times[value].append(time.perf_counter() - start)
        assert min(times[1e-40]) < 2 * min(times[0.0])


def test_tiles_multiply_in_registers() -> None:
    tile_call()()
    pointer = numba.types.CPointer(numba.float32)
    kernel = linking._dispatchers[f"{tile.__name__}.spread"]
    signature = next(kinds for kinds in kernel.overloads if pointer in kinds)
    anew = numba.njit(kernel.py_func)  # what is kept on disk cannot be inspected
    anew.compile(signature)
    assembly = "\n".join(anew.inspect_asm().values())
    found = len(re.findall(r"\bv?f(?:n?m(?:add|la)\w*)\b|\bfmla\b", assembly))
    if "fma" in assembly:  # not on machines whose vectors multiply and add one after the other
        assert found >= LANES * VECTORS
    # Narrower registers move structures too; the widest hold accumulators and nothing else.
    body = assembly[: assembly.index("endproc")]  # wrappers behind it move their arguments
    assert not re.findall(r"vmov[au]ps\s+%zmm\d+, -?\d*\(%rsp\)", body)
