"""The CUDA convolutions and matrix products in the simulator, against the float64 reference."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simulator  # noqa: F401
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from on_cuda import simulated

from deconv_core import geometry, reference
from deconv_core.geometry import ConvGeometry

conv = pytest.importorskip("deconv_core.cuda.conv", exc_type=ImportError)
from deconv_core.cuda import config, linear, plan  # noqa: E402
from deconv_core.cuda.memory import to_device  # noqa: E402

pytestmark = [simulated, pytest.mark.usefixtures("junk")]

TOLERANCE = {"float32": 2.0**-20, "tf32": 2.0**-10, "3xtf32": 2.0**-20}  # of the terms' magnitude


@dataclass(frozen=True)
class Case:
    """A convolution, and the seed of its numbers."""

    geometry: ConvGeometry
    seed: int

    def arrays(self) -> list[np.ndarray]:
        """Return x, weight, a bias for each side, and dy."""
        shape, rng = self.geometry, np.random.default_rng(self.seed)
        shapes = [
            shape.input_shape, shape.weight_shape, shape.output_shape[1:2], shape.input_shape[1:2],
            shape.output_shape,
        ]  # fmt: skip
        return [rng.standard_normal(size).astype(np.float32) for size in shapes]


@st.composite
def cases(draw: st.DrawFn, most: int = 9) -> Case:
    """Draw a small convolution, or one that a transposed one is the adjoint of."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = [groups * draw(st.integers(1, most // groups)) for _ in range(2)]
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    batch = draw(st.sampled_from([0, 1, 1, 2]))
    shape = (batch, channels[0], *size)
    transposed = draw(st.booleans())
    extra = tuple(draw(st.integers(0, max(stride[i], dilation[i]) - 1)) for i in (0, 1))
    reach = [dilation[i] * (kernel[i] - 1) - 2 * padding[i] for i in (0, 1)]
    if transposed:
        assume(all((size[i] - 1) * stride[i] + reach[i] + extra[i] >= 0 for i in (0, 1)))
        weight = (channels[0], channels[1] // groups, *kernel)
        drawn = geometry.conv_transpose(shape, weight, stride, padding, extra, groups, dilation)
    else:
        assume(all(size[i] > reach[i] for i in (0, 1)))
        weight = (channels[1], channels[0] // groups, *kernel)
        drawn = geometry.conv(shape, weight, stride, padding, dilation, groups)
    return Case(drawn, draw(st.integers(0, 1000)))


def passes(
    case: Case, precision: str | None, which: tuple[int, ...] = (0, 1, 2)
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (ours, truth, magnitude) of the forward pass, the input and the weight gradient."""
    x, w, bias, bias_x, dy = case.arrays()
    shape = case.geometry
    on = [to_device(a) for a in (x, w, bias, bias_x, dy)]
    ours = [
        lambda: conv.conv_forward(on[0], on[1], on[2], shape, precision=precision),
        lambda: conv.conv_input_grad(on[4], on[1], on[3], shape, precision=precision),
        lambda: conv.conv_weight_grad(on[0], on[4], shape, precision=precision),
    ]

    def truths(x: Any, w: Any, bias: Any, bias_x: Any, dy: Any) -> list[np.ndarray]:
        return [
            reference.conv_forward(x, w, bias, shape),
            reference.conv_input_grad(dy, w, bias_x, shape),
            reference.conv_weight_grad(x, dy, shape),
        ]

    doubles = [a.astype(float) for a in (x, w, bias, bias_x, dy)]
    true, magnitude = truths(*doubles), truths(*map(abs, doubles))
    return [(ours[i]().copy_to_host(), true[i], magnitude[i]) for i in which]


def check(results: list[tuple[np.ndarray, np.ndarray, np.ndarray]], precision: str) -> None:
    """Judge every result."""
    for ours, truth, magnitude in results:
        assert ours.shape == truth.shape and ours.dtype == np.float32
        error = abs(ours - truth)
        assert (error <= TOLERANCE[precision] * magnitude + 1e-30).all(), error.max()


@settings(max_examples=30)
@given(cases())
def test_any_geometry(case: Case) -> None:
    check(passes(case, None), "float32")


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
@settings(max_examples=6)
@given(cases(most=6))
def test_any_geometry_on_tensor_cores(precision: str, case: Case) -> None:
    assume(case.geometry.batch == 1 and not config.is_depthwise(case.geometry))
    check(passes(case, precision), precision)


def tiles_of_a_gpu() -> list[Any]:
    """Return every (kind, precision, tile) of the tables for a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "SIMULATED", False)
        found = {
            (kind, precision if tile.tensor else "float32", tile)
            for kind in ("spread", "dot")
            for precision in ("float32", "3xtf32")
            for *_, tile in config.table(kind, precision)
        }
    return [
        pytest.param(*one, id=f"{one[0]}-{one[2].rows}x{one[2].columns}x{one[2].depth}-{one[1]}")
        for one in sorted(found, key=repr)
    ]


@pytest.mark.parametrize(("kind", "precision", "tile"), tiles_of_a_gpu())
def test_the_tiles_of_a_gpu(
    kind: str, precision: str, tile: config.Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them once, not quite filled; tiles of many threads are slow to simulate."""
    tiles: list[config.Tile] = []
    monkeypatch.setattr(conv, "choose", lambda *_: tiles.append(tile) or tile)
    rows = tile.rows // 2 + 1
    shape = geometry.conv((1, 9, 5, 5), (rows, 9, 3, 2), stride=(1, 2), padding=1)
    which = 0 if kind == "spread" else 2
    check(passes(Case(shape, rows), precision, which=(which,)), precision)
    assert tiles == [tile]


@st.composite
def pointwise(draw: st.DrawFn) -> Case:
    """Draw a 1x1 convolution of pictures whose size four divides."""
    groups, batch = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    size = draw(st.sampled_from([(1, 4), (2, 2), (2, 6), (4, 5), (3, 8)]))
    channels, results = draw(st.integers(3, 9)), draw(st.integers(3, 9))
    shapes = (batch, groups * channels, *size), (groups * results, channels, 1, 1)
    return Case(geometry.conv(*shapes, groups=groups), draw(st.integers(0, 1000)))


@pytest.mark.parametrize(("precision", "examples"), [("float32", 15), ("3xtf32", 3)])
def test_pictures_are_copied_by_16_bytes_where_they_can_be(precision: str, examples: int) -> None:
    """The same bits come out, whatever the width of a copy."""

    @settings(max_examples=examples)
    @given(pointwise())
    def run(case: Case) -> None:
        tiles: list[config.Tile] = []
        with pytest.MonkeyPatch.context() as patch:
            tiled = conv.tiled
            patch.setattr(conv, "tiled", lambda *a: tiles.append(a[2]) or tiled(*a))
            wide = passes(case, precision, which=(0, 1))
            assert all(tile.wide for tile in tiles) and len(tiles) == 2
            patch.setattr(conv, "aligned", lambda array: False)
            narrow = passes(case, precision, which=(0, 1))
            assert not any(tile.wide for tile in tiles[2:])
        check(wide, precision)
        for (one, _, _), (other, _, _) in zip(wide, narrow, strict=True):
            np.testing.assert_array_equal(one, other)

    run()


@pytest.mark.parametrize(
    ("shape", "weight", "options"),
    [
        ((1, 4, 3, 5), (4, 4, 1, 1), {}),
        ((1, 4, 4, 4), (4, 4, 1, 1), {"padding": 1}),
        ((1, 4, 4, 4), (4, 4, 1, 1), {"stride": 2}),
        ((1, 4, 4, 4), (4, 4, 1, 3), {"padding": (0, 1)}),
    ],
)
def test_what_does_not_lie_in_fours_is_not_copied_so(
    shape: Any, weight: Any, options: dict[str, Any]
) -> None:
    for adjoint in (False, True):
        assert not plan.in_quads(geometry.conv(shape, weight, **options), adjoint)


def test_an_array_may_begin_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "SIMULATED", False)
    for address, expected in ((512, True), (528, True), (516, False)):
        array = SimpleNamespace(device_ctypes_pointer=ctypes.c_uint64(address))
        assert conv.aligned(array) == expected


def test_tf32_is_not_float32() -> None:
    shape = geometry.conv((1, 4, 4, 4), (4, 4, 1, 1))
    ours, truth, magnitude = passes(Case(shape, 0), "tf32", which=(0,))[0]
    assert (abs(ours - truth) / magnitude).max() > 2.0**-16


def test_every_run_gives_the_same_bits() -> None:
    case = Case(geometry.conv((2, 3, 6, 6), (5, 3, 3, 3), padding=1), 1)
    first, second = (passes(case, "float32") for _ in range(2))
    for (one, _, _), (other, _, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_weight_gradient_is_cut_by_shape_alone() -> None:
    shape = geometry.conv((2, 3, 8, 8), (5, 3, 3, 3), padding=1)
    numbers, _ = plan.dot_plan(shape, config.choose("dot", "float32", 5, 27))
    assert numbers.chunks > 1
    assert (
        numbers.chunk * (numbers.chunks - 1) < numbers.positions <= numbers.chunk * numbers.chunks
    )


@pytest.mark.parametrize(
    "shape",
    [
        geometry.conv((1, 3, 4, 5), (4, 3, 3, 3), padding=1),
        geometry.conv((1, 2, 6, 5), (2, 1, 3, 3), padding=1, groups=2),  # depthwise
    ],
)
def test_relu_and_its_mask_are_part_of_the_kernels(shape: geometry.ConvGeometry) -> None:
    x, w, bias, _, dy = Case(shape, 3).arrays()
    x[0, 0, 0, 0] = np.nan
    on = [to_device(a) for a in (x, w, bias, dy)]
    y = conv.conv_forward(on[0], on[1], on[2], shape).copy_to_host()
    positive = conv.conv_forward(on[0], on[1], on[2], shape, relu=True).copy_to_host()
    np.testing.assert_array_equal(positive, np.where(y <= 0, np.float32(0), y))
    assert np.isnan(positive).any() and (y < 0).any()
    dx = conv.conv_input_grad(on[3], on[1], None, shape).copy_to_host()
    masked = conv.conv_input_grad(on[3], on[1], None, shape, mask=on[0]).copy_to_host()
    np.testing.assert_array_equal(masked, np.where(x <= 0, np.float32(0), dx))


def test_outside_of_the_source_nothing_is_read() -> None:
    """The neighbours of a picture's edge, in memory, are other rows: NaN in them must not show."""
    shape = geometry.conv((3, 2, 3, 3), (2, 2, 3, 3), padding=1)
    x, w, *_ = Case(shape, 5).arrays()
    x[1] = np.nan
    y = conv.conv_forward(to_device(x), to_device(w), None, shape).copy_to_host()
    assert np.isfinite(y[[0, 2]]).all() and np.isnan(y[1]).all()


@pytest.mark.parametrize(
    "sizes", [(0, 3, 5), (2, 3, 0), (2, 0, 4), (1, 1, 1), (3, 10, 72), (9, 2, 33)]
)
@pytest.mark.parametrize("precision", ["float32", "tf32", "3xtf32"])
def test_linear(sizes: tuple[int, int, int], precision: str) -> None:
    (batch, out, features), rng = sizes, np.random.default_rng(0)
    shapes = (batch, features), (out, features), (out,), (batch, out)
    x, w, bias, dy = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    on = [to_device(a) for a in (x, w, bias, dy)]
    ours = [
        linear.linear_forward(on[0], on[1], on[2], precision=precision),
        linear.linear_forward(on[0], on[1], None, precision=precision),
        linear.linear_input_grad(on[3], on[1], precision=precision),
        linear.linear_weight_grad(on[3], on[0], precision=precision),
        linear.linear_input_grad(on[3], on[1], mask=on[0], precision=precision),
        linear.linear_weight_grad(on[3], on[0], add_to=to_device(w), precision=precision),
    ]
    double, positive = [a.astype(float) for a in (x, w, bias, dy)], x > 0
    size = [abs(a) for a in double]
    pairs = [
        [x @ w.T + bias, x @ w.T, dy @ w, dy.T @ x, np.where(positive, dy @ w, 0), dy.T @ x + w]
        for x, w, bias, dy in (double, size)
    ]
    check(list(zip([a.copy_to_host() for a in ours], *pairs, strict=True)), precision)


def test_linear_s_gradients_are_copied_by_16_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, tiled = [], conv.tiled
    monkeypatch.setattr(conv, "tiled", lambda *a: tiles.append(a[2]) or tiled(*a))
    dy, x, w = (to_device(np.ones(shape, np.float32)) for shape in ((4, 3), (4, 8), (3, 8)))
    linear.linear_backward(dy, x, w)
    assert [tile.wide for tile in tiles] == [True, True]


def test_what_cannot_be_done_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"input has 2147483648 elements"):
        plan.check_size(input=1 << 31)
    shape = geometry.conv((1, 1, 1, 1), (1, 1, 1, 1))
    one = to_device(np.ones((1, 1, 1, 1), np.float32))
    with pytest.raises(ValueError, match="precision must be one of float32, tf32, 3xtf32, got 'f'"):
        conv.conv_forward(one, one, None, shape, precision="f")
