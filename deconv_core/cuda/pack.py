"""The weights of a pass as its matrix: a row for each (group, tap, channel), padded with zeros."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..geometry import ceil_div
from .driver import SIMULATED, cuda
from .launch import FLOATS, INT, INTEGERS, bounded, numbers
from .memory import empty
from .plan import Pass, check_size
from .registers import divided, load4
from .streams import grid

THREADS = 32 if SIMULATED else 256


def pack(w, table, result, row_stride, channel_stride, kernel, p):
    """Write one element of the packed weights; rows and channels of `w` have these strides."""
    i = np.uint32(cuda.grid(1))
    if i >= result.size:
        return
    rest, m = divided(i, p.padded_rows)
    rest, channel = divided(rest, p.padded)
    group, tap = divided(rest, p.taps)
    value = np.float32(0)
    if m < p.results and channel < p.channels:
        _, _, place, _ = load4(table, 4 * (p.phases + tap))
        at = group * p.results * p.channels * kernel + m * row_stride + channel * channel_stride
        value = w[np.uint32(at + place)]
    result[i] = value


PACK = (FLOATS, INTEGERS, FLOATS, INT, INT, INT, numbers(Pass))


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """Return the kernel, compiled on first use."""
    return bounded(pack, PACK, THREADS)


def weight_strides(p: Pass, adjoint: bool) -> tuple[int, int, int]:
    """Return how far apart a weight's rows and its channels lie, and the elements of a kernel."""
    taps = p.taps
    return (taps, p.results * taps, taps) if adjoint else (p.channels * taps, taps, taps)


def pack_weights(w: Any, table: Any, p: Pass, adjoint: bool) -> Any:
    """Return the weights of a pass, packed."""
    result = empty(p.groups * p.taps * p.padded * p.padded_rows, w.dtype)
    check_size(weights=result.size)
    _kernel()[grid(ceil_div(result.size, THREADS), THREADS)](
        w.reshape(-1), table, result, *weight_strides(p, adjoint), p
    )
    return result
