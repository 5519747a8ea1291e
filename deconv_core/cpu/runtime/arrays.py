"""What stands between the caller's arrays and the kernels: flat, contiguous, aligned views."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...memory import empty


def flat(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `x` as one dimension: a view where its memory allows, else a copy.

    A kernel is compiled once per dtype, for aligned, writable, C-contiguous arrays; a read-only
    array would ask for a second compilation and is copied instead.
    """
    if type(x) is not np.ndarray:
        x = np.asarray(x)  # of a subclass, the plain array
    if not x.flags.carray:
        copied = empty(x.shape, x.dtype)
        np.copyto(copied, x)
        x = copied
    return x.ravel()  # a view, for half the time of `reshape`
