"""Products with the weight of a fully connected layer, on the same register tiles.

``x @ w.T`` sums over the features, which are contiguous in both: `dot`. The two gradients combine
whole rows, ``y[l] = sum(a[l, c] * m[c])``: `spread`, straight from the caller's rows up to the last
whole tile, and through a small packed panel for the columns that remain.
"""

from __future__ import annotations

import numpy as np

from ...geometry import ceil_div
from ...memory import empty
from ..config import AHEAD_PLANES, MACHINE, SUM_TERMS
from ..elementwise import bias_grad
from ..positions.blocking import line_stride, tiles
from ..runtime.arrays import flat
from ..runtime.jit import entry, kernel
from ..runtime.launch import launch, launched, linked
from ..runtime.tasks import count_workers, share
from ..tiles.dot import dot
from ..tiles.spread import spread
from ..vectors.rows import copy, window

_VECTOR_BYTES = MACHINE.vector_bytes
_FEATURES = 2048  # features of one pass of `dot`: rows of 8 KiB
_RUN = 16  # outputs of one task
_TASKS = 64
_STRIP_BYTES = 1 << 17  # rows of one task of `_combine`, in all
_ROWS = 96  # of the matrix that are combined at a time: twice SUM_TERMS
_STRIPS = 8  # of columns, at least
_NO_TAPS = np.zeros(1, np.int64)


