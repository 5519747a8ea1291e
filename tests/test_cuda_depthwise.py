"""Depthwise convolutions on CUDA, in the simulator, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from on_cuda import simulated
from test_cuda_conv import Case, check, passes

from deconv_core import geometry

conv = pytest.importorskip("deconv_core.cuda.conv", exc_type=ImportError)
from deconv_core.cuda import config, plan  # noqa: E402
from deconv_core.cuda.memory import to_device  # noqa: E402

pytestmark = [simulated, pytest.mark.usefixtures("junk")]


@pytest.fixture(autouse=True)
def no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no depthwise pass take the way of the others."""
    monkeypatch.setattr(conv, "choose", None)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a small depthwise convolution, or one that a transposed one is the adjoint of."""
    groups, batch = draw(st.integers(2, 4)), draw(st.sampled_from([0, 1, 1, 2]))
    channels, results = draw(st.sampled_from([(1, 1), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]))
    kernel, stride = [draw(st.tuples(*[st.integers(1, 4)] * 2)) for _ in range(2)]
    dilation = draw(st.tuples(*[st.integers(1, 2)] * 2))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 2))
    size = draw(st.tuples(*[st.integers(1, 9)] * 2))
    extra = tuple(draw(st.integers(0, max(stride[i], dilation[i]) - 1)) for i in (0, 1))
    reach = [dilation[i] * (kernel[i] - 1) - 2 * padding[i] for i in (0, 1)]
    options = (dilation, groups)
    if draw(st.booleans()):
        assume(all((size[i] - 1) * stride[i] + reach[i] + extra[i] >= 0 for i in (0, 1)))
        shapes = (batch, groups * channels, *size), (groups * channels, results, *kernel)
        drawn = geometry.conv_transpose(*shapes, stride, padding, extra, *options[::-1])
    else:
        assume(all(size[i] > reach[i] for i in (0, 1)))
        shapes = (batch, groups * channels, *size), (groups * results, channels, *kernel)
        drawn = geometry.conv(*shapes, stride, padding, *options)
    return Case(drawn, draw(st.integers(0, 1000)))


@settings(max_examples=40)
@given(cases())
def test_any_geometry(case: Case) -> None:
    assert config.is_depthwise(case.geometry)
    check(passes(case, None), "float32")


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 1)])
def test_a_long_sum_in_chunks(kernel: tuple[int, int]) -> None:
    """More positions than the threads of a block, and taps than the terms of one."""
    padding = tuple(size // 2 for size in kernel)
    case = Case(geometry.conv((2, 2, 9, 8), (2, 1, *kernel), padding=padding, groups=2), 3)
    assert plan.dot_plan(case.geometry, config.DEPTHWISE_DOT)[0].chunks > 1
    first, second = (passes(case, None) for _ in range(2))
    check(first, "float32")
    for (one, _, _), (other, _, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_precision_is_checked_here_too() -> None:
    shape = geometry.conv((1, 2, 3, 3), (2, 1, 3, 3), groups=2)
    x, w, *_ = map(to_device, Case(shape, 0).arrays())
    with pytest.raises(ValueError, match="precision must be one of"):
        conv.conv_forward(x, w, None, shape, precision="half")
