"""Cross-entropy and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import checks

Array = np.ndarray[Any, Any]


def cross_entropy(
    logits: Array, target: Array, label_smoothing: float = 0.0
) -> tuple[float, Array]:
    """Mean of ``-log(softmax(logits)[target])``, and its gradient to the logits.

    Parameters
    ----------
    logits : (N, classes), N at least 1
    target : (N,) int64, each in [0, classes)
    label_smoothing : float in [0, 1]: the share of the target spread evenly over all classes

    Returns
    -------
    loss : float; for CUDA arrays a number that is read from the device by ``float(loss)``
    grad_logits : (N, classes)

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash; for a label, its place and value.

    Examples
    --------
    >>> loss, grad = cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> round(loss, 4), grad.tolist()
    (0.6931, [[0.5, -0.5]])
    """
    kernels = checks.floats(logits=logits)
    checks.labels(target, logits)
    smoothing = checks.fraction("label_smoothing", label_smoothing)
    return kernels.cross_entropy(logits, target, smoothing)
