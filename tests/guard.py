"""Arrays flush against a page that may not be touched: one element too far ends the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

PAGE = mmap.PAGESIZE
PROT_NONE = 0


def _protect(address: int) -> None:
    """Forbid any access to the page at `address`."""
    if _libc.mprotect(address, PAGE, PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect failed")


def empty(shape: Any, dtype: Any, where: str, alignment: int = 1) -> np.ndarray:
    """Return an array that ends at a protected page (`where` "end") or begins after one ("start").

    Its pages are never given back: for processes that do not live long.
    """
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    body = -(-max(nbytes, 1) // PAGE) * PAGE
    kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = _libc.mmap(None, body + 2 * PAGE, *kind, -1, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap failed")
    _protect(start)
    _protect(start + PAGE + body)
    room = (body - nbytes) // alignment * alignment
    address = start + PAGE + (room if where == "end" else 0)
    buffer = (ctypes.c_char * nbytes).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(shape)


def copy(a: np.ndarray, where: str) -> np.ndarray:
    """Return a guarded copy of `a`."""
    guarded = empty(a.shape, a.dtype, where)
    guarded[...] = a
    return guarded
