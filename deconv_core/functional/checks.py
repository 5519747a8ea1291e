"""What `functional` asks of its arguments: each check raises an error that names what clashes.

`floats` also tells where the arrays live, by returning the kernels for them.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deconv_core import cpu, device
from deconv_core.geometry import Axis

Array = np.ndarray[Any, Any]
_FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
_DEFAULT: dict[str, str] = {}


def plain(name: str, array: Any) -> None:
    """Raise TypeError unless `array` is a NumPy array, and none whose class means more."""
    if not isinstance(array, np.ndarray) or isinstance(array, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(array).__name__}")


def floats(**arrays: Any) -> Any:
    """Return the kernels of the device on which all `arrays` live.

    Raise TypeError unless they are of one dtype: float32 or float64, on CUDA float32.
    """
    common = None
    for name, array in arrays.items():
        if type(array) is not np.ndarray:
            if any(device.of(other) == "cuda" for other in arrays.values()):
                return _on_cuda(arrays)
            plain(name, array)
        dtype = array.dtype
        if dtype not in _FLOATS:
            raise TypeError(f"{name} must be float32 or float64 (native), got {dtype!r}")
        if common is None:
            first, common = name, dtype
        elif dtype != common:
            raise TypeError(f"{first} and {name} must have one dtype, got {common} and {dtype}")
    return cpu


def _on_cuda(arrays: Mapping[str, Any]) -> Any:
    """Return the CUDA kernels; raise TypeError unless all `arrays` are such as they take."""
    _together(arrays)
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise TypeError(f"{name} must be float32 on cuda, got {array.dtype!r}")
    return device.cuda()


def _together(arrays: Mapping[str, Any]) -> None:
    """Raise unless all `arrays`, one of them a CUDA array, are contiguous CUDA arrays."""
    there = next(name for name, array in arrays.items() if device.of(array) == "cuda")
    for name, array in arrays.items():
        if device.of(array) != "cuda":
            raise TypeError(
                f"{there} is on cuda but {name} is a {type(array).__name__}: all must be on one "
                "device (deconv_core.device.to copies an array to another)"
            )
        if not array.is_c_contiguous():
            shape, strides = tuple(array.shape), tuple(array.strides)
            raise ValueError(
                f"{name} must be C-contiguous on cuda, got shape {shape}, strides {strides}"
            )


def precision(kernels: Any, name: str | None) -> dict[str, str]:
    """Return what kernels get for a precision; None is their device's default.

    Raise ValueError unless it is one of the device's.
    """
    if name is None:
        return _DEFAULT
    device.check_precision(name, "cpu" if kernels is cpu else "cuda")
    return _DEFAULT if kernels is cpu else {"precision": name}


def int64(name: str, array: Any, like: str, other: Any) -> None:
    """Raise TypeError unless `array` is of native int64, and where `other`, named `like`, is."""
    if device.of(other) == "cuda" or device.of(array) == "cuda":
        _together({like: other, name: array})
    else:
        plain(name, array)
    if array.dtype != np.int64 or not array.dtype.isnative:
        raise TypeError(f"{name} must be int64, got {array.dtype!r}")


def rank(name: str, shape: Sequence[int], axes: int) -> None:
    """Raise ValueError unless `shape` has `axes` axes."""
    if len(shape) != axes:
        raise ValueError(f"{name} must have {axes} axes, got {len(shape)}: shape {tuple(shape)}")


def shape_is(name: str, shape: Sequence[int], expected: Sequence[int], source: str) -> None:
    """Raise ValueError unless `shape` is the one that `source` asks for."""
    if tuple(shape) != tuple(expected):
        raise ValueError(f"{name} has shape {tuple(shape)} but {source} asks for {tuple(expected)}")


def sizes(name: str, value: Any, axes: int) -> tuple[int, ...]:
    """Return a shape given as an argument as a tuple of `axes` integers, none negative."""
    try:
        shape = tuple(map(operator.index, value))
    except TypeError:
        raise TypeError(f"{name} must be {axes} integers, got {value!r}") from None
    rank(name, shape, axes)
    if min(shape) < 0:
        raise ValueError(f"{name} has a negative size: {shape}")
    return shape


def bias(value: Any, channels: int, weight: Array) -> None:
    """Raise unless `value` is None or one float per channel, of the (float) dtype of `weight`."""
    if value is not None:
        if type(value) is not type(weight) or value.dtype != weight.dtype:
            floats(weight=weight, bias=value)
        if value.shape != (channels,):
            shape_is("bias", value.shape, (channels,), f"weight with {channels} outputs")


def mask(value: Any, shape: tuple[int, ...], grad_output: Array) -> None:
    """Raise unless `value` is None or a float array of this shape, where `grad_output` is."""
    if value is not None:
        floats(grad_output=grad_output, mask=value)
        shape_is("mask", value.shape, shape, f"input {shape}")


def output_padding(
    grad_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Return the output_padding with which a transposed convolution gives `grad_shape`."""
    for name, shape in zip(
        ("grad_output", "input", "weight"), (grad_shape, input_shape, weight_shape), strict=True
    ):
        rank(name, shape, 4)
    extra = []
    for i in (0, 1):
        pad, gap = padding[i], dilation[i]
        axis = Axis(input_shape[2 + i], weight_shape[2 + i], stride[i], pad, pad, gap)
        smallest = axis.adjoint_out(0)
        extra.append(grad_shape[2 + i] - smallest)
        limit = max(stride[i], gap)
        if not 0 <= extra[i] < limit:
            raise ValueError(
                f"grad_output has size {grad_shape[2 + i]} on axis {2 + i} but input of size "
                f"{axis.size} gives {smallest} to {smallest + limit - 1}"
            )
    return extra[0], extra[1]


