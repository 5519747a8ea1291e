"""Softmax and cross-entropy in one pass over the logits, stable and in float64 inside."""

from __future__ import annotations

import math

import numpy as np

from ..memory import empty
from .runtime.arrays import flat
from .runtime.jit import entry


@entry
def _cross_entropy(logits, target, smoothing, grad):
    """Return the mean loss and write its gradient; rows are `grad.size // target.size` long."""
    count = target.size
    classes = grad.size // count
    even, total = smoothing / classes, 0.0
    for n in range(count):
        row, out = logits[n * classes : (n + 1) * classes], grad[n * classes : (n + 1) * classes]
        peak = float(row[0])
        for c in range(1, classes):
            peak = max(peak, float(row[c]))
        weights = 0.0
        for c in range(classes):
            weights += math.exp(row[c] - peak)
        rest = math.log(weights)  # log-softmax is (row - peak) - rest: no digit of it is lost
        loss = (1.0 - smoothing) * (rest - (row[target[n]] - peak))
        for c in range(classes):
            if smoothing > 0.0:
                loss += even * (rest - (row[c] - peak))
            share = math.exp((row[c] - peak) - rest) - even
            if c == target[n]:
                share -= 1.0 - smoothing
            out[c] = share / count
        total += loss
    return total / count


def cross_entropy(
    logits: np.ndarray, target: np.ndarray, label_smoothing: float
) -> tuple[float, np.ndarray]:
    """Return the mean loss and its gradient to the logits."""
    grad = empty(logits.shape, logits.dtype)
    loss = _cross_entropy(flat(logits), flat(target), label_smoothing, grad.reshape(-1))
    return float(loss), grad
