"""Products with the weight of a fully connected layer, on the same two register tiles.

``x @ w.T`` sums over the features, which are contiguous in both: `dot`. The two gradients combine
whole rows, ``y[l] = sum(a[l, c] * m[c])``: `spread`, straight from the caller's rows up to the last
whole tile, and through a small packed panel for the columns that remain.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import prange, types

from ..geometry import ceil_div
from ..memory import empty
from .arrays import flat
from .blocking import tiles
from .config import MACHINE
from .elementwise import bias_grad
from .jit import kernel
from .launch import address, array, call
from .tile import dot, spread

_VECTOR_BYTES = MACHINE.vector_bytes
_FEATURES = 2048  # features of one pass of `dot`: rows of 8 KiB
_RUN = 16  # outputs of one task
_TASKS = 64
_STRIP_BYTES = 1 << 16  # rows of one task of `_combine`, in all
_NO_TAPS = np.zeros(1, np.int64)


@kernel(inline="always")
def _dot_rows(x, w, y, out, units, first, last):
    """``y[n, o] = sum(x[n, k] * w[o, k])`` over the features k in [first, last), for some units."""
    batch, features = y.size // out, x.size // (y.size // out)
    width = _VECTOR_BYTES // x.itemsize
    sums = np.empty(64, x.dtype)
    for begin in range(first, last, _FEATURES):
        end = min(last, begin + _FEATURES)
        whole = (end - begin) // width * width
        for u in range(units.shape[0]):
            o, lanes, streams = units[u, 0], units[u, 1], units[u, 2]
            offsets = np.empty(streams, np.int64)
            for n in range(0, batch, streams):
                for j in range(streams):
                    offsets[j] = min(n + j, batch - 1) * features + begin
                sums[:] = 0
                dot(
                    lanes, w, o * features + begin, features, x, offsets, 0, whole, 1, 0, sums, 0
                )  # fmt: skip
                for j in range(min(streams, batch - n)):
                    for i in range(lanes):
                        total = sums[i * streams + j]
                        for k in range(begin + whole, end):
                            total += x[(n + j) * features + k] * w[(o + i) * features + k]
                        if begin == first:
                            y[(n + j) * out + o + i] = total
                        else:
                            y[(n + j) * out + o + i] += total


@kernel(_nrt=True)  # it allocates
def _dot_task(task, x, w, partial, out, units, runs, chunk):
    """Run one (run of outputs, chunk of features) task."""
    run, part = divmod(task, partial.shape[0])
    _dot_rows(
        x, w, partial[part], out, units[runs[run] : runs[run + 1]],
        part * chunk, min(w.size // out, (part + 1) * chunk),
    )  # fmt: skip


@kernel(parallel=True)
def _forward(run, x, w, bias, y, partial, out, units, runs, chunk):
    """Run all tasks with the kernel at the address `run`, then add the chunks up in their order."""
    chunks = partial.shape[0]
    for task in prange((runs.size - 1) * chunks):
        call(run, task, x, w, partial, out, units, runs, chunk)
    for i in prange(y.size):
        total = bias[i % out] if bias.size else y.dtype.type(0)
        for part in range(chunks):
            total += partial[part, i]
        y[i] = total


@lru_cache(maxsize=2)
def _dot_address(dtype: np.dtype) -> Any:
    """Return the address of `_dot_task` for arrays of `dtype`."""
    data, integer, integers, units = array(dtype), types.int64, array(np.int64), array(np.int64, 2)
    rows = array(dtype, 2)
    return address(_dot_task, integer, data, data, rows, integer, units, integers, integer)


def linear_forward(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Return ``x @ w.T + bias``."""
    (batch, features), out = x.shape, w.shape[0]
    if batch == 1 < out:  # the outputs are the streams: beside one image's they would be repeats
        y = linear_forward(w, x, None).reshape(1, out)
        return y if bias is None else np.add(y, bias, out=y)
    y = empty((batch, out), x.dtype)
    if not y.size or not features:
        y[:] = 0 if bias is None else bias
        return y
    units = np.array(tiles(out, MACHINE.dot), np.int64)
    runs = np.unique(np.searchsorted(units[:, 0], np.arange(0, out + _RUN, _RUN)))
    wanted = max(1, min(_TASKS // (len(runs) - 1), ceil_div(features, _FEATURES)))
    chunk = ceil_div(ceil_div(features, wanted), _FEATURES) * _FEATURES
    partial = empty((max(1, ceil_div(features, chunk)), y.size), x.dtype)
    none = np.empty(0, x.dtype)
    _forward(
        _dot_address(x.dtype), flat(x), flat(w), none if bias is None else flat(bias),
        y.reshape(-1), partial, out, units, runs.astype(np.int64), chunk,
    )  # fmt: skip
    return y


@kernel(inline="always")
def _combine_strip(m, weights, y, channels, columns, units, first, last, panel, taps):
    """Combine the columns [first, last) of all rows of `m` for every unit of lanes."""
    width = _VECTOR_BYTES // m.itemsize
    packed, result = panel[0], panel[1]
    none = np.zeros(units[0, 1], m.dtype)
    for u in range(units.shape[0]):
        lane, lanes, step = units[u, 0], units[u, 1], units[u, 2] * width
        whole = (last - first) // step * step
        for at in range(first, first + whole, step):
            spread(
                lanes, step, weights, lane * channels, m, at, columns, channels,
                taps, 0, 1, none, 0, y, lane * columns + at, columns, 1,
            )  # fmt: skip
        rest, start = last - first - whole, first + whole
        if rest:
            for c in range(channels):
                for i in range(rest):
                    packed[c * step + i] = m[c * columns + start + i]
                for i in range(rest, step):
                    packed[c * step + i] = 0
            spread(
                lanes, rest, weights, lane * channels, packed, 0, step, channels,
                taps, 0, 1, none, 0, result, 0, step, 1,
            )  # fmt: skip
            for l in range(lanes):
                for i in range(rest):
                    y[(lane + l) * columns + start + i] = result[l * step + i]


@kernel(_nrt=True)  # it allocates
def _combine_worker(worker, workers, m, weights, y, channels, columns, units, strip, panels, taps):
    """Combine each `workers`-th strip of columns, with the worker's row of `panels`."""
    for s in range(worker, (columns + strip - 1) // strip, workers):
        _combine_strip(
            m, weights, y, channels, columns, units,
            s * strip, min(columns, (s + 1) * strip), panels[worker], taps,
        )  # fmt: skip


@kernel(parallel=True)
def _combine(run, workers, m, weights, y, channels, columns, units, strip, panels, taps):
    """Share strips of columns among the workers, who run the kernel at the address `run`."""
    for worker in prange(workers):
        call(
            run, worker, workers, m, weights, y, channels, columns, units, strip, panels, taps
        )  # fmt: skip


@lru_cache(maxsize=2)
def _combine_address(dtype: np.dtype) -> Any:
    """Return the address of `_combine_worker` for arrays of `dtype`."""
    data, integer, integers, units = array(dtype), types.int64, array(np.int64), array(np.int64, 2)
    return address(
        _combine_worker, integer, integer, data, data, data, integer, integer, units, integer,
        array(dtype, 3), integers,
    )  # fmt: skip


def _rows(a: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Return ``a @ m`` for a (lanes, channels) and m (channels, columns)."""
    (lanes, channels), columns = a.shape, m.shape[1]
    y = empty((lanes, columns), m.dtype)
    if not channels:
        y.fill(0)
    if not y.size or not channels:
        return y
    units = tiles(lanes, MACHINE.spread)
    weights = np.concatenate([a[first : first + size].T.ravel() for first, size, _ in units])
    width = _VECTOR_BYTES // m.itemsize
    widest = width * max(vectors for _, vectors in MACHINE.spread)
    strip = ceil_div(_STRIP_BYTES // (channels * m.itemsize) + 1, widest) * widest
    panel = max(channels, MACHINE.spread[0][0]) * widest
    workers = min(numba.get_num_threads(), ceil_div(columns, strip))
    _combine(
        _combine_address(m.dtype), workers, flat(m), np.ascontiguousarray(weights),
        y.reshape(-1), channels, columns, np.array(units, np.int64), strip,
        empty((workers, 2, panel), m.dtype), _NO_TAPS,
    )  # fmt: skip
    return y


def linear_input_grad(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the gradient to the input, ``dy @ w``."""
    return _rows(dy, w)


def linear_weight_grad(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the gradient to the weight, ``dy.T @ x``."""
    return _rows(dy.T, x)


def linear_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients to the input, the weight and the bias."""
    return linear_input_grad(dy, w), linear_weight_grad(dy, x), bias_grad(dy)
