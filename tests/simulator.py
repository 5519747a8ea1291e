"""Repairs numba-cuda's simulator, where that is what runs: import this before a kernel is launched.

It looks shared arrays up without a lock, so two threads of a block may get two arrays, and it does
so by walking the whole stack. Python changes threads seldom, and a block's threads wait for each
other often.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numba
import numpy as np

_lock = threading.Lock()


def _array(self: Any, shape: Any, dtype: Any, alignment: None = None) -> np.ndarray:
    """Return the array of the line that asks for it, one for all threads, at first full of junk."""
    from numba.cuda.np.numpy_support import as_dtype
    from numba.cuda.types import Type

    caller = sys._getframe(1)
    key = caller.f_code, caller.f_lineno
    with _lock:
        if key not in self._allocations:
            kind = as_dtype(dtype) if isinstance(dtype, Type) else np.dtype(dtype)
            junk = np.nan if kind.kind == "f" else -(1 << 20)
            self._allocations[key] = np.full(shape, junk, kind)
        return self._allocations[key]


if numba.config.ENABLE_CUDASIM:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    FakeCUDAShared.array = _array
    sys.setswitchinterval(1e-4)
