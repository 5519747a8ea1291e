"""Compiling the kernels, on their first use, for the device at hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from numba.cuda import types

from .config import DEFAULT_PRECISION, PRECISIONS, Tile
from .driver import SIMULATED, cuda, require

FLOATS, INTEGERS = types.Array(types.float32, 1, "C"), types.Array(types.int32, 1, "C")
INT = types.int32
ASYNC = (8, 0)  # the first compute capability with cp.async, and with TF32 on tensor cores


def numbers(kind: Any) -> Any:
    """Return the type of a named tuple of integers: a kernel's numbers."""
    return types.NamedUniTuple(INT, len(kind._fields), kind)


@lru_cache(maxsize=1)
def capability() -> tuple[int, int]:
    """Return the compute capability of the device; the simulator has asynchronous copies."""
    require()
    return ASYNC if SIMULATED else tuple(cuda.get_current_device().compute_capability)


def checked_precision(precision: str | None) -> str:
    """Return `precision`, or the device's default, which has float32's accuracy (config.py).

    Raises
    ------
    ValueError
        When it is none of PRECISIONS, or the device cannot do it.
    """
    tensor = capability() >= ASYNC
    if precision is None:
        return "float32" if SIMULATED else DEFAULT_PRECISION.get(capability(), "float32")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "float32" and not tensor:
        have = ".".join(map(str, capability()))
        raise ValueError(
            f"precision {precision!r} needs compute capability 8.0, this GPU has {have}"
        )
    return precision


def bounded(function: Callable[..., None], signature: Any, threads: int, blocks: int = 1) -> Any:
    """Compile a kernel for at most `threads` a block, `blocks` of them on a multiprocessor."""
    if SIMULATED:
        return cuda.jit(function)
    return cuda.jit(signature, launch_bounds=(threads, blocks))(function)


@cache
def tiled(maker: Callable[..., Any], signature: Any, tile: Tile, precision: str) -> Any:
    """Return the kernel of a tile and a precision, ready to be launched."""
    kernel = maker(tile, precision, capability() >= ASYNC)
    return bounded(kernel, signature, tile.threads, tile.blocks)
