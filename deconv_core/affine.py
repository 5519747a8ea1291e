"""An affine tail of a net is one matrix: with few rows, the tail is cheaper to run on those.

Layers with nothing nonlinear between them, such as DDNet's three transposed convolutions and its
linear layer, are together one affine map ``y = M x + c``. Row r of the matrix M is the adjoint of
the tail applied to the unit vector r, so M costs one adjoint pass for each of the net's outputs,
however large the batch. And by the chain rule the tail's parameters get their gradients from
``dM``, the gradient to M, as if its rows were images: without its biases the tail is linear, and
``<dM, M>`` is the sum over r of ``tail(dM[r])[r]``. A batch of 128 images and 10 classes then
passes through the tail as 10 images. It is nothing but the order of a chain of matrix products,
chosen by its cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np

from deconv_core import device
from deconv_core.layers import AvgPool2d, Conv2d, ConvTranspose2d, Flatten
from deconv_core.linear import Linear
from deconv_core.parameters import Affine, Backward, Layer, Weighted
from deconv_core.slices import SLICE_BYTES, fitting

Shape = tuple[int, ...]
_AFFINE = (AvgPool2d, Conv2d, ConvTranspose2d, Flatten, Linear)  # a subclass may do anything


class Tail:
    """The affine layers that end a net, as a matrix.

    Parameters
    ----------
    layers : affine layers, applied one after another
    input_shape : of one image that enters the first of them, without the batch

    Attributes
    ----------
    rows, features : of the matrix: elements of one output and of one input
    macs : multiply-adds of the layers on one image

    Examples
    --------
    >>> tail = Tail([ConvTranspose2d(2, 1, 3, rng=0), Flatten()], (2, 4, 4))
    >>> tail.rows, tail.features
    (36, 32)
    >>> x = np.ones((5, 2, 4, 4), np.float32)
    >>> tail.linear()(x.reshape(5, -1)).shape
    (5, 36)
    """

    def __init__(self, layers: Sequence[Affine], input_shape: Shape) -> None:
        self.layers, self.shapes, self.macs = layers, [input_shape], 0
        for layer in layers:
            shape = (1, *self.shapes[-1])
            self.macs += layer.macs(shape)
            self.shapes.append(layer.output_shape(shape)[1:])
        self.features, self.rows = math.prod(input_shape), math.prod(self.shapes[-1])
        self._last = layers[-1] if isinstance(layers[-1], Linear) else None
        self._others = layers if self._last is None else layers[:-1]
        self._first: list[np.ndarray] = []  # gradients to the first layer's output, by slices
        self._from_zero: list[Backward] = []  # the backward passes of all layers, applied to zeros

    def linear(self, training: bool = False) -> Linear:
        """Return the tail as one fully connected layer, with parameters of its own.

        In training, some of what is made on the way is kept for `add_grads`, which else makes it
        again: the way of the bias, and the gradients to the first layer's output, if these take no
        more than a quarter of what a slice of a batch may.
        """
        like = next(p.data for layer in self.layers for p in layer.parameters())
        kept = 4 * self.rows * math.prod(self.shapes[1]) * like.dtype.itemsize
        keep = training and kept <= SLICE_BYTES[device.of(like) or "cpu"]
        self._first, self._from_zero = [], []
        weight = device.empty((self.rows, self.features), like.dtype, device.of(like))
        for rows in self._slices(device.of(like)):
            grad = self._from_unit(rows, like)
            for i in reversed(range(len(self._others))):
                if keep and i == 0:
                    self._first.append(grad)
                grad = self._others[i].adjoint(grad, (len(grad), *self.shapes[i]))
            device.assign(weight[rows], grad.reshape(len(grad), self.features))
        bias, steps = self._of_zero(like)
        if training:
            self._from_zero = steps
        linear = Linear.of(weight, bias.reshape(-1))
        linear.precision = next(a.precision for a in self.layers if isinstance(a, Weighted))
        return linear

    def add_grads(self, linear: Linear) -> None:
        """Add to the layers' parameters what the gradients of `linear` mean for them.

        Their weights must still be those that `linear` was made of.
        """
        assert linear.bias is not None
        grad, bare = linear.weight.grad, [layer.without_bias() for layer in self._others]
        for rows in self._slices(device.of(grad)):
            y, steps = self._forward(bare, grad[rows])
            first = self._first.pop(0) if self._first else None
            _backward(steps, self._from_unit(rows, grad).reshape(y.shape), first)
            if self._last is not None:  # of unit vectors by y, the gradient to its weight
                device.add(self._last.weight.grad[rows], y)
        steps = self._from_zero or self._of_zero(grad)[1]
        _backward(steps, linear.bias.grad.reshape(1, *self.shapes[-1]))

    def _of_zero(self, like: Any) -> tuple[np.ndarray, list[Backward]]:
        """Return what the layers make of nothing, the tail's bias, and their backward passes."""
        zero = device.zeros((1, self.features), like.dtype, device.of(like))
        return self._forward(self.layers, zero)

    def _forward(self, layers: Sequence[Layer], x: np.ndarray) -> tuple[np.ndarray, list[Backward]]:
        """Apply layers to images that come as rows; return the output and the backward passes."""
        x, steps = x.reshape(-1, *self.shapes[0]), []
        for layer in layers:
            x, step = layer.forward(x)
            steps.append(step)
        return x, steps

    def _from_unit(self, rows: slice, like: Any) -> np.ndarray:
        """Return what the unit vectors of these rows become before the last layer, if it is linear.

        The adjoint of a fully connected layer makes them rows of its weight.
        """
        if self._last is not None:
            return self._last.weight.data[rows]
        if device.of(like) == "cuda":
            identity = device.hold(_eye_on_cuda(self.rows, like.dtype))
        else:
            identity = np.eye(self.rows, dtype=like.dtype)
        return identity[rows].reshape(-1, *self.shapes[-1])

    def _slices(self, place: str | None) -> list[slice]:
        """Cut the rows so that what the layers make of a slice of them stays small."""
        size = fitting(2 * self.shapes, 4, place)
        return [slice(start, start + size) for start in range(0, self.rows, size)]


