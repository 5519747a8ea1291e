"""Every public function over awkward sizes, as named calls: for guard pages, threads and no JIT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from deconv_core import functional as F
from deconv_core import geometry
from deconv_core.cpu import config, conv
from deconv_core.cpu.amx import amxplan
from deconv_core.cpu.batch import batchgradplan, batchplan
from deconv_core.cpu.matrices import gemmplan, matrix, wideplan
from deconv_core.cpu.positions import plan
from deconv_core.cpu.winograd import tilegradplan, tilepassplan

Call = tuple[str, Callable[..., Any], list[np.ndarray], list[Any], dict[str, Any]]

# (batch, in, H, W), (out, in / groups, kh, kw), options
CONV = [
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 3, 5, 7), (5, 3, 3, 3), {"padding": 1}),
    ((1, 16, 4, 16), (16, 16, 3, 3), {"padding": 1}),
    ((1, 17, 3, 33), (33, 17, 2, 1), {}),
    ((2, 4, 9, 8), (6, 2, 3, 2), {"stride": (2, 3), "padding": (1, 4), "groups": 2}),
    ((1, 5, 6, 19), (10, 1, 5, 5), {"groups": 5, "padding": "same"}),
    ((3, 2, 11, 10), (3, 2, 3, 4), {"stride": 4, "dilation": (3, 2), "padding": 2}),
    ((1, 3, 1, 40), (31, 3, 1, 9), {"stride": 2, "padding": (0, 12)}),
    ((1, 3, 40, 75), (4, 3, 16, 33), {"stride": (8, 16), "padding": (3, 5)}),
    ((2, 2, 9, 140), (3, 2, 9, 40), {"stride": (4, 32), "padding": (0, 7)}),
    ((1, 34, 120, 130), (26, 17, 18, 16), {"stride": 16, "padding": (3, 1), "groups": 2}),
    ((3, 7, 12, 12), (31, 7, 1, 1), {}),  # straight from the arrays
    ((2, 10, 9, 23), (14, 5, 1, 1), {"groups": 2}),
    ((2, 3, 20, 61), (31, 3, 3, 3), {"padding": 1}),  # straight into the result, all but 7 channels
    ((3, 16, 6, 64), (24, 8, 3, 3), {"padding": 1, "groups": 2}),  # and the next two
    ((1, 2, 2, 4097), (13, 2, 2, 6), {"padding": (0, 2)}),
    ((3, 2, 21, 128), (13, 2, 5, 5), {"padding": 2}),  # a weight gradient of rows as they lie
    ((6, 40, 14, 26), (41, 40, 3, 3), {"padding": 1}),  # by Winograd's tiles, and the next five
    ((3, 64, 26, 30), (64, 64, 3, 3), {"padding": 1, "dilation": 2}),
    ((8, 96, 1, 301), (96, 96, 1, 3), {"padding": (0, 1)}),
    ((1, 96, 3, 1700), (96, 96, 1, 3), {"padding": (0, 1)}),  # and rows longer than blocks
    ((8, 64, 8, 34), (78, 32, 3, 3), {"padding": (0, 2), "groups": 2}),
    ((12, 40, 36, 41), (48, 40, 4, 4), {"stride": 2, "padding": 1}),
    ((35, 3, 5, 6), (17, 3, 3, 3), {"padding": 1}),  # many small pictures
    ((3, 5, 4, 7), (6, 5, 4, 7), {}),  # a kernel as large as the picture
    ((2, 40, 4, 5), (70, 40, 4, 4), {"stride": 2, "padding": 1}),  # few results
    ((1, 1, 1, 64), (1, 1, 1, 3), {"stride": (1, 2), "dilation": (1, 2), "padding": (0, 1)}),
    ((1, 17, 3, 64), (2, 17, 1, 3), {"stride": (1, 2), "dilation": (1, 2), "padding": (0, 1)}),
    ((2, 3, 17, 33), (3, 1, 3, 3), {"padding": 1, "groups": 3}),  # depthwise, and the rest
    ((1, 2, 17, 33), (2, 1, 5, 5), {"stride": 2, "padding": 2, "groups": 2}),
    ((2, 2, 16, 32), (2, 1, 3, 3), {"stride": 3, "groups": 2}),
    ((1, 3, 9, 18), (3, 1, 3, 2), {"dilation": 2, "padding": (2, 0), "groups": 3}),
    ((1, 2, 90, 70), (2, 1, 4, 3), {"stride": (1, 2), "padding": 1, "groups": 2}),
    ((2, 3, 5, 7), (3, 1, 3, 3), {"padding": 1, "groups": 3}),  # narrow ones, read in place
    ((2, 20, 14, 7), (20, 1, 4, 3), {"padding": (0, 2), "dilation": (1, 2), "groups": 20}),
    ((1, 2, 15, 15), (2, 1, 5, 5), {"padding": 2, "groups": 2}),
]
# (batch, in, H, W), (in, out / groups, kh, kw), options
TRANSPOSED = [
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 9, 4, 5), (9, 3, 3, 3), {"stride": 2, "padding": 1}),
    ((1, 16, 5, 16), (16, 16, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((1, 8, 3, 2), (8, 17, 4, 4), {"stride": 2, "padding": 1}),
    ((1, 3, 2, 18), (3, 2, 20, 33), {"stride": (16, 32), "padding": (2, 0)}),
    ((2, 4, 3, 5), (4, 3, 2, 3), {"stride": (4, 1), "output_padding": (3, 0), "groups": 2}),
    ((1, 7, 6, 3), (7, 1, 3, 3), {"dilation": (2, 3), "stride": 3, "padding": 2, "groups": 7}),
    ((2, 9, 6, 7), (9, 1, 9, 9), {"stride": 2, "padding": 4}),  # joint phases, and the next three
    ((1, 6, 3, 21), (6, 1, 5, 8), {"stride": (2, 3), "output_padding": (1, 0), "groups": 2}),
    ((2, 8, 9, 9), (8, 2, 4, 4), {"stride": 2, "padding": 1, "groups": 2}),
    ((1, 5, 2, 30), (5, 2, 7, 6), {"stride": 2, "dilation": (3, 2), "padding": 3}),
    ((12, 38, 12, 13), (38, 40, 3, 3), {"padding": 1}),  # by Winograd's tiles, and the next three
    ((12, 96, 3, 100), (96, 64, 1, 8), {"stride": (1, 4)}),
    ((8, 48, 17, 26), (48, 40, 4, 4), {"stride": 2, "padding": 1}),
    ((8, 96, 14, 16), (96, 95, 5, 5), {"stride": 2, "padding": 2, "output_padding": 1}),
    ((33, 18, 4, 3), (18, 7, 4, 3), {"stride": 2, "padding": 1, "groups": 2}),  # many small ones
    ((3, 6, 1, 1), (6, 5, 4, 3), {"stride": 2}),  # a kernel as large as the picture
    ((1, 75, 2, 3), (75, 41, 5, 4), {"stride": 2, "padding": (2, 1), "output_padding": (1, 0)}),
    ((2, 3, 8, 17), (3, 1, 4, 4), {"stride": 2, "padding": 1, "groups": 3}),  # depthwise, too
    ((1, 2, 9, 16), (2, 1, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ((2, 2, 6, 7), (2, 1, 2, 5), {"stride": (1, 3), "output_padding": (0, 2), "groups": 2}),
    ((1, 3, 17, 33), (3, 1, 5, 5), {"dilation": 2, "padding": 3, "groups": 3}),
]
SMALL = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 17, 4, 33)]


def _normal(rng: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    """Return normal values."""
    return rng.standard_normal(shape).astype(dtype)


def _convolutions(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    """Yield each convolution, every second one with ReLU, and its gradients, some with a mask."""
    for number, (x_shape, w_shape, options) in enumerate(CONV):
        shape = geometry.conv(x_shape, w_shape, **options)
        x, w = _normal(rng, x_shape, dtype), _normal(rng, w_shape, dtype)
        b, dy = _normal(rng, w_shape[0], dtype), _normal(rng, shape.output_shape, dtype)
        relu, mask = bool(number % 2), None if number % 2 else x
        yield "conv2d", F.conv2d, [x, w, b], [], options | {"relu": relu}
        ended = options | {"mask": mask}
        yield "conv2d_input_grad", F.conv2d_input_grad, [dy, w], [x_shape], ended
        yield "conv2d_weight_grad", F.conv2d_weight_grad, [dy, x], [w_shape], options
        yield "bias_grad", F.bias_grad, [dy], [], {}


def _transposed(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    """Yield each transposed convolution and its gradients, ended as above."""
    for number, (x_shape, w_shape, options) in enumerate(TRANSPOSED):
        shape = geometry.conv_transpose(x_shape, w_shape, **options)
        x, w = _normal(rng, x_shape, dtype), _normal(rng, w_shape, dtype)
        b, dy = _normal(rng, shape.in_channels, dtype), _normal(rng, shape.input_shape, dtype)
        relu, mask = bool(number % 2), None if number % 2 else x
        yield "conv_transpose2d", F.conv_transpose2d, [x, w, b], [], options | {"relu": relu}
        rest = {name: value for name, value in options.items() if name != "output_padding"}
        ended = rest | {"mask": mask}
        yield "..._input_grad", F.conv_transpose2d_input_grad, [dy, w], [x_shape], ended
        yield "..._weight_grad", F.conv_transpose2d_weight_grad, [dy, x], [w_shape], rest


def _windows(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    """Yield pooling, im2col, their adjoints, and ReLU."""
    for shape in SMALL:
        x = _normal(rng, shape, dtype)
        yield "relu", F.relu, [x], [], {}
        yield "relu_backward", F.relu_backward, [x, np.maximum(x, 0)], [], {}
        for options in (
            {"kernel_size": 1},
            {"kernel_size": (2, 3), "stride": (1, 2), "padding": 1},
        ):
            rows, cols = geometry.pool(shape, **options)
            dy = _normal(rng, (*shape[:2], rows.out, cols.out), dtype)
            last = np.full(dy.shape, shape[2] * shape[3] - 1, np.int64)
            yield "max_pool2d", F.max_pool2d, [x], [], options
            yield "max_pool2d_backward", F.max_pool2d_backward, [dy, last], [shape], {}
            yield "avg_pool2d", F.avg_pool2d, [x], [], options
            yield "avg_pool2d_backward", F.avg_pool2d_backward, [dy], [shape], options
            taps, positions = rows.kernel * cols.kernel, rows.out * cols.out
            columns = _normal(rng, (shape[0], shape[1] * taps, positions), dtype)
            yield "im2col", F.im2col, [x], [], options
            yield "col2im", F.col2im, [columns], [shape[2:]], options


def _others(rng: np.random.Generator, dtype: Any) -> Iterator[Call]:
    """Yield linear, its gradients, and cross-entropy."""
    for n, features, outputs in ((1, 1, 1), (5, 7, 3), (33, 40, 17), (14, 300, 110)):
        x, w = _normal(rng, (n, features), dtype), _normal(rng, (outputs, features), dtype)
        b, dy = _normal(rng, outputs, dtype), _normal(rng, (n, outputs), dtype)
        target = rng.integers(0, outputs, n)
        yield "linear", F.linear, [x, w, b], [], {}
        yield "linear_input_grad", F.linear_input_grad, [dy, w], [], {"mask": x}
        yield "linear_weight_grad", F.linear_weight_grad, [dy, x], [], {}
        yield "linear_backward", F.linear_backward, [dy, x, w], [], {}
        yield "cross_entropy", F.cross_entropy, [dy, target], [0.1], {}


def every_call(dtype: Any) -> Iterator[Call]:
    """Yield (name, function, arrays, other arguments, options) for every public function."""
    rng = np.random.default_rng(0)
    for group in (_convolutions, _transposed, _windows, _others):
        yield from group(rng, dtype)


def every_step(dtype: Any) -> Iterator[tuple[str, Callable[..., Any], list[Any], list[Any]]]:
    """Yield (name, function, arrays that may change, other arguments) for the optimizer steps."""
    rng = np.random.default_rng(1)
    for size in (1, 7, 1000):
        arrays = [abs(_normal(rng, size, dtype)) for _ in range(4)]
        yield "adam_step", F.adam_step, arrays, [3, 0.1, 0.9, 0.99, 1e-8, 0.1]
        arrays = [_normal(rng, size, dtype) for _ in range(3)]
        yield "sgd_step", F.sgd_step, arrays, [False, 0.1, 0.9, 0.5, 0.1, False]


def choose_again() -> None:
    """Let the kernels of every geometry be chosen and planned anew."""
    for cache in (conv.choose, conv.choose_grad, plan.spread_plan, plan.dot_plan):
        cache.cache_clear()


def share_from(macs: int) -> None:
    """Let passes of fewer multiply-adds than `macs` be one task on the calling thread."""
    plan.SHARED_MACS = macs
    choose_again()


def tile(wherever_possible: bool) -> None:
    """Let every pass that can run by Winograd's tiles do so, or those for which that pays.

    Those that can all transform weights apart.
    """
    shares = (1e9, 1e9) if wherever_possible else (config.TILED_SHARE, config.GRAD_SHARE)
    tilepassplan.TILED_SHARE, tilegradplan.GRAD_SHARE = shares
    tilepassplan.TILED_WEIGHT = config.TILED_WEIGHT
    tilepassplan.NEAR_CHANNELS = config.NEAR_CHANNELS
    tilegradplan.GRAD_NEAR_BYTES = 0 if wherever_possible else config.GRAD_NEAR_BYTES
    choose_again()


def transform_near(channels: int) -> None:
    """Let passes by tiles transform weights where they use or make them, wherever that can be.

    A pass does so with the weights of so many channels at a time.
    """
    tilepassplan.TILED_WEIGHT, tilepassplan.NEAR_CHANNELS = 1 << 60, channels
    tilegradplan.GRAD_NEAR_BYTES = config.GRAD_NEAR_BYTES
    choose_again()


def multiply(wherever_possible: bool) -> None:
    """Let every pass that can be a product of matrices be one, however small or slow, or none."""
    gemmplan.GEMM_SHARE = (1e9, 1e9) if wherever_possible else (0, 0)
    gemmplan.SHARED_MACS = 0
    choose_again()


def batch(wherever_possible: bool) -> None:
    """Let every pass of small pictures run with images innermost, or none; no products, too."""
    multiply(False)
    for module in (batchplan, batchgradplan):
        module.BATCH_SHARE = (1e9, 1e9) if wherever_possible else (0, 0)
        module.BATCH_LEAST, module.BATCH_PIXELS, module.SHARED_MACS = 0, 1 << 20, 0
    batchgradplan.BATCH_TERMS = 1 << 20
    choose_again()


def window(wherever_possible: bool) -> None:
    """Let every pass with few results be a product of its windows, however small, or none."""
    matrix.SHARED_MACS = 0 if wherever_possible else 1 << 60
    choose_again()


def widen(wherever_possible: bool) -> None:
    """Let every weight gradient that can run along the kernel's rows, or none; no products, too."""
    multiply(False)
    wideplan.WIDE_SHARE, wideplan.SHARED_MACS = 1e9 if wherever_possible else 0, 0
    choose_again()


