"""Losses: ``loss, grad = criterion(logits, target)``."""

from __future__ import annotations

import numpy as np

from deconv_core import functional as F
from deconv_core.functional import checks


class CrossEntropyLoss:
    """Mean cross-entropy of logits against class indices, as PyTorch's namesake.

    Parameters
    ----------
    label_smoothing : float in [0, 1]

    Examples
    --------
    >>> logits = np.zeros((2, 4), np.float32)
    >>> loss, grad = CrossEntropyLoss()(logits, np.array([0, 3]))
    >>> round(float(loss), 4), grad[0].tolist()
    (1.3863, [-0.375, 0.125, 0.125, 0.125])
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = checks.fraction("label_smoothing", label_smoothing)

    def __call__(self, logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the mean loss and its gradient to `logits`.

        Parameters
        ----------
        logits : (N, classes) float array
        target : (N,) int64 class indices

        Raises
        ------
        ValueError, TypeError
            On a wrong shape or dtype, or an index outside the classes.
        """
        return F.cross_entropy(logits, target, self.label_smoothing)

    def __repr__(self) -> str:
        return f"CrossEntropyLoss(label_smoothing={self.label_smoothing})"