def _backward(steps: list[Backward], grad: np.ndarray, first: np.ndarray | None = None) -> None:
    """Run backward passes, the last one first; the gradient that the `first` gets may be given."""
    needed = 1 if first is None else 2  # the place of the one whose input's gradient none asks for
    while steps:
        step = steps.pop()
        if first is not None and not steps:
            grad = first
        grad = step(grad, input_grad=len(steps) >= needed)


@lru_cache(maxsize=16)
def _eye_on_cuda(size: int, dtype: Any) -> Any:
    """Return an identity matrix, made once: it is copied there, and a step should not wait."""
    return device.to(np.eye(size, dtype=dtype), "cuda")


def affine_from(layers: Sequence[Layer]) -> int:
    """Return the position from which on all `layers` are affine."""
    start = len(layers)
    while start and type(layers[start - 1]) in _AFFINE:
        start -= 1
    return start


def cheapest_tail(
    layers: Sequence[Layer], input_shape: Shape, training: bool
) -> tuple[Sequence[Layer], Tail | None]:
    """Divide affine `layers` into those to run as they are and the tail that is worth its matrix.

    As layers a tail costs the batch one pass, and in training three: forward and two gradients. As
    a matrix it costs each row one pass, or at most four, and the batch one product, or three.

    Parameters
    ----------
    layers : affine layers
    input_shape : of the batch that enters the first of them
    training : whether gradients are wanted
    """
    batch, shape = input_shape[0], input_shape[1:]
    passes, row_passes = (3, 4) if training else (1, 1)
    kept, best, spared = layers, None, 0
    for first in range(len(layers)):
        tail = Tail(cast(Sequence[Affine], layers[first:]), shape)
        cost = row_passes * tail.rows * tail.macs + passes * batch * tail.rows * tail.features
        if len(tail.shapes[-1]) > 1:
            break  # it ends in pictures, which no fully connected layer makes
        if passes * batch * tail.macs - cost > spared:
            kept, best, spared = layers[:first], tail, passes * batch * tail.macs - cost
        shape = tail.shapes[1]
    return kept, best