def register(wherever_possible: bool) -> None:
    """Let every forward pass and input gradient run by matrix registers, or none."""
    multiply(False)
    batch(False)
    amxplan.MATRIX_SHARE = 1e9 if wherever_possible else 0
    amxplan.MATRIX_TERMS, amxplan.MATRIX_PHASES, amxplan.MATRIX_MACS = 0, 1 << 20, 0
    amxplan.MATRIX_TASKS = 0
    choose_again()


def choose_as_usual() -> None:
    """Let kernels be chosen by what pays."""
    tile(False)
    amxplan.MATRIX_SHARE, amxplan.MATRIX_TERMS = config.MATRIX_SHARE, config.MATRIX_TERMS
    amxplan.MATRIX_PHASES, amxplan.MATRIX_MACS = config.MATRIX_PHASES, config.MATRIX_MACS
    amxplan.MATRIX_TASKS = config.MATRIX_TASKS
    gemmplan.GEMM_SHARE, gemmplan.SHARED_MACS = config.GEMM_SHARE, config.SHARED_MACS
    wideplan.WIDE_SHARE, wideplan.SHARED_MACS = config.WIDE_SHARE, config.SHARED_MACS
    matrix.SHARED_MACS = config.SHARED_MACS
    for module in (batchplan, batchgradplan):
        module.BATCH_SHARE, module.BATCH_LEAST = config.BATCH_SHARE, config.BATCH_LEAST
        module.BATCH_PIXELS, module.SHARED_MACS = config.BATCH_PIXELS, config.SHARED_MACS
    batchgradplan.BATCH_TERMS = config.BATCH_TERMS
    choose_again()


def bits(result: Any) -> list[bytes]:
    """Return a result's exact bits."""
    return [np.asarray(a).tobytes() for a in (result if isinstance(result, tuple) else (result,))]
