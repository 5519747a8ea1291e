"""Softmax and cross-entropy in one pass over the logits, stable and in float64 inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .driver import THREADS, cuda
from .elementwise import block_sum
from .memory import copy, empty
from .streams import beside, current, grid

_events: list[Any] = []  # all of them: an event that only garbage holds is destroyed
_idle_events: list[Any] = []


class Scalar:
    """A number on the device, made by what this thread launched last.

    Parameters
    ----------
    array : device array of one element
    """

    __slots__ = ("_array", "_made")

    def __init__(self, array: Any) -> None:
        if not _idle_events:
            _events.append(cuda.event())
            _idle_events.append(_events[-1])
        self._array, self._made = array, _idle_events.pop()
        self._made.record(current())

    def __del__(self) -> None:
        _idle_events.append(self._made)

    def read(self) -> float:
        """Wait until the number is made, but for nothing launched since, and return it."""
        self._made.synchronize()
        stream = beside("copies")
        number = self._array.copy_to_host(stream=stream)
        stream.synchronize()
        return float(number[0])

    def copy(self) -> Scalar:
        """Return a copy that keeps the number which this array has now."""
        copied = empty(1, self._array.dtype)
        copy(copied, self._array)
        return Scalar(copied)


class Loss:
    """A loss that lies on the device until it is read: ``float(loss)`` waits for it.

    Losses can be added, and multiplied by numbers, without being read.

    Parameters
    ----------
    parts : pairs of a `Scalar` and its weight in the sum
    finite : whether reading raises FloatingPointError when it is not finite
    """

    __slots__ = ("_finite", "_parts", "_value")

    def __init__(self, parts: Sequence[tuple[Scalar, float]], finite: bool = False) -> None:
        self._parts, self._finite = tuple(parts), finite
        self._value: float | None = None

    def __float__(self) -> float:
        if self._value is None:
            self._value = sum(x.read() * weight for x, weight in self._parts)
        if self._finite and not math.isfinite(self._value):
            raise FloatingPointError(f"the loss is {self._value}")
        return self._value

    def __add__(self, other: Any) -> Loss:
        if isinstance(other, Loss):
            return Loss((*self._parts, *other._parts))
        return self if other == 0 else NotImplemented

    __radd__ = __add__

    def __mul__(self, factor: float) -> Loss:
        return Loss([(x, weight * factor) for x, weight in self._parts])

    def copy(self) -> Loss:
        """Return a loss that keeps the value which the arrays have now."""
        return Loss([(x.copy(), weight) for x, weight in self._parts])

    def finite(self) -> Loss:
        """Return the same loss, which raises FloatingPointError when it is read and not finite."""
        return Loss(self._parts, finite=True)

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)

    def __repr__(self) -> str:
        return repr(float(self))


@cuda.jit(device=True)
def _log_sum(peak, total):
    """Combine the threads' ``total = sum(exp(v - peak))``: return the peak, log of the total."""
    peaks = cuda.shared.array(THREADS, np.float64)
    totals = cuda.shared.array(THREADS, np.float64)
    thread = cuda.threadIdx.x
    peaks[thread], totals[thread] = peak, total
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if thread < half and totals[thread + half] != 0.0:  # NaN is not 0 either
            other, more = float(peaks[thread + half]), float(totals[thread + half])
            mine, sofar = float(peaks[thread]), float(totals[thread])
            if other > mine:
                peaks[thread], totals[thread] = other, sofar * math.exp(mine - other) + more
            else:
                totals[thread] = sofar + more * math.exp(other - mine)
        cuda.syncthreads()
        half //= 2
    return float(peaks[0]), math.log(totals[0])


@cuda.jit
def _row_losses(logits, target, smoothing, classes, grad, losses):
    """One block a row: its loss, and its gradient; a label outside the classes makes both NaN."""
    n, count = cuda.blockIdx.x, losses.size
    even, first = smoothing / classes, n * classes
    peak, total, plain = -math.inf, 0.0, 0.0
    for c in range(cuda.threadIdx.x, classes, THREADS):
        value = float(logits[first + c])
        plain += value
        if value > peak:
            total = total * math.exp(peak - value) + math.exp(value - value)
            peak = value
        elif value != -math.inf:
            total += math.exp(value - peak)
    plain = block_sum(plain)
    peak, rest = _log_sum(peak, total)  # log-softmax is (value - peak) - rest
    label = target[n]
    known = 0 <= label < classes
    for c in range(cuda.threadIdx.x, classes, THREADS):
        share = math.exp((float(logits[first + c]) - peak) - rest) - even
        if c == label:
            share -= 1.0 - smoothing
        grad[first + c] = share / count if known else math.nan
    if cuda.threadIdx.x == 0:
        loss = math.nan
        if known:
            loss = (1.0 - smoothing) * (rest - (float(logits[first + label]) - peak))
            if smoothing > 0.0:
                loss += even * (classes * (rest + peak) - plain)
        losses[n] = loss


@cuda.jit
def _mean(losses, loss):
    """``loss[0]`` = the mean of the rows' losses, added in a fixed order by one block."""
    total = 0.0
    for n in range(cuda.threadIdx.x, losses.size, THREADS):
        total += losses[n]
    total = block_sum(total)
    if cuda.threadIdx.x == 0:
        loss[0] = total / losses.size


def cross_entropy(logits: Any, target: Any, label_smoothing: float) -> tuple[Loss, Any]:
    """Return the mean loss, not read yet, and its gradient to the logits."""
    count, classes = logits.shape
    grad = empty(logits.shape, logits.dtype)
    losses, loss = empty(count, np.float64), empty(1, np.float64)
    _row_losses[grid(count, THREADS)](
        logits.reshape(-1), target, float(label_smoothing), classes, grad.reshape(-1), losses
    )
    _mean[grid(1, THREADS)](losses, loss)
    return Loss([(Scalar(loss), 1.0)]), grad
