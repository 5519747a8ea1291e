"""The fully connected layer, and how it saves work when a batch comes in slices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from deconv_core import device, init, memory
from deconv_core import functional as F
from deconv_core.arguments import integer
from deconv_core.parameters import Layer, Parameter, Weighted

# Inside `gathering`, inputs are kept up to this many bytes, or up to the weight's own size.
GATHER_BYTES = 8 << 20


class Linear(Weighted):
    """``y = x @ weight.T + bias``: (N, in) -> (N, out), weight (out, in), as PyTorch's.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    rng : int seed, numpy.random.Generator, or None for unpredictable initial weights
    dtype : float32 or float64

    Examples
    --------
    >>> fc = Linear(6, 2, rng=0)
    >>> y, backward = fc.forward(np.ones((4, 6), np.float32))
    >>> y.shape, backward(np.ones_like(y)).shape, fc.bias.grad.tolist()
    ((4, 2), (4, 6), [4.0, 4.0])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        shape = (integer("out_features", out_features, 1), integer("in_features", in_features, 1))
        super().__init__(shape, shape[0] if bias else None, rng, dtype)
        self._kept: list[tuple[np.ndarray, np.ndarray]] | None = None

    @classmethod
    def of(cls, weight: np.ndarray, bias: np.ndarray) -> Linear:
        """Return the layer with these arrays as its weight and bias; nothing is copied."""
        layer = cls.__new__(cls)
        grad = device.empty(weight.shape, weight.dtype, device.of(weight))
        device.clear(grad)
        layer.weight = Parameter(weight, grad)
        layer.bias, layer.options, layer._kept = Parameter(bias), {}, None
        return layer

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: (N, in) -> (N, out)."""
        return F.linear(x, self.weight.data, self.bias_data, precision=self.precision)

    def adjoint(
        self, grad_y: np.ndarray, input_shape: tuple[int, ...], mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the gradient to the input, with the mask of a ReLU before it."""
        return F.linear_input_grad(grad_y, self.weight.data, precision=self.precision, mask=mask)

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds of one forward pass."""
        return input_shape[0] * self.weight.data.size

    def add_weight_grad(self, grad_y: np.ndarray, x: np.ndarray) -> None:
        """Add ``grad_y.T @ x`` to the weight's gradient, now or (when gathering) later."""
        if self._kept is None:
            self._add(grad_y, x)
            return
        self._kept.append((grad_y, x))
        kept_bytes = sum(kept_x.nbytes for _, kept_x in self._kept)
        if kept_bytes >= max(GATHER_BYTES, self.weight.data.nbytes):
            self._flush()

    def _flush(self) -> None:
        """Add what was kept to the weight's gradient, in one product."""
        if self._kept:
            grads, inputs = (_stack(arrays) for arrays in zip(*self._kept, strict=True))
            self._kept.clear()
            self._add(grads, inputs)

    def _add(self, grad_y: np.ndarray, x: np.ndarray) -> None:
        """Add ``grad_y.T @ x`` to the weight's gradient."""
        F.linear_weight_grad(grad_y, x, precision=self.precision, add_to=self.weight.grad)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input of this shape."""
        features = self.weight.shape[1]
        if len(input_shape) != 2 or input_shape[1] != features:
            raise ValueError(f"input must have shape (N, {features}), got {tuple(input_shape)}")
        return (input_shape[0], self.weight.shape[0])


def _stack(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """Join arrays along the first axis, in pooled memory."""
    if len(arrays) == 1 or device.of(arrays[0]) == "cuda":
        return device.concatenate(arrays)
    shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
    return np.concatenate(arrays, out=memory.empty(shape, arrays[0].dtype))


@contextmanager
def gathering(net: Layer) -> Iterator[None]:
    """Let the Linear layers of `net` sum the weight gradients of many backward calls at once.

    A weight's gradient over a whole batch costs little more than over a slice of it, because what
    it costs is reading and writing the gradient itself. Inside this context the layers keep their
    inputs, a bounded number of bytes of them whatever the batch; at its end ``weight.grad`` is
    complete. When the block raises, what was kept is dropped.

    Examples
    --------
    >>> fc = Linear(6, 2, rng=0)
    >>> with gathering(fc):
    ...     for _ in range(3):
    ...         y, backward = fc.forward(np.ones((4, 6), np.float32))
    ...         grad_x = backward(np.ones_like(y))
    >>> float(fc.weight.grad[0, 0])
    12.0
    """
    layers = {id(layer): layer for layer in net.walk() if isinstance(layer, Linear)}.values()
    for layer in layers:
        layer._kept = []
    try:
        yield
        for layer in layers:
            layer._flush()
    finally:
        for layer in layers:
            layer._kept = None
