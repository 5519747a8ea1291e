"""Convolutions by Winograd's tiles: the identities, the results, their error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import calls
import numpy as np
import oracle
import pytest
import torch.nn.functional as torch_F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deconv_core import functional as F
from deconv_core import geometry
from deconv_core.cpu import config
from deconv_core.cpu.conv import choose, choose_grad
from deconv_core.cpu.winograd import transforms
from deconv_core.cpu.winograd.tiling import fit_tiles
from deconv_core.sweep import forward_sweep

KERNEL = {  # G, by the number of results
    2: np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    3: np.array([[2, 0], [1, 1], [1, -1], [0, 2]]) / 2,
}


@contextlib.contextmanager
def tiles_wherever_they_can() -> Iterator[None]:
    """Run whatever passes Winograd's tiles can do by them, however small and slow."""
    calls.tile(True), calls.multiply(False)
    try:
        yield
    finally:
        calls.choose_as_usual()


def results(shape: geometry.ConvGeometry, itemsize: int = 4) -> list[int]:
    """Return the results of a tile along an axis, for each of the three passes; 0 without tiles."""
    chosen = [choose(shape, adjoint, itemsize) for adjoint in (False, True)]
    return [int(plan.numbers["tile"][0]) for _, plan in [*chosen, choose_grad(shape, itemsize)]]


def errors(
    x: np.ndarray, w: np.ndarray, dy: np.ndarray, transposed: bool = False, **options: Any
) -> list[list[float]]:
    """Return, for each pass, our error and PyTorch's, relative to the largest element."""
    kind = "conv_transpose2d" if transposed else "conv2d"
    function = getattr(torch_F, kind)
    truth = [oracle.run(function, [x, w], np.float64, **options)]
    truth += oracle.grads(function, [x, w], dy, np.float64, **options)
    theirs = [oracle.run(function, [x, w], **options)]
    theirs += oracle.grads(function, [x, w], dy, **options)
    ours = [getattr(F, kind)(x, w, **options)]
    options.pop("output_padding", None)
    ours += [
        getattr(F, f"{kind}_input_grad")(dy, w, x.shape, **options),
        getattr(F, f"{kind}_weight_grad")(dy, x, w.shape, **options),
    ]
    return [
        [float(np.abs(one - exact).max() / np.abs(exact).max()) for one in (our, their)]
        for exact, our, their in zip(truth, ours, theirs, strict=True)
    ]


@pytest.mark.parametrize("results", [2, 3])
def test_the_transforms_are_winograds_identity(results: int) -> None:
    rng = np.random.default_rng(0)
    taps, transform, result = 5 - results, KERNEL[results], np.array(transforms.RESULT[results])
    source, kernel, grad = (rng.standard_normal((n, n)) for n in (4, taps, results))
    windows = np.lib.stride_tricks.sliding_window_view(source, (taps, taps))
    tile = np.array(transforms.SOURCE) @ source @ np.array(transforms.SOURCE).T
    products = tile * (transform @ kernel @ transform.T)
    sums = np.einsum("ijkl,kl->ij", windows, kernel)
    np.testing.assert_allclose(result @ products @ result.T, sums, atol=1e-13)
    products = tile * (result.T @ grad @ result)
    weight_grad = np.einsum("ij,ijkl->kl", grad, windows)
    np.testing.assert_allclose(transform.T @ products @ transform, weight_grad, atol=1e-13)


def shapes_of(
    batch: int,
    channels: tuple[int, int],
    groups: int,
    size: tuple[int, int],
    kernel: list[int],
    transposed: bool,
) -> tuple[Any, Any]:
    """Return the shapes of input and weight, for channels of a group, the source's first."""
    first, second = (channels[0] * groups, channels[1])
    if not transposed:
        first, second = channels[1] * groups, channels[0]
    return (batch, groups * channels[0], *size), (first, second, *kernel)


def check(
    shapes: tuple[Any, Any], transposed: bool, dtype: type, seed: int, **options: Any
) -> None:
    """Compare the three passes by tiles with float64, if they can run by tiles."""
    describe = geometry.conv_transpose if transposed else geometry.conv
    try:
        shape = describe(*shapes, **options)
    except ValueError:
        assume(False)
    assume(fit_tiles(forward_sweep(shape.rows), forward_sweep(shape.cols)) is not None)
    rng = np.random.default_rng(seed)
    dy_shape = shape.input_shape if transposed else shape.output_shape
    x, w, dy = (rng.standard_normal(size).astype(dtype) for size in (*shapes, dy_shape))
    limit = 5e-6 if dtype == np.float32 else 1e-14
    with tiles_wherever_they_can():
        if seed % 2:
            calls.transform_near(1 + seed % 23)
        for ours, _ in errors(x, w, dy, transposed, **options):
            assert ours < limit