def pool_indices(indices: Any, grad_output: Any, plane: int) -> None:
    """Raise unless `indices` fit `grad_output` and lie inside planes of `plane` elements.

    What lies outside a plane is ignored on CUDA, where looking would mean waiting.
    """
    shape = tuple(grad_output.shape)
    int64("indices", indices, "grad_output", grad_output)
    shape_is("indices", indices.shape, shape, f"grad_output of shape {shape}")
    if not isinstance(indices, np.ndarray):
        return
    if indices.size and not (0 <= indices.min() and indices.max() < plane):
        raise ValueError(
            f"indices run from {indices.min()} to {indices.max()} but planes hold {plane} elements"
        )


def labels(target: Any, logits: Any) -> None:
    """Raise unless `target` holds one class number for each row of `logits`.

    What is no class makes the loss NaN on CUDA, where looking would mean waiting.
    """
    shape = tuple(logits.shape)
    rank("logits", shape, 2)
    count, classes = shape
    int64("target", target, "logits", logits)
    shape_is("target", target.shape, (count,), f"logits of shape {shape}")
    if not count:
        raise ValueError(f"the mean loss of no images is undefined: logits have shape {shape}")
    if not isinstance(target, np.ndarray):
        return
    wrong = np.flatnonzero((target < 0) | (target >= classes))
    if wrong.size:
        raise ValueError(
            f"target[{wrong[0]}] is {target[wrong[0]]} but logits have {classes} classes "
            f"(0 to {classes - 1})"
        )


def fraction(name: str, value: Any) -> float:
    """Return `value` as a float in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
    return float(value)


def nesterov_options(nesterov: bool, momentum: float, dampening: float) -> None:
    """Raise ValueError where Nesterov's momentum is wanted without momentum, or with dampening."""
    if nesterov and (not momentum or dampening):
        raise ValueError(
            f"nesterov needs momentum above 0 and dampening 0, got momentum {momentum} and "
            f"dampening {dampening}"
        )


def updatable(**arrays: Any) -> Any:
    """Return the kernels of the device of all `arrays`.

    Raise unless they are of one float dtype and one shape and, but for `grad`, writable.
    """
    kernels = floats(**arrays)
    first, *_ = arrays
    for name, array in arrays.items():
        shape_is(name, array.shape, arrays[first].shape, first)
        if name != "grad":
            _writable(name, array)
    return kernels


def _writable(name: str, array: Any) -> None:
    """Raise ValueError if an array is read-only."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        raise ValueError(f"{name} is read-only but is updated in place")


def add_to(value: Any, shape: tuple[int, ...], grad_output: Array) -> None:
    """Raise unless `value` is None or a writable float array of this shape, on the same device."""
    if value is not None:
        floats(grad_output=grad_output, add_to=value)
        shape_is("add_to", value.shape, shape, f"grad_output with {shape[0]} outputs and x")
        _writable("add_to", value)


def linear(weight_shape: Sequence[int], **operands: tuple[Sequence[int], int]) -> None:
    """Raise unless each operand's (shape, weight axis) has its features along that axis."""
    rank("weight", weight_shape, 2)
    for name, (shape, axis) in operands.items():
        rank(name, shape, 2)
        if shape[1] != weight_shape[axis]:
            raise ValueError(
                f"{name} of shape {tuple(shape)} has {shape[1]} features but weight of shape "
                f"{tuple(weight_shape)} has {weight_shape[axis]}"
            )


def same_rows(grad_shape: Sequence[int], input_shape: Sequence[int]) -> None:
    """Raise unless grad_output and x are both 2-D with the same number of rows."""
    rank("grad_output", grad_shape, 2)
    rank("x", input_shape, 2)
    if grad_shape[0] != input_shape[0]:
        raise ValueError(f"grad_output has {grad_shape[0]} rows but x has {input_shape[0]}")


def column_channels(shape: Sequence[int], kernel: tuple[int, int]) -> int:
    """Return the channels that columns of `shape` hold, each with kh * kw rows."""
    rank("columns", shape, 3)
    taps = kernel[0] * kernel[1]
    if shape[1] % taps:
        raise ValueError(
            f"columns have {shape[1]} rows, not a multiple of the {taps} elements of "
            f"kernel_size {kernel}"
        )
    return shape[1] // taps
