"""PyTorch's default initialisation, from an explicit seed or generator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Rng = int | np.random.Generator | None


def float_dtype(dtype: Any) -> np.dtype:
    """Return `dtype` as a NumPy dtype (None is float32); raise TypeError if it is no float one."""
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    return dtype


def generator(rng: Rng) -> np.random.Generator:
    """Return a generator: `rng` itself, one seeded with it, or an unpredictable one for None."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"rng must be a seed from 0 on, a numpy.random.Generator or None, got {rng!r}"
        ) from error


def fan_in(weight_shape: tuple[int, ...]) -> int:
    """Return PyTorch's fan-in of a weight: all axes but the first.

    For a transposed convolution, whose weight is (in, out / groups, kh, kw), PyTorch counts
    ``out / groups * kh * kw``; so does this.

    Examples
    --------
    >>> fan_in((64, 32, 3, 3)), fan_in((10, 784))
    (288, 784)
    """
    return math.prod(weight_shape[1:])


def uniform(shape: tuple[int, ...], bound: float, rng: Rng, dtype: Any = np.float32) -> np.ndarray:
    """Return an array of `shape`, uniform in [-bound, bound).

    Examples
    --------
    >>> bool(abs(uniform((1000,), 0.5, rng=0)).max() < 0.5)
    True
    """
    values = generator(rng).random(shape, float_dtype(dtype))
    values *= 2 * bound
    values -= bound
    return values


def weight_and_bias(
    weight_shape: tuple[int, ...], bias_size: int | None, rng: Rng, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a layer's initial weight and bias as PyTorch's layers draw them.

    Both are uniform within 1 / sqrt(fan_in): for the weight that is ``kaiming_uniform_`` with
    ``a=sqrt(5)``. Their distribution is PyTorch's; the numbers are NumPy's.

    Parameters
    ----------
    weight_shape : tuple of int
    bias_size : int, or None for no bias
    rng : int seed, numpy.random.Generator, or None for an unpredictable one
    dtype : float32 or float64

    Examples
    --------
    >>> weight, bias = weight_and_bias((16, 3, 3, 3), 16, rng=0)
    >>> weight.shape, bias.shape, bool(abs(weight).max() <= 27 ** -0.5)
    ((16, 3, 3, 3), (16,), True)
    """
    rng, bound = generator(rng), 1 / math.sqrt(fan_in(weight_shape))
    weight = uniform(weight_shape, bound, rng, dtype)
    return weight, None if bias_size is None else uniform((bias_size,), bound, rng, dtype)
