"""Sizes, strides, paddings, dilations, groups and phases: the only place with that arithmetic.

One fact carries the whole engine. Along one axis a convolution with stride ``s`` and dilation
``d`` reads, for output position ``o`` and tap ``k``, the padded input at ``o * s + k * d``. That
index is ``s * (o + shift) + phase``, with ``phase = (k * d) % s`` and ``shift = (k * d) // s``:
each tap reads one of ``s`` *phases* of the input, at unit stride. The adjoint, read the other way
round, writes each phase of its output at unit stride (sweep.py). So neither a convolution nor a
transposed one ever strides, scatters or inserts a zero inside its arithmetic.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from .arguments import integer

MOST_ELEMENTS = 1 << 36  # of an array, a quarter of a TiB in float32: more is a slip of the pen


def pair(value: Any, name: str, minimum: int) -> tuple[int, int]:
    """Return `value` (an integer, or one or two in a list, tuple or array) as two >= `minimum`."""
    if type(value) is int and value >= minimum:  # as nearly always: at once
        return value, value
    several = isinstance(value, (tuple, list)) or getattr(value, "ndim", 0) == 1
    items = value if several else (value,)
    if len(items) not in (1, 2):
        raise ValueError(f"{name} must be an integer or two of them, got {value!r}")
    try:
        if any(isinstance(item, bool) for item in items):
            raise TypeError
        first, last = operator.index(items[0]), operator.index(items[-1])
    except TypeError:
        raise TypeError(f"{name} must be an integer or two of them, got {value!r}") from None
    if min(first, last) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return first, last


def ceil_div(a: int, b: int) -> int:
    """Return ``a / b`` rounded up."""
    return -(-a // b)


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution or a pooling window.

    ``pad_hi`` may be negative: a transposed convolution's output_padding beyond its padding.
    """

    size: int
    kernel: int
    stride: int
    pad_lo: int
    pad_hi: int
    dilation: int

    @property
    def extent(self) -> int:
        """Input positions from the first tap to the last."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> int:
        """Input size with its padding."""
        return self.size + self.pad_lo + self.pad_hi

    @property
    def out(self) -> int:
        """Output size: the number of window positions inside the padded input."""
        return (self.padded - self.extent) // self.stride + 1

    @property
    def step(self) -> int:
        """The stride; 1 where a single output makes the stride meaningless."""
        return self.stride if self.out > 1 else 1

    @property
    def phases(self) -> tuple[int, ...]:
        """For each tap, the phase of the padded input that it reads."""
        return tuple(k * self.dilation % self.step for k in range(self.kernel))

    @property
    def shifts(self) -> tuple[int, ...]:
        """For each tap, how far ahead of the output position it reads in its phase."""
        return tuple(k * self.dilation // self.step for k in range(self.kernel))

    @property
    def reach(self) -> int:
        """The largest shift: positions a phase holds beyond the outputs (its halo)."""
        return self.dilation * (self.kernel - 1) // self.step

    def adjoint_out(self, output_padding: int) -> int:
        """Size that a transposed convolution gives to an input of this size."""
        return (
            (self.size - 1) * self.stride + self.extent - self.pad_lo - self.pad_hi + output_padding
        )


@dataclass(frozen=True)
class ConvGeometry:
    """A convolution's whole geometry, checked once; a transposed one is the adjoint of such.

    ``rows`` and ``cols`` describe the convolution's input axes. For a transposed convolution the
    geometry is that of the convolution it is the adjoint of: `in_channels` and `input_size` are
    what the transposed convolution *produces*, `out_channels` and `output_size` what it takes.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    rows: Axis
    cols: Axis

    @cached_property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the convolution's input."""
        return self.batch, self.in_channels, self.rows.size, self.cols.size

    @cached_property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the convolution's output."""
        return self.batch, self.out_channels, self.rows.out, self.cols.out

    @cached_property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight, (out, in / groups, kh, kw); the same array serves the adjoint."""
        return (
            self.out_channels,
            self.in_channels // self.groups,
            self.rows.kernel,
            self.cols.kernel,
        )

    @cached_property
    def _hash(self) -> int:
        """The fields' hash, found once: every call looks its plan up by geometry."""
        return hash((*self.input_shape, self.out_channels, self.groups, self.rows, self.cols))

    def __hash__(self) -> int:
        return self._hash

    @property
    def macs(self) -> int:
        """Multiply-adds of one pass (forward, input gradient or weight gradient alike)."""
        _, per_group, kh, kw = self.weight_shape
        return self.batch * self.out_channels * self.rows.out * self.cols.out * per_group * kh * kw

    def __str__(self) -> str:
        kernel = "x".join(map(str, self.weight_shape))
        tail = " ".join(
            f"{name} {getattr(self.rows, key)},{getattr(self.cols, key)}"
            for name, key in (("stride", "stride"), ("pad", "pad_lo"), ("dilation", "dilation"))
        )
        sizes = "x".join(map(str, self.input_shape)), "x".join(map(str, self.output_shape))
        return f"{sizes[0]} * {kernel} -> {sizes[1]} ({tail} groups {self.groups})"


