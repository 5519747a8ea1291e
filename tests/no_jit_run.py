"""Run the kernels' plain Python bodies (NUMBA_DISABLE_JIT=1) on tiny shapes, beside NumPy's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from unittest import mock

import calls
import numba
import numpy as np
from scripts import load

from deconv_core import functional as F
from deconv_core import geometry, reference
from deconv_core.cpu import conv
from deconv_core.cpu.amx.amxpass import run_amx
from deconv_core.cpu.amx.amxplan import cut_amx
from deconv_core.cpu.batch import batchgrad, batchwise
from deconv_core.cpu.config import MACHINE
from deconv_core.cpu.matrices import gemm, gemmgrad, widegrad
from deconv_core.cpu.positions import dot, spread
from deconv_core.cpu.tiles.cross import cross as run_cross
from deconv_core.cpu.tiles.dot import dot as run_dot
from deconv_core.cpu.tiles.spread import spread as run_spread
from deconv_core.cpu.winograd import tilegrad, tilepass


def close(ours: Any, expected: Any) -> None:
    """Compare two results, or two tuples of them."""
    pairs = zip(ours, expected, strict=True) if isinstance(ours, tuple) else [(ours, expected)]
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def convolutions(rng: np.random.Generator) -> None:
    """A convolution with everything on, and a transposed one."""
    x, w, b = (rng.standard_normal(s) for s in ((2, 2, 4, 5), (4, 1, 2, 3), (4,)))
    options = dict(stride=(2, 1), padding=1, dilation=(1, 2), groups=2)
    shape = geometry.conv(x.shape, w.shape, **options)
    dy = rng.standard_normal(shape.output_shape)
    close(F.conv2d(x, w, b, **options), reference.conv_forward(x, w, b, shape))
    dx = F.conv2d_input_grad(dy, w, x.shape, **options)
    close(dx, reference.conv_input_grad(dy, w, None, shape))
    dw = F.conv2d_weight_grad(dy, x, w.shape, **options)
    close(dw, reference.conv_weight_grad(x, dy, shape))
    close(F.bias_grad(dy), dy.sum(axis=(0, 2, 3)))
    w = rng.standard_normal((2, 3, 3, 2))
    shape = geometry.conv_transpose(x.shape, w.shape, 2, 1, 1)
    y = F.conv_transpose2d(x, w, None, 2, 1, 1)
    close(y, reference.conv_input_grad(x, w, None, shape))
    close(
        F.conv_transpose2d_input_grad(y, w, x.shape, 2, 1),
        reference.conv_forward(y, w, None, shape),
    )
    dw = F.conv_transpose2d_weight_grad(y, x, w.shape, 2, 1)
    close(dw, reference.conv_weight_grad(y, x, shape))


def joint(rng: np.random.Generator) -> None:
    """A transposed convolution whose write phases are lanes of one tile."""
    x, w, b = (rng.standard_normal(s) for s in ((2, 3, 4, 5), (3, 1, 3, 5), (1,)))
    shape = geometry.conv_transpose(x.shape, w.shape, 2, 1)
    _, plan = conv.choose(shape, True, 8)
    assert plan.numbers["joint"] > 1
    expected = reference.conv_input_grad(x, w, None, shape) + b
    close(F.conv_transpose2d(x, w, b, 2, 1), expected)


def tiles(rng: np.random.Generator) -> None:
    """Convolutions by Winograd's tiles of either size, some of them beyond the picture."""
    calls.tile(True)
    for kernel, stride, results, near in ((3, 1, 2, 0), (4, 2, 3, 0), (3, 1, 2, 1), (3, 2, 3, 1)):
        if near:
            calls.transform_near(near)
        x, w, b = (rng.standard_normal(s) for s in ((2, 2, 7, 9), (3, 2, kernel, kernel), (3,)))
        shape = geometry.conv(x.shape, w.shape, stride, 1)
        for _, plan in (conv.choose(shape, False, 8), conv.choose_grad(shape, 8)):
            assert plan.numbers["tile"] == results
        y = F.conv2d(x, w, b, stride, 1)
        close(y, reference.conv_forward(x, w, b, shape))
        dx = F.conv2d_input_grad(y, w, x.shape, stride, 1)
        close(dx, reference.conv_input_grad(y, w, None, shape))
        dw = F.conv2d_weight_grad(y, x, w.shape, stride, 1)
        close(dw, reference.conv_weight_grad(x, y, shape))
        close(F.conv2d(x, w, b, stride, 1, relu=True), np.maximum(y, 0))
        masked = F.conv2d_input_grad(y, w, x.shape, stride, 1, mask=x)
        close(masked, np.where(x > 0, dx, 0))
    calls.tile(False)


