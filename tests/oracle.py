"""PyTorch, called with NumPy arrays: the results and gradients that ours are judged by."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

torch.set_num_threads(1)

Tensors = Callable[..., torch.Tensor]


def tensor(a: np.ndarray | None, dtype: Any = None) -> torch.Tensor | None:
    """Return a tensor with a contiguous copy of `a`."""
    return None if a is None else torch.from_numpy(np.array(a, dtype or a.dtype, order="C"))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence PyTorch's remark that it copies the input for some "same" paddings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel")
        yield


def run(function: Tensors, arrays: Sequence[Any], dtype: Any = None, **options: Any) -> np.ndarray:
    """Return ``function(*arrays, **options)`` computed in `dtype`."""
    with quiet():
        return function(*(tensor(a, dtype) for a in arrays), **options).numpy()


def grads(
    function: Tensors, arrays: Sequence[Any], dy: np.ndarray, dtype: Any = None, **options: Any
) -> list[np.ndarray]:
    """Return the gradients of ``<function(*arrays), dy>`` to each array that is not None."""
    leaves = [tensor(a, dtype) for a in arrays]
    wanted = [leaf.requires_grad_() for leaf in leaves if leaf is not None]
    with quiet():
        y = function(*leaves, **options)
    return [g.numpy() for g in torch.autograd.grad(y, wanted, tensor(dy, dtype))]
