"""What the tests share: hypothesis cases, memory layouts, calls that watch their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from deconv_core import geometry
from deconv_core.geometry import Axis

KERNELS = st.sampled_from([1, 2, 3, 3, 3, 4, 5, 9])
CHANNELS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 40])
BATCHES = st.sampled_from([0, 1, 1, 3])
MAX_MACS = 4_000_000


@dataclass(frozen=True)
class ConvCase:
    """One convolution or transposed convolution: shapes, options, layouts and a seed."""

    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    options: dict[str, Any]
    bias: bool
    layouts: tuple[str, str, str]
    seed: int

    def arrays(self, dtype: Any, y_shape: tuple[int, ...], outputs: int) -> list[Any]:
        """Return x, weight, bias (or None) and an output gradient, in the case's layouts."""
        rng = np.random.default_rng(self.seed)
        x, w, dy = (
            layout(rng.standard_normal(shape).astype(dtype), how)
            for shape, how in zip((self.x_shape, self.w_shape, y_shape), self.layouts, strict=True)
        )
        return [x, w, rng.standard_normal(outputs).astype(dtype) if self.bias else None, dy]

    def without(self, *names: str) -> dict[str, Any]:
        """Return the options but for those named."""
        return {name: value for name, value in self.options.items() if name not in names}


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """Draw an axis with room for at least one window; pad_hi may be negative."""
    kernel, dilation = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    stride, pad_lo = draw(st.integers(1, 5)), draw(st.integers(0, 9))
    pad_hi = draw(st.integers(-2, 9))
    extent = dilation * (kernel - 1) + 1
    size = max(1, extent - pad_lo - pad_hi, -pad_hi) + draw(st.integers(0, 15))
    return Axis(size, kernel, stride, pad_lo, pad_hi, dilation)