def products(rng: np.random.Generator) -> None:
    """Convolutions as products of matrices, along kernels' rows, with images innermost, of windows.

    What the last tiles compute in vain may overflow.
    """
    for choose in (calls.multiply, calls.widen, calls.batch, calls.window):
        choose(True)
        with np.errstate(all="ignore"):
            convolutions(rng)
        choose(False)


def depthwise(rng: np.random.Generator) -> None:
    """Convolutions with a kernel for each channel, with one, two and three write phases."""
    for stride, size in ((1, (6, 9)), (2, (7, 6)), ((1, 3), (5, 11)), (1, (9, 17)), (2, (9, 9))):
        x, w, b = (rng.standard_normal(s) for s in ((2, 3, *size), (3, 1, 4, 3), (3,)))
        options = dict(stride=stride, padding=1, groups=3)
        shape = geometry.conv(x.shape, w.shape, **options)
        y = F.conv2d(x, w, b, **options)
        close(y, reference.conv_forward(x, w, b, shape))
        dx = F.conv2d_input_grad(y, w, x.shape, **options)
        close(dx, reference.conv_input_grad(y, w, None, shape))
        dw = F.conv2d_weight_grad(y, x, w.shape, **options)
        close(dw, reference.conv_weight_grad(x, y, shape))