@settings(max_examples=60, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 19]),
    groups=st.sampled_from([1, 1, 2]),
    channels=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    size=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    reach=st.integers(1, 2),
    more=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 4), st.sampled_from([1, 1, 2, 2, 3, 4, 8])),
    extra=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    transposed=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_geometry(
    batch: int,
    groups: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    reach: int,
    more: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    extra: tuple[int, int],
    transposed: bool,
    dtype: type,
    seed: int,
) -> None:
    kernel = [
        reach * s + 1 + extra * (s - 1) if d == 1 else reach + 1
        for s, d, extra in zip(stride, dilation, more, strict=True)
    ]
    options = dict(stride=stride, padding=padding, groups=groups, dilation=dilation)
    if transposed:
        options["output_padding"] = tuple(np.minimum(extra, np.array(stride) - 1).tolist())
    shapes = shapes_of(batch, channels, groups, size, kernel, transposed)
    check(shapes, transposed, dtype, seed, **options)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 19]),
    groups=st.sampled_from([1, 1, 2]),
    channels=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    size=st.tuples(st.sampled_from([1, 1, 2, 5]), st.integers(3, 200)),
    kernel=st.integers(2, 24),
    stride=st.sampled_from([1, 2, 3, 4, 8]),
    padding=st.integers(0, 9),
    dilation=st.sampled_from([1, 1, 2, 4]),
    transposed=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_geometry_along_rows_alone(
    batch: int,
    groups: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    transposed: bool,
    dtype: type,
    seed: int,
) -> None:
    shapes = shapes_of(batch, channels, groups, size, [1, kernel], transposed)
    options = dict(stride=(1, stride), padding=(0, padding), dilation=dilation, groups=groups)
    check(shapes, transposed, dtype, seed, **options)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 4, 2), (5, 4, 2), (5, 8, 4)])
def test_phases_with_gaps_are_no_tiles(kernel: int, stride: int, dilation: int) -> None:
    shape = (2, 32, 1, 500), (32, 32, 1, kernel)
    options = dict(stride=(1, stride), padding=(0, 2), dilation=(1, dilation))
    described = geometry.conv(*shape, **options)
    assert fit_tiles(forward_sweep(described.rows), forward_sweep(described.cols)) is None
    rng = np.random.default_rng(1)
    x, w, dy = (rng.standard_normal(size) for size in (*shape, described.output_shape))
    with tiles_wherever_they_can():
        for ours, _ in errors(x, w, dy, **options):
            assert ours < 1e-14


@pytest.mark.parametrize("channels", [(32, 32), (64, 128), (256, 256)])
def test_error_is_at_most_twice_pytorchs(channels: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, channels[0], 32, 32), np.float32)
    w = rng.standard_normal((channels[1], channels[0], 3, 3), np.float32)
    dy = rng.standard_normal((2, channels[1], 32, 32), np.float32)
    assert results(geometry.conv(x.shape, w.shape, 1, 1)) == [2, 2, 2]
    for ours, theirs in errors(x, w, dy, padding=1):
        assert ours <= 2 * theirs


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options", "tile"),
    [
        ((1, 128, 44, 44), (128, 96, 3, 3), {"padding": 2, "dilation": 2}, 2),
        ((4, 128, 1, 500), (128, 64, 1, 4), {"stride": (1, 2), "padding": (0, 1)}, 3),
        ((4, 128, 1, 500), (128, 96, 1, 3), {"padding": (0, 1)}, 2),
    ],
)
def test_error_of_folds_and_of_rows_is_at_most_twice_pytorchs(
    x_shape: Any, w_shape: Any, options: dict[str, Any], tile: int
) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal(x_shape, np.float32), rng.standard_normal(w_shape, np.float32)
    shape = geometry.conv_transpose(x.shape, w.shape, **options)
    dy = rng.standard_normal(shape.input_shape, np.float32)
    assert results(shape) == [tile, tile, tile]
    for ours, theirs in errors(x, w, dy, True, **options):
        assert ours <= 2 * theirs


@pytest.mark.skipif(config.FAMILY != "avx512", reason="tiles of other machines pay elsewhere")
@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 2, "dilation": 2}])
def test_error_with_weights_transformed_as_they_are_used(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 512, 14, 14), np.float32)
    w = rng.standard_normal((500, 512, 3, 3), np.float32)
    shape = geometry.conv(x.shape, w.shape, **options)
    dy = rng.standard_normal(shape.output_shape, np.float32)
    for adjoint in (False, True):
        numbers = choose(shape, adjoint, 4)[1].numbers
        assert numbers["near"] and numbers["chunk"] < numbers["source_channels"]
    assert choose_grad(shape, 4)[1].numbers["near"]
    for ours, theirs in errors(x, w, dy, **options):
        assert ours <= 2 * theirs


@pytest.mark.parametrize(("kernel", "padding", "tile"), [(4, 1, 3), (5, 2, 2)])
def test_error_of_phases_is_at_most_twice_pytorchs(kernel: int, padding: int, tile: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 128, 44, 44), np.float32)
    w = rng.standard_normal((128, 64, kernel, kernel), np.float32)
    shape = geometry.conv_transpose(x.shape, w.shape, 2, padding)
    dy = rng.standard_normal(shape.input_shape, np.float32)
    assert results(shape) == [tile, tile, tile]
    for ours, theirs in errors(x, w, dy, True, stride=2, padding=padding):
        assert ours <= 2 * theirs


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((64, 32, 16, 16), (32, 32, 3, 3), {"stride": 2}),  # fills its tiles badly
        ((64, 32, 16, 16), (32, 32, 3, 3), {"stride": 3}),
        ((64, 32, 16, 16), (32, 32, 3, 3), {"dilation": 5}),  # each of its folds, too
        ((64, 32, 16, 16), (32, 32, 5, 5), {}),
        ((64, 3, 16, 16), (32, 3, 3, 3), {}),  # too few channels to pay for the transforms
        ((2000, 32, 4, 3), (32, 32, 3, 3), {}),  # two pixels would be a whole tile
        ((1, 128, 7, 7), (128, 128, 3, 3), {"padding": 1}),  # too few tiles
    ],
)
def test_all_others_are_direct(x_shape: Any, w_shape: Any, options: dict[str, Any]) -> None:
    shape = geometry.conv(x_shape, w_shape, **options)
    assert results(shape) == [0, 0, 0]
