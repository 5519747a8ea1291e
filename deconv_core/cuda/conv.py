"""The three convolution kernels: forward, input gradient (a transposed forward), weight gradient.

All arrays are C-contiguous float32 device arrays; results are fresh ones. `precision` says how
float32 numbers are multiplied: "float32" on the ordinary units, "tf32" on tensor cores (half of the
digits), "3xtf32" on tensor cores with float32's accuracy (tensor.py), or None for the one of the
first and the last that should be faster on this GPU (config.py).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..geometry import ConvGeometry, ceil_div
from .blocks import hold
from .config import DEPTHWISE_DOT, DEPTHWISE_SPREAD, choose, is_depthwise
from .depthwise import STRIP, depthwise_dot, depthwise_spread
from .driver import SIMULATED
from .few import few_kernel
from .gemm import HAS_BIAS, HAS_MASK, HAS_RELU
from .launch import FLOATS, INT, INTEGERS, bounded, checked_precision, numbers, tiled
from .memory import empty, fill_bytes
from .pack import pack_weights, weight_strides
from .plan import Dot, Pass, check_size, dot_plan, in_quads, spread_plan
from .splitk import THREADS, add_chunks, dot_kernel
from .spread import spread_kernel
from .streams import grid

DOT = (FLOATS, FLOATS, INTEGERS, FLOATS, numbers(Dot))
ADD_CHUNKS = (FLOATS, INT, FLOATS, INT, FLOATS)
SPREAD = (FLOATS, FLOATS, FLOATS, FLOATS, INTEGERS, FLOATS, INT, numbers(Pass))
DEPTHWISE = (*SPREAD[:6], *[INT] * 5, numbers(Pass))


def aligned(array: Any) -> bool:
    """Return whether an array begins at a multiple of 16 bytes: a slice of another one may not."""
    return SIMULATED or array.device_ctypes_pointer.value % 16 == 0


def _spread(
    source: Any, w: Any, bias: Any, relu: bool, mask: Any,
    geometry: ConvGeometry, adjoint: bool, precision: str | None,
) -> Any:  # fmt: skip
    """Run a forward pass or an input gradient."""
    result = empty(geometry.input_shape if adjoint else geometry.output_shape, source.dtype)
    if not result.size:
        return result
    chosen = checked_precision(precision)
    check_size(input=source.size, result=result.size)
    rows, channels = result.shape[1] // geometry.groups, source.shape[1] // geometry.groups
    x, y = source.reshape(-1), result.reshape(-1)
    flags = HAS_BIAS * (bias is not None) + HAS_RELU * relu + HAS_MASK * (mask is not None)
    ends = y if bias is None else bias, y if mask is None else mask.reshape(-1)  # y: not used
    if is_depthwise(geometry):
        p, table = spread_plan(geometry, adjoint, DEPTHWISE_SPREAD)
        hold(table)
        pictures, threads = geometry.batch * p.groups, DEPTHWISE_SPREAD.threads
        strips = p.phases * pictures * p.results * ceil_div(p.rows, STRIP) * p.columns
        kernel = tiled(depthwise_spread, DEPTHWISE, DEPTHWISE_SPREAD, "float32")
        kernel[grid(ceil_div(strips, threads), threads)](
            x, w.reshape(-1), *ends, table, y, *weight_strides(p, adjoint), pictures, flags, p
        )
        return result
    wide = in_quads(geometry, adjoint) and aligned(x)
    tile = choose("spread", chosen, rows, channels, wide)
    p, table = spread_plan(geometry, adjoint, tile)
    hold(table)
    weights = pack_weights(w, table, p, adjoint)
    blocks = (
        ceil_div(p.positions, tile.columns) * p.groups * p.phases * (p.padded_rows // tile.rows)
    )
    maker = few_kernel if tile.direct else spread_kernel
    tiled(maker, SPREAD, tile, chosen)[grid(blocks, tile.threads)](
        x, weights, *ends, table, y, flags, p
    )
    return result


def conv_forward(
    x: Any, w: Any, bias: Any, geometry: ConvGeometry,
    *, relu: bool = False, mask: Any = None, precision: str | None = None,
) -> Any:  # fmt: skip
    """Return the convolution of `x` with `w`, plus `bias`: a transposed one's input gradient.

    With `relu` it is its positive part. With `mask`, the output of a ReLU, the result is zero where
    that is not positive: the gradient goes back through the ReLU at no cost.
    """
    return _spread(x, w, bias, relu, mask, geometry, False, precision)


def conv_input_grad(
    dy: Any, w: Any, bias: Any, geometry: ConvGeometry,
    *, relu: bool = False, mask: Any = None, precision: str | None = None,
) -> Any:  # fmt: skip
    """Return the adjoint of the convolution: its input gradient, a transposed one's forward.

    `relu` and `mask` are as for `conv_forward`.
    """
    return _spread(dy, w, bias, relu, mask, geometry, True, precision)


def dot(x: Any, dy: Any, bias: Any, geometry: ConvGeometry, precision: str | None) -> Any:
    """Return the gradient to the weight; `bias` is added to each of its rows (see linear.py)."""
    chosen = checked_precision(precision)
    result = empty(geometry.weight_shape, x.dtype)
    if not dy.size:
        fill_bytes(result, 0)
        return result
    rows, terms = result.shape[0] // geometry.groups, result.size // result.shape[0]
    if is_depthwise(geometry):
        maker, tile = depthwise_dot, DEPTHWISE_DOT
    else:
        maker, tile = dot_kernel, choose("dot", chosen, rows, terms)
    p, taps = dot_plan(geometry, tile)
    hold(taps)
    whole = p.chunks == 1 and bias is None
    partial = result.reshape(-1) if whole else empty(p.chunks * result.size, x.dtype)
    check_size(input=x.size, result=dy.size, partial_sums=partial.size)
    blocks = p.chunks * p.groups * ceil_div(rows, tile.rows) * ceil_div(terms, tile.columns)
    tiled(maker, DOT, tile, chosen)[grid(blocks, tile.threads)](
        x.reshape(-1), dy.reshape(-1), taps, partial, p
    )
    if not whole:
        add_up(partial, p.chunks, bias, result)
    return result


def add_up(partial: Any, chunks: int, bias: Any, result: Any) -> None:
    """Set `result` to the sum of so many chunks (none: zero) and, for each row of it, `bias`."""
    unused, outputs = (partial, 0) if bias is None else (bias, bias.size)
    _add_chunks()[grid(ceil_div(result.size, THREADS), THREADS)](
        partial, chunks, unused, outputs, result.reshape(-1)
    )


@lru_cache(maxsize=1)
def _add_chunks() -> Any:
    """Return the kernel that adds chunks, compiled on first use."""
    return bounded(add_chunks, ADD_CHUNKS, THREADS)


def conv_weight_grad(
    x: Any, dy: Any, geometry: ConvGeometry, *, precision: str | None = None
) -> Any:
    """Return the gradient of the convolution to its weight."""
    return dot(x, dy, None, geometry, precision)