def _check_rank(name: str, shape: Sequence[int]) -> None:
    """Raise unless `shape` has four axes."""
    if len(shape) != 4:
        raise ValueError(f"{name} must have 4 axes, got {len(shape)}: shape {tuple(shape)}")


def _check_groups(groups: int, **channels: int) -> None:
    """Raise unless `groups` divides every number of channels given."""
    for name, count in channels.items():
        if count % groups:
            raise ValueError(f"{name} {count} is not divisible by groups {groups}")


def _check_positive(name: str, shape: Sequence[int], first: int) -> None:
    """Raise when an axis of `shape` from `first` on is empty."""
    if min(shape[first:]) < 1:
        raise ValueError(f"{name} has an empty axis: shape {tuple(shape)}")


def _check_size(geometry: ConvGeometry, padded: str, other: str) -> ConvGeometry:
    """Return `geometry`; raise where its options make arrays that no memory holds."""
    rows, cols = geometry.rows, geometry.cols
    whole = geometry.batch, geometry.in_channels, rows.padded, cols.padded
    for name, shape in ((padded, whole), (other, geometry.output_shape)):
        if math.prod(shape) > MOST_ELEMENTS:
            raise ValueError(
                f"{name} of {shape} has more than 2**36 elements: kernel {rows.kernel}x"
                f"{cols.kernel}, stride {rows.stride}, {cols.stride}, padding {rows.pad_lo}, "
                f"{cols.pad_lo}, dilation {rows.dilation}, {cols.dilation}"
            )
    return geometry


