"""The layers on pictures: parameters and options on one side, `functional` on the other.

``layer(x)`` is inference and keeps nothing. ``y, backward = layer.forward(x)`` is training;
``backward(grad_y)`` adds to the parameters' gradients and returns the gradient to x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deconv_core import device, geometry, init
from deconv_core import functional as F
from deconv_core.functional import checks
from deconv_core.parameters import Affine, Backward, Layer, Weighted, channel_count


class _Convolution(Weighted):
    """What a convolution and its adjoint share: a backward pass, made of each one's gradients."""

    options: dict[str, Any]
    function: Callable[..., np.ndarray]
    weight_grad: Callable[..., np.ndarray]
    input_grad: Callable[..., np.ndarray]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: (N, in, H, W) -> (N, out, H', W')."""
        return self.output(x, relu=False)

    def output(self, x: np.ndarray, relu: bool) -> np.ndarray:
        """Return the output, or its positive part."""
        options = {**self.options, "precision": self.precision, "relu": relu}
        return self.function(x, self.weight.data, self.bias_data, **options)

    def add_weight_grad(self, grad_y: np.ndarray, x: np.ndarray) -> None:
        """Add the gradient of the weight, for an output's gradient and its input."""
        options = self._grad_options
        self.weight.add_grad(self.weight_grad(grad_y, x, self.weight.shape, **options))

    def adjoint(
        self, grad_y: np.ndarray, input_shape: tuple[int, ...], mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the gradient to an input of this shape, with the mask of a ReLU before it."""
        options = {**self._grad_options, "mask": mask}
        return self.input_grad(grad_y, self.weight.data, input_shape, **options)

    @property
    def _grad_options(self) -> dict[str, Any]:
        """What the gradients take: output_padding follows from the shapes."""
        options = {name: value for name, value in self.options.items() if name != "output_padding"}
        return {**options, "precision": self.precision}


class Conv2d(_Convolution):
    """2-D convolution of (N, in, H, W) with a weight (out, in / groups, kh, kw), as PyTorch's.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, dilation : int or pair; padding also "same" or "valid"
    groups : int
    bias : bool
    rng : int seed, numpy.random.Generator, or None for unpredictable initial weights
    dtype : float32 or float64

    Raises
    ------
    ValueError, TypeError
        Naming what clashes.

    Examples
    --------
    >>> conv = Conv2d(3, 8, 3, stride=2, padding=1, rng=0)
    >>> y, backward = conv.forward(np.ones((4, 3, 9, 9), np.float32))
    >>> y.shape, backward(np.ones_like(y)).shape
    ((4, 8, 5, 5), (4, 3, 9, 9))
    """

    function = staticmethod(F.conv2d)
    weight_grad = staticmethod(F.conv2d_weight_grad)
    input_grad = staticmethod(F.conv2d_input_grad)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        channels = channel_count(in_channels, groups, "in_channels")
        out_channels = channel_count(out_channels, groups, "out_channels")
        kernel = geometry.pair(kernel_size, "kernel_size", 1)
        span = geometry.pair(dilation, "dilation", 1)
        shape = (out_channels, channels // groups, *kernel)
        smallest = [d * (k - 1) + 1 for d, k in zip(span, kernel, strict=True)]
        geometry.conv((1, channels, *smallest), shape, stride, padding, dilation, groups)
        super().__init__(shape, out_channels if bias else None, rng, dtype)
        self.options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input of this shape."""
        return geometry.conv(input_shape, self.weight.shape, **self.options).output_shape

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds of one forward pass."""
        return geometry.conv(input_shape, self.weight.shape, **self.options).macs


class ConvTranspose2d(_Convolution):
    """The adjoint of a convolution, as PyTorch's: weight (in, out / groups, kh, kw).

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, padding, output_padding, dilation : int or pair
    groups : int
    bias : bool
    rng : int seed, numpy.random.Generator, or None for unpredictable initial weights
    dtype : float32 or float64

    Raises
    ------
    ValueError, TypeError
        Naming what clashes.

    Examples
    --------
    >>> deconv = ConvTranspose2d(8, 3, 3, stride=2, padding=1, rng=0)
    >>> deconv(np.ones((4, 8, 5, 5), np.float32)).shape
    (4, 3, 9, 9)
    """

    function = staticmethod(F.conv_transpose2d)
    weight_grad = staticmethod(F.conv_transpose2d_weight_grad)
    input_grad = staticmethod(F.conv_transpose2d_input_grad)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        channels = channel_count(in_channels, groups, "in_channels")
        out_channels = channel_count(out_channels, groups, "out_channels")
        kernel = geometry.pair(kernel_size, "kernel_size", 1)
        pads = geometry.pair(padding, "padding", 0)
        shape = (channels, out_channels // groups, *kernel)
        large_enough = [2 * pad + 1 for pad in pads]  # so that no padding eats the whole output
        geometry.conv_transpose(
            (1, channels, *large_enough), shape, stride, padding, output_padding, groups, dilation
        )
        super().__init__(shape, out_channels if bias else None, rng, dtype)
        self.options = dict(stride=stride, padding=padding, output_padding=output_padding)
        self.options |= dict(groups=groups, dilation=dilation)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input of this shape."""
        return geometry.conv_transpose(input_shape, self.weight.shape, **self.options).input_shape

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds of one forward pass."""
        return geometry.conv_transpose(input_shape, self.weight.shape, **self.options).macs


class ReLU(Layer):
    """max(x, 0), elementwise.

    Examples
    --------
    >>> ReLU()(np.array([-1.0, 2.0], np.float32)).tolist()
    [0.0, 2.0]
    """

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: any shape to the same shape."""
        return F.relu(x)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: the output, and its backward pass, which keeps the output."""
        y = F.relu(x)
        return y, Backward(lambda grad, wanted: F.relu_backward(grad, y) if wanted else None, y)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input of this shape."""
        return input_shape

    def __repr__(self) -> str:
        return "ReLU()"


class _Pool2d(Layer):
    """What the poolings share: a window, its stride and its padding."""

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        kernel = geometry.pair(kernel_size, "kernel_size", 1)
        geometry.pool((1, 1, *kernel), kernel, stride, padding)
        self.window = (kernel_size, stride, padding)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input of this shape."""
        rows, cols = geometry.pool(input_shape, *self.window)
        return (*input_shape[:2], rows.out, cols.out)

    def __repr__(self) -> str:
        return "{}(kernel_size={}, stride={}, padding={})".format(type(self).__name__, *self.window)


class MaxPool2d(_Pool2d):
    """Maximum over windows of (N, C, H, W), as PyTorch's; stride None means the kernel size.

    Parameters
    ----------
    kernel_size, stride, padding : int or pair

    Examples
    --------
    >>> MaxPool2d(2)(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: (N, C, H, W) -> (N, C, H', W')."""
        return F.max_pool2d(x, *self.window)[0]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: the output, and its backward pass, which keeps where the maxima were."""
        y, indices = F.max_pool2d(x, *self.window)
        shape = x.shape

        def backward(grad_y: np.ndarray, input_grad: bool) -> np.ndarray | None:
            return F.max_pool2d_backward(grad_y, indices, shape) if input_grad else None

        return y, Backward(backward, y)


class AvgPool2d(_Pool2d, Affine):
    """Mean over windows of (N, C, H, W), padding counted, as PyTorch's default.

    Parameters
    ----------
    kernel_size, stride, padding : int or pair; stride None means the kernel size

    Examples
    --------
    >>> AvgPool2d(2)(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)).ravel().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: (N, C, H, W) -> (N, C, H', W')."""
        return F.avg_pool2d(x, *self.window)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: the output, and its backward pass, which keeps no array."""
        y, shape = self(x), x.shape
        return y, Backward(lambda grad, wanted: self.adjoint(grad, shape) if wanted else None, y)

    def adjoint(self, grad_y: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray:
        """Return the gradient to an input of this shape."""
        return F.avg_pool2d_backward(grad_y, input_shape, *self.window)


class Flatten(Affine):
    """(N, ...) -> (N, product of the rest).

    Examples
    --------
    >>> Flatten()(np.zeros((2, 3, 4, 4), np.float32)).shape
    (2, 48)
    """

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: a view of x where its memory allows."""
        if device.of(x) != "cuda":
            checks.plain("x", x)
        return x.reshape(self.output_shape(x.shape))

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: the output, and its backward pass, which gives the gradient x's shape."""
        y, shape = self(x), x.shape
        return y, Backward(lambda grad, wanted: self.adjoint(grad, shape) if wanted else None, y)

    def adjoint(self, grad_y: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray:
        """Return the gradient in the input's shape."""
        return grad_y.reshape(input_shape)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input of this shape."""
        if len(input_shape) < 2:
            raise ValueError(f"Flatten needs 2 axes or more, got shape {tuple(input_shape)}")
        return (input_shape[0], math.prod(input_shape[1:]))

    def __repr__(self) -> str:
        return "Flatten()"