@st.composite
def conv_cases(draw: st.DrawFn, symmetric: bool = False) -> ConvCase:
    """Draw a convolution; `symmetric` leaves out paddings given by name."""
    kernel = draw(KERNELS), draw(KERNELS)
    dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    mode = draw(st.sampled_from(["integers", "integers", "integers", "same", "valid"]))
    mode = "integers" if symmetric else mode
    stride: Any = (1, 1) if mode == "same" else (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    pads = [draw(st.integers(0, e + 1)) if mode == "integers" else 0 for e in extent]
    padding: Any = tuple(pads) if mode == "integers" else mode
    least = [1 if mode == "same" else max(1, extent[i] - 2 * pads[i]) for i in (0, 1)]
    size = [n + draw(st.integers(0, 12)) for n in least]
    groups, per_group, out_per_group = draw(_groups())
    if draw(st.booleans()) and stride[0] == stride[1] and dilation[0] == dilation[1]:
        stride, dilation = stride[0], dilation[:1]  # plain integers and sequences of one
    case = ConvCase(
        (draw(BATCHES), groups * per_group, *size),
        (groups * out_per_group, per_group, *kernel),
        dict(stride=stride, padding=padding, dilation=dilation, groups=groups),
        draw(st.booleans()),
        draw(_layouts()),
        draw(st.integers(0, 1000)),
    )
    assume(geometry.conv(case.x_shape, case.w_shape, **case.options).macs <= MAX_MACS)
    return case


@st.composite
def transposed_cases(draw: st.DrawFn) -> ConvCase:
    """Draw a transposed convolution, output_padding beyond its padding included."""
    kernel = draw(KERNELS), draw(KERNELS)
    stride = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size, padding, extra = [], [], []
    for k, s, d in zip(kernel, stride, dilation, strict=True):
        pad, more = draw(st.integers(0, d * (k - 1) + 2)), draw(st.integers(0, max(s, d) - 1))
        least = -(-max(0, 2 * pad - d * (k - 1) - more) // s) + 1  # makes the output 1 or more
        size.append(least + draw(st.integers(0, 6)))
        padding.append(pad)
        extra.append(more)
    groups, per_group, out_per_group = draw(_groups())
    case = ConvCase(
        (draw(BATCHES), groups * per_group, *size),
        (groups * per_group, out_per_group, *kernel),
        dict(
            stride=stride,
            padding=tuple(padding),
            output_padding=tuple(extra),
            groups=groups,
            dilation=dilation,
        ),
        draw(st.booleans()),
        draw(_layouts()),
        draw(st.integers(0, 1000)),
    )
    assume(geometry.conv_transpose(case.x_shape, case.w_shape, **case.options).macs <= MAX_MACS)
    return case


@st.composite
def _groups(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw groups and channels per group: dense, grouped, depthwise, depthwise with multiplier."""
    kind = draw(st.sampled_from(["dense", "dense", "grouped", "depthwise"]))
    if kind == "dense":
        return 1, draw(CHANNELS), draw(CHANNELS)
    if kind == "grouped":
        return draw(st.integers(2, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return draw(CHANNELS), 1, draw(st.integers(1, 3))


def _junk(shape: list[int], dtype: np.dtype) -> np.ndarray:
    """Return an array of NaN, or of an index far outside of anything."""
    return np.full(shape, np.nan if dtype.kind == "f" else -(1 << 40), dtype)


def _strided(a: np.ndarray) -> np.ndarray:
    """Every second element of an array that holds NaN between them."""
    big = _junk([2 * n for n in a.shape], a.dtype)
    view = big[(slice(None, None, 2),) * a.ndim]
    view[...] = a
    return view


def _cropped(a: np.ndarray) -> np.ndarray:
    """The inside of an array whose border is NaN."""
    big = _junk([n + 3 for n in a.shape], a.dtype)
    view = big[tuple(slice(1, n + 1) for n in a.shape)]
    view[...] = a
    return view


def _reversed(a: np.ndarray) -> np.ndarray:
    """The same elements, stored backwards: every stride negative."""
    turn = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[turn])[turn]


def _misaligned(a: np.ndarray) -> np.ndarray:
    """The same elements, one byte off their natural alignment."""
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def _read_only(a: np.ndarray) -> np.ndarray:
    """The same array, not writable."""
    a.flags.writeable = False
    return a


def _channels_last(a: np.ndarray) -> np.ndarray:
    """Axis 1, if there is one, stored last."""
    if a.ndim < 2:
        return a
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda a: a,
    "strided": _strided,
    "cropped": _cropped,
    "reversed": _reversed,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "channels_last": _channels_last,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape) if a.size else a,
    "misaligned": _misaligned,
    "read_only": _read_only,
}


def layout(a: np.ndarray, how: str) -> np.ndarray:
    """Return `a` in the layout named ("broadcast" repeats its first elements)."""
    return LAYOUTS[how](a)


def _layouts() -> st.SearchStrategy[tuple[str, str, str]]:
    """Draw three layouts, all plain in half of the cases."""
    names = st.sampled_from(sorted(LAYOUTS))
    return st.one_of(st.just(("plain",) * 3), st.tuples(names, names, names))


def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call, and check what every function promises of its inputs and of its results."""
    inputs = [a for a in args if isinstance(a, np.ndarray)]
    before = [a.copy() for a in inputs]
    result = function(*args, **options)
    for a, kept in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(a, kept, "an input was modified", strict=True)
    for y in result if isinstance(result, tuple) else (result,):
        if isinstance(y, np.ndarray):
            assert y.flags.c_contiguous and y.flags.writeable and y.flags.aligned
            assert not any(np.may_share_memory(y, a) for a in inputs)
            assert y.dtype in (inputs[0].dtype, np.int64)
    return result


def assert_close(
    ours: np.ndarray, truth: np.ndarray, theirs: np.ndarray, magnitude: np.ndarray
) -> None:
    """Judge `ours` by float64 `truth`: no worse than PyTorch's `theirs` by a small factor.

    `magnitude` is the result for the operands' absolute values; a few units of rounding in its
    largest element are allowed, where PyTorch happens to be exact.
    """
    assert ours.shape == truth.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if ours.size:
        error, their_error = abs(ours - truth).max(), abs(theirs - truth).max()
        floor = 8 * np.finfo(ours.dtype).eps * magnitude.max()
        assert error <= 4 * their_error + floor, (error, their_error, floor)