def _conv_padding(
    padding: str | tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return ((top, bottom), (left, right)); "same" puts the odd one last, as PyTorch does."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f'padding "same" needs stride 1, got stride {stride}')
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    if isinstance(padding, str):
        raise ValueError(f'padding must be "same", "valid" or integers, got {padding!r}')
    rows, cols = padding
    return (rows, rows), (cols, cols)


def conv(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> ConvGeometry:
    """Check and describe ``conv2d(x, weight, stride, padding, dilation, groups)``.

    Parameters
    ----------
    input_shape : (N, in, H, W)
    weight_shape : (out, in / groups, kh, kw)
    stride, padding, dilation : int or pair of int; padding also "same" or "valid"
    groups : int

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash.

    Examples
    --------
    >>> str(conv((8, 3, 32, 32), (16, 3, 3, 3), stride=2, padding=1))
    '8x3x32x32 * 16x3x3x3 -> 8x16x16x16 (stride 2,2 pad 1,1 dilation 1,1 groups 1)'
    """
    stride, dilation = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    if not isinstance(padding, str):
        padding = pair(padding, "padding", 0)
    groups = integer("groups", groups, 1)
    return _conv(tuple(input_shape), tuple(weight_shape), stride, padding, dilation, groups)


@lru_cache(maxsize=1024)
def _conv(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: str | tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> ConvGeometry:
    """Check shapes against normalised options; nets ask for the same few over and over."""
    _check_rank("input", input_shape)
    _check_rank("weight", weight_shape)
    _check_positive("weight", weight_shape, 0)
    _check_positive("input", input_shape, 1)
    batch, channels, *size = input_shape
    out_channels, per_group, *kernel = weight_shape
    _check_groups(groups, in_channels=channels, out_channels=out_channels)
    if per_group * groups != channels:
        raise ValueError(
            f"input has {channels} channels but weight of shape {tuple(weight_shape)} "
            f"with groups {groups} takes {per_group * groups}"
        )
    pads = _conv_padding(padding, (kernel[0], kernel[1]), stride, dilation)
    rows, cols = (
        Axis(size[i], kernel[i], stride[i], pads[i][0], pads[i][1], dilation[i]) for i in (0, 1)
    )
    if rows.extent > rows.padded or cols.extent > cols.padded:
        raise ValueError(
            f"kernel of {rows.kernel}x{cols.kernel} with dilation {dilation} spans "
            f"{rows.extent}x{cols.extent}, larger than the padded input {rows.padded}x{cols.padded}"
        )
    made = ConvGeometry(batch, channels, out_channels, groups, rows, cols)
    return _check_size(made, "a padded input", "an output")


def conv_transpose(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> ConvGeometry:
    """Check ``conv_transpose2d`` and describe the convolution that it is the adjoint of.

    Parameters
    ----------
    input_shape : (N, in, H, W)
    weight_shape : (in, out / groups, kh, kw)
    stride, padding, output_padding, dilation : int or pair of int
    groups : int

    Raises
    ------
    ValueError, TypeError
        Naming the two things that clash.

    Examples
    --------
    >>> conv_transpose((8, 16, 32, 32), (16, 3, 3, 3), stride=2, padding=1).input_shape
    (8, 3, 63, 63)
    """
    stride, dilation = pair(stride, "stride", 1), pair(dilation, "dilation", 1)
    padding, extra = pair(padding, "padding", 0), pair(output_padding, "output_padding", 0)
    groups = integer("groups", groups, 1)
    shapes = tuple(input_shape), tuple(weight_shape)
    return _conv_transpose(*shapes, stride, padding, extra, groups, dilation)


@lru_cache(maxsize=1024)
def _conv_transpose(
    input_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
    groups: int,
    dilation: tuple[int, int],
) -> ConvGeometry:
    """Check shapes against normalised options."""
    _check_rank("input", input_shape)
    _check_rank("weight", weight_shape)
    _check_positive("weight", weight_shape, 0)
    _check_positive("input", input_shape, 1)
    batch, channels, *size = input_shape
    if channels != weight_shape[0]:
        raise ValueError(
            f"input has {channels} channels but weight of shape {tuple(weight_shape)} "
            f"takes {weight_shape[0]}"
        )
    _check_groups(groups, in_channels=channels)
    axes = []
    for i in (0, 1):
        if extra[i] >= max(stride[i], dilation[i]):
            raise ValueError(
                f"output_padding must be smaller than stride or dilation, got output_padding "
                f"{extra[i]} with stride {stride[i]} and dilation {dilation[i]}"
            )
        small = Axis(size[i], weight_shape[2 + i], stride[i], padding[i], padding[i], dilation[i])
        large = small.adjoint_out(extra[i])
        if large < 1:
            raise ValueError(
                f"output would have size {large}: input {size[i]} with kernel {small.kernel} is "
                f"too small for padding {padding[i]}"
            )
        axes.append(
            Axis(large, small.kernel, stride[i], padding[i], padding[i] - extra[i], dilation[i])
        )
    made = ConvGeometry(batch, weight_shape[1] * groups, channels, groups, axes[0], axes[1])
    return _check_size(made, "an output with its padding", "an input")


def pool(
    input_shape: Sequence[int], kernel_size: Any, stride: Any = None, padding: Any = 0
) -> tuple[Axis, Axis]:
    """Check a pooling window over (N, C, H, W) and return its row and column axes.

    Raises
    ------
    ValueError, TypeError
        As `conv`; also when the padding exceeds half the window.

    Examples
    --------
    >>> [axis.out for axis in pool((1, 8, 32, 32), 2)]
    [16, 16]
    """
    _check_rank("input", input_shape)
    _check_positive("input", input_shape, 1)
    kernel = pair(kernel_size, "kernel_size", 1)
    step = kernel if stride is None else pair(stride, "stride", 1)
    pad = pair(padding, "padding", 0)
    size = input_shape[2:]
    for k, p, n in zip(kernel, pad, size, strict=True):
        if 2 * p > k:
            raise ValueError(f"padding {p} is more than half of kernel_size {k}")
        if k > n + 2 * p:
            raise ValueError(f"kernel_size {k} is larger than the padded input {n + 2 * p}")
    rows, cols = (Axis(size[i], kernel[i], step[i], pad[i], pad[i], 1) for i in (0, 1))
    return rows, cols


def unfold(
    input_shape: Sequence[int], kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[Axis, Axis]:
    """Check ``im2col`` over (N, C, H, W) and return its row and column axes."""
    _check_rank("input", input_shape)
    kernel = pair(kernel_size, "kernel_size", 1)
    pad = pair(padding, "padding", 0)
    geometry = conv(input_shape, (1, input_shape[1], *kernel), stride, pad, dilation)
    return geometry.rows, geometry.cols