def loads(rng: np.random.Generator) -> None:
    """The multiply-adds that the benchmarks read from plans are those that the tiles make."""
    made = 0

    def spread_tile(*given: Any) -> None:
        nonlocal made
        (lanes, rows, count), channels, taps = given[:3], given[10], given[13] - given[12]
        width = MACHINE.vector_bytes // 8
        step = (1 if lanes == MACHINE.spread[0][0] else dict(MACHINE.spread)[lanes]) * width
        made += lanes * rows * -(-count // step) * step * channels * taps
        run_spread(*given)

    def cross_tile(*given: Any) -> None:
        nonlocal made
        lanes, width = MACHINE.spread[0][0], MACHINE.vector_bytes // 8
        made += given[0] * width * -(-given[1] // lanes) * lanes * (given[7] - given[6]) * given[8]
        run_cross(*given)

    def dot_tile(*given: Any) -> None:
        nonlocal made
        made += given[0] * given[1] * given[10] * given[11]
        run_dot(*given)

    cases: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ((3, 2, 7, 6), (9, 2, 3, 2), {"stride": 2, "padding": 1}),
        ((2, 16, 19, 55), (17, 16, 3, 3), {"padding": 1}),
        ((2, 3, 6, 61), (17, 3, 3, 3), {"padding": 1}),  # some straight into the result
        ((1, 2, 1, 4097), (12, 2, 1, 6), {"padding": (0, 2)}),
        ((2, 3, 8, 64), (5, 3, 1, 1), {}),
        ((2, 4, 5, 5), (6, 2, 3, 3), {"groups": 2}),
        ((2, 1, 9, 40), (5, 1, 3, 5), {"stride": 2}),  # joint phases
    ]
    for x_shape, w_shape, options in cases:
        x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
        y = reference.conv_forward(x, w, None, geometry.conv(x_shape, w_shape, **options))
        for work in (
            lambda x=x, w=w, o=options: F.conv2d(x, w, **o),
            lambda x=x, w=w, y=y, o=options: F.conv2d_input_grad(y, w, x.shape, **o),
            lambda x=x, w=w, y=y, o=options: F.conv2d_weight_grad(y, x, w.shape, **o),
        ):
            made = 0
            patched = (
                mock.patch.object(spread, "spread", spread_tile),
                mock.patch.object(batchgrad, "spread", spread_tile),
                mock.patch.object(batchwise, "spread", spread_tile),
                mock.patch.object(gemm, "spread", spread_tile),
                mock.patch.object(gemmgrad, "spread", spread_tile),
                mock.patch.object(tilegrad, "spread", spread_tile),
                mock.patch.object(tilepass, "cross", cross_tile),
                mock.patch.object(widegrad, "spread", spread_tile),
                mock.patch.object(dot, "dot", dot_tile),
            )
            with ExitStack() as stack:
                launches = stack.enter_context(load("tasks").watched())
                for patch in patched:
                    stack.enter_context(patch)
                work()
            assert [launch.total for launch in launches] == [made] != [0]


def registers(rng: np.random.Generator) -> None:
    """Passes by matrix registers, in float32, whatever the machine."""
    for x_shape, w_shape, options in (
        ((2, 33, 4, 9), (17, 33, 2, 3), {"padding": 1}),
        ((1, 3, 7, 8), (34, 3, 3, 3), {"stride": 2, "padding": (2, 1)}),
        ((1, 4, 3, 35), (2, 2, 1, 4), {"dilation": (1, 2), "groups": 2}),
    ):
        shape = geometry.conv(x_shape, w_shape, **options)
        sizes = x_shape, w_shape, w_shape[0], shape.output_shape
        x, w, b, dy = (rng.standard_normal(size).astype(np.float32) for size in sizes)
        y, dx = run_amx(x, w, b, cut_amx(shape, False)), run_amx(dy, w, None, cut_amx(shape, True))
        exact = [a.astype(np.float64) for a in (x, w, b, dy)]
        assert abs(y - reference.conv_forward(*exact[:3], shape)).max() < 1e-4
        want = reference.conv_input_grad(exact[3], exact[1], None, shape)
        assert abs(dx - want).max() < 1e-4


def the_rest(rng: np.random.Generator) -> None:
    """Pooling, im2col, ReLU, linear, cross-entropy, optimizer steps."""
    x = rng.standard_normal((2, 2, 4, 5))
    rows, cols = geometry.pool(x.shape, 2, 1, 1)
    y, indices = F.max_pool2d(x, 2, 1, 1)
    close((y, indices), reference.max_pool_forward(x, rows, cols))
    dx = F.max_pool2d_backward(y, indices, x.shape)
    close(dx, reference.max_pool_backward(y, indices, x.shape))
    close(F.avg_pool2d(x, 2, 1, 1), reference.avg_pool_forward(x, rows, cols))
    dx = F.avg_pool2d_backward(y, x.shape, 2, 1, 1)
    close(dx, reference.avg_pool_backward(y, x.shape, rows, cols))
    columns = F.im2col(x, 2, 1, 1)
    close(columns, reference.im2col(x, rows, cols))
    close(F.col2im(columns, x.shape[2:], 2, 1, 1), reference.col2im(columns, rows, cols))
    close(F.relu(x), reference.relu_forward(x))
    close(F.relu_backward(x, F.relu(x)), reference.relu_backward(x, F.relu(x)))
    for n, features, out in ((7, 130, 6), (3, 4, 2)):
        x, w, b = (rng.standard_normal(s) for s in ((n, features), (out, features), (out,)))
        y = F.linear(x, w, b)
        close(y, reference.linear_forward(x, w, b))
        close(F.linear_backward(y, x, w), reference.linear_backward(y, x, w))
    target = np.array([0, 1, 1])
    close(F.cross_entropy(y, target, 0.1), reference.cross_entropy(y, target, 0.1))
    ours, theirs = [[abs(a).copy() for a in (x, x, x, x)] for _ in range(2)]
    F.adam_step(*ours, 2, 0.1, 0.9, 0.99, 1e-8, 0.1)
    reference.adam_step(*theirs, 2, 0.1, 0.9, 0.99, 1e-8, 0.1)
    for dampening, nesterov in ((0.1, False), (0.0, True)):
        F.sgd_step(*ours[:3], False, 0.1, 0.9, dampening, 0.1, nesterov)
        reference.sgd_step(*theirs[:3], False, 0.1, 0.9, dampening, 0.1, nesterov)
    close(tuple(ours), tuple(theirs))


if __name__ == "__main__":
    assert numba.config.DISABLE_JIT
    generator = np.random.default_rng(0)
    convolutions(generator)
    products(generator)
    with np.errstate(all="ignore"):  # of what is computed in vain
        joint(generator)
        tiles(generator)
        loads(generator)
        for choose in (calls.multiply, calls.widen, calls.batch):
            choose(True)
            loads(generator)
            choose(False)
        calls.tile(True)
        loads(generator)
        calls.transform_near(4)
        loads(generator)
        calls.tile(False)
        registers(generator)
    depthwise(generator)
    the_rest(generator)
    print("done")