@linked
@kernel(_nrt=True)  # it allocates
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
                ahead = o + lanes + min(n // streams, lanes - 1)  # called for
                for j in range(streams):
                    offsets[j] = min(n + j, batch - 1) * features + begin
                sums[:] = 0
                dot(
                    lanes, streams, w, o * features + begin, features, 0,
                    x, offsets, 0, 0, 1, whole, sums, 0,
                    w.ctypes.data + (ahead * features + begin) * w.itemsize,
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


@kernel
def _dot_tasks(worker, workers, x, w, partial, out, units, runs, chunk):
    """Run the worker's tasks, each a run of outputs and a chunk of features."""
    begin, end = share(worker, workers, (runs.size - 1) * partial.shape[0])
    for task in range(begin, end):
        run, part = divmod(task, partial.shape[0])
        _dot_rows(
            x, w, partial[part], out, units[runs[run] : runs[run + 1]],
            part * chunk, min(w.size // out, (part + 1) * chunk),
        )  # fmt: skip


@kernel
def _finish(worker, workers, bias, y, partial, out):
    """Add up the chunks of the worker's results in their order, and the bias."""
    begin, end = share(worker, workers, y.size)
    for i in range(begin, end):
        total = bias[i % out] if bias.size else y.dtype.type(0)
        for part in range(partial.shape[0]):
            total += partial[part, i]
        y[i] = total


@entry
def _forward(workers, x, w, bias, y, partial, out, units, runs, chunk):
    """Run all tasks, then finish all results."""
    launch(_dot_tasks, workers, x, w, partial, out, units, runs, chunk)
    launch(_finish, workers, bias, y, partial, out)


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
        count_workers((len(runs) - 1) * len(partial)), flat(x), flat(w),
        none if bias is None else flat(bias), y.reshape(-1), partial, out, units,
        runs.astype(np.int64), chunk,
    )  # fmt: skip
    return y


@linked
@kernel(_nrt=True)  # it allocates
def _combine_strip(
    m, weights, y, fresh, channels, columns, units, first, count, pitch, packed, rest, taps
):
    """Combine the columns of a strip, `count` from `first` on, for every unit of lanes.

    Unless `fresh` is 1, they are added to what is there. What several units read is packed, some
    rows at a time, as rows that are a power of two apart fight for the same cache sets; for a
    single unit only the columns that fill no tile are. Their sums are made in `rest`.
    """
    width, none = _VECTOR_BYTES // m.itemsize, np.zeros(units[0, 1], m.dtype)
    begin = count // (units[0, 2] * width) * units[0, 2] * width if units.shape[0] == 1 else 0
    for row in range(0, channels, _ROWS):
        rows, fresh = min(_ROWS, channels - row), fresh if row == 0 else 0
        if begin < count:
            for r in range(rows):
                at = (row + r) * columns + first + begin
                window(packed, r * pitch, m, at, 0, pitch, count - begin, columns)
        for u in range(units.shape[0]):
            lane, lanes, step = units[u, 0], units[u, 1], units[u, 2] * width
            whole, weight_at = count // step * step, lane * channels + row * lanes
            spread(
                lanes, 1, begin, weights, weight_at, 0, m, row * columns + first, 0, columns, rows,
                taps, 0, 1, none, 0, y, lane * columns + first, 0, columns, fresh,
                AHEAD_PLANES * columns, SUM_TERMS,
            )  # fmt: skip
            spread(
                lanes, 1, whole - begin, weights, weight_at, 0, packed, 0, 0, pitch, rows,
                taps, 0, 1, none, 0, y, lane * columns + first + begin, 0, columns, fresh,
                AHEAD_PLANES * pitch, SUM_TERMS,
            )  # fmt: skip
            if whole < count:
                for l in range(lanes):
                    at = (lane + l) * columns + first + whole
                    copy(rest, l * step, y, at, count - whole, y.dtype.type(0))
                spread(
                    lanes, 1, count - whole, weights, weight_at, 0, packed, whole - begin, 0, pitch,
                    rows, taps, 0, 1, none, 0, rest, 0, 0, step, fresh, AHEAD_PLANES * pitch,
                    SUM_TERMS,
                )  # fmt: skip
                for l in range(lanes):
                    at = (lane + l) * columns + first + whole
                    copy(y, at, rest, l * step, count - whole, y.dtype.type(0))


@kernel
def _gate_strip(y, gate, lanes, columns, first, count):
    """Do `relu_backward` in place, in a strip of columns, for a ReLU whose output is `gate`.

    The loop of `relu_backward`, given one array for both gradients, runs without vectors: it would
    take ten times as long.
    """
    zero = y.dtype.type(0)
    for at in range(first, lanes * columns, columns):
        a, b = y[at : at + count], gate[at : at + count]
        for i in range(a.size):
            a[i] = zero if b[i] <= zero else a[i]


@launched
def _combine(
    worker, workers, m, weights, y, fresh, gate, channels, columns, units, strip, pitch, scratch,
    taps,
):  # fmt: skip
    """Combine each `workers`-th strip of columns, with the worker's row of `scratch`."""
    packed = scratch[worker]  # a last tile may read beyond the rows, into what follows
    rest = packed[min(channels, _ROWS) * pitch :]
    for s in range(worker, (columns + strip - 1) // strip, workers):
        first = s * strip
        count = min(strip, columns - first)
        _combine_strip(
            m, weights, y, fresh, channels, columns, units, first, count, pitch, packed, rest, taps
        )
        if gate.size:
            _gate_strip(y, gate, y.size // columns, columns, first, count)


def _rows(
    a: np.ndarray,
    m: np.ndarray,
    add_to: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Return ``a @ m`` for a (lanes, channels) and m (channels, columns).

    It may be added to a contiguous array, and zero where a mask is not positive.
    """
    (lanes, channels), columns = a.shape, m.shape[1]
    y = empty((lanes, columns), m.dtype) if add_to is None else add_to
    if not channels and add_to is None:
        y.fill(0)
    if not y.size or not channels:
        return y
    units = tiles(lanes, MACHINE.spread)
    weights = np.concatenate([a[first : first + size].T.ravel() for first, size, _ in units])
    widest = _VECTOR_BYTES // m.itemsize * max(vectors for _, vectors in MACHINE.spread)
    rows = min(channels, _ROWS)
    strip = min(_STRIP_BYTES // (rows * m.itemsize), ceil_div(columns, _STRIPS))
    strip = ceil_div(strip, widest) * widest
    pitch = line_stride(strip, m.itemsize)
    workers = count_workers(ceil_div(columns, strip))
    _combine(
        workers, flat(m), np.ascontiguousarray(weights),
        y.reshape(-1), int(add_to is None), np.empty(0, m.dtype) if mask is None else flat(mask),
        channels, columns, np.array(units, np.int64), strip, pitch,
        empty((workers, rows * pitch + MACHINE.spread[0][0] * widest), m.dtype), _NO_TAPS,
    )  # fmt: skip
    return y


def linear_input_grad(
    dy: np.ndarray, w: np.ndarray, *, mask: np.ndarray | None = None
) -> np.ndarray:
    """Return the gradient to the input, ``dy @ w``, or zero where `mask` is not positive."""
    return _rows(dy, w, mask=mask)


def linear_weight_grad(
    dy: np.ndarray, x: np.ndarray, *, add_to: np.ndarray | None = None
) -> np.ndarray:
    """Return the gradient to the weight, ``dy.T @ x``, or `add_to` with that added to it."""
    if add_to is None:
        return _rows(dy.T, x)
    read = np.may_share_memory(add_to, dy) or np.may_share_memory(add_to, x)
    if add_to.flags.carray and not read:  # while it is written
        return _rows(dy.T, x, add_to)
    add_to += _rows(dy.T, x)
    return add_to


def linear_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients to the input, the weight and the bias."""
    return linear_input_grad(dy, w), linear_weight_grad(dy, x), bias_grad(dy)
