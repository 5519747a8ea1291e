"""Where an array lives, "cpu" (NumPy's) or "cuda" (numba.cuda's), and how it gets elsewhere.

Nothing here imports CUDA before it is asked for by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from deconv_core import memory

DEVICES = ("cpu", "cuda")
PRECISIONS = ("float32", "tf32", "3xtf32")


def of(array: Any) -> str | None:
    """Return the device that an array lives on: "cpu", "cuda", or None for what is no array.

    Examples
    --------
    >>> of(np.zeros(3)), of([0.0])
    ('cpu', None)
    """
    if isinstance(array, np.ndarray):
        return "cpu"
    return "cuda" if getattr(type(array), "__cuda_ndarray__", False) else None


def check(device: Any) -> str:
    """Return the name of a device that can be used here.

    Raises
    ------
    ValueError
        For another name.
    ImportError
        For "cuda" where it cannot be used: it says what is missing, and how to install it.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda":
        cuda().driver.require()
    return str(device)


def check_precision(precision: Any, device: str) -> None:
    """Raise ValueError unless kernels on `device` take this precision; None is their default."""
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision not in (None, "float32") and device != "cuda":
        raise ValueError(
            f"precision {precision!r} is for CUDA: NumPy's arrays are computed as they are"
        )


def cuda() -> ModuleType:
    """Import and return the CUDA kernels."""
    from deconv_core import cuda as kernels

    return kernels


def to(array: Any, device: str) -> Any:
    """Return an array on a device: itself if it is there, else a copy.

    Parameters
    ----------
    array : NumPy or CUDA array
    device : "cpu" or "cuda"

    Raises
    ------
    ImportError
        For "cuda" where it cannot be used: it says what is missing, and how to install it.
    MemoryError
        When the device has no room for it.

    Examples
    --------
    >>> x = np.zeros(3)
    >>> to(x, "cpu") is x
    True
    """
    here = of(array)
    if here is None:
        raise TypeError(f"only arrays have a device, got {type(array).__name__}")
    if here == check(device):
        return array
    return cuda().memory.to_device(array) if device == "cuda" else array.copy_to_host()


def feed(batches: Iterable[Any], device: str) -> Iterator[Any]:
    """Return batches of NumPy arrays as batches on a device.

    For "cuda" the next batch is copied while the device is still computing, by way of pinned
    memory. It goes into one of two sets of arrays in turn: a batch holds until the next but one.

    Examples
    --------
    >>> [x.sum() for x, _ in feed([(np.ones(3), np.ones(3))], "cpu")]
    [np.float64(3.0)]
    """
    return cuda().feed.on_device(batches) if check(device) == "cuda" else iter(batches)


def plain(values: Any) -> Any:
    """Return values that may be on a device in NumPy; all others as they are."""
    return values.copy_to_host() if of(values) == "cuda" else values


def copy(array: Any) -> np.ndarray:
    """Return a copy in NumPy of an array that may be elsewhere."""
    return array.copy() if isinstance(array, np.ndarray) else array.copy_to_host()


def assign(array: Any, values: Any) -> None:
    """Copy values, from NumPy or the same device, into an array of their shape and dtype."""
    if isinstance(array, np.ndarray):
        np.copyto(array, values)
    elif of(values) == "cuda":
        cuda().memory.copy(array, values)
    elif array.size:
        array.copy_to_device(np.asarray(values, order="C"))


def empty(shape: tuple[int, ...], dtype: Any, device: str | None) -> Any:
    """Return an uninitialised array in a device's pooled memory."""
    return (cuda().memory if device == "cuda" else memory).empty(shape, dtype)


def zeros(shape: tuple[int, ...], dtype: Any, device: str | None) -> Any:
    """Return an array of zeros on a device."""
    # np.zeros takes no memory until it is written.
    return np.zeros(shape, dtype) if device != "cuda" else cuda().memory.zeros(shape, dtype)


def clear(array: Any) -> None:
    """Set an array to zero, in place."""
    if isinstance(array, np.ndarray):
        array.fill(0)
    else:
        cuda().memory.fill_bytes(array, 0)


def add(total: Any, array: Any) -> None:
    """Add an array to another one of its shape and device, in place."""
    if isinstance(total, np.ndarray):
        total += array
    else:
        cuda().elementwise.add(total, array)


def scale(array: Any, factor: float) -> None:
    """Multiply an array by a number, in place."""
    if isinstance(array, np.ndarray):
        array *= factor
    else:
        cuda().elementwise.scale(array, factor)


def concatenate(arrays: Sequence[Any]) -> Any:
    """Join arrays of one device along their first axis."""
    if len(arrays) == 1:
        return arrays[0]
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    return cuda().memory.concatenate(arrays)


def hold(array: Any) -> Any:
    """Return a CUDA array; a step that is being recorded keeps it, if others drop it."""
    return cuda().blocks.hold(array)


def pack(arrays: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Copy CUDA arrays of one dtype into one, and return it and a view of it for each of them."""
    return cuda().memory.pack(arrays)
