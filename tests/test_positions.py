"""Passes by positions themselves, whatever else would be chosen for their shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deconv_core import geometry, reference
from deconv_core.cpu.config import CROSSED_CHANNELS, CROSSED_MACS, MACHINE
from deconv_core.cpu.positions.plan import Plan, spread_plan
from deconv_core.cpu.positions.spread import run_spread
from deconv_core.geometry import ConvGeometry

pytestmark = pytest.mark.usefixtures("junk")


def check(shape: ConvGeometry, adjoint: bool, dtype: Any) -> Plan:
    """Compare a pass with the float64 reference, and return its plan."""
    rng = np.random.default_rng(0)
    source, result = shape.input_shape, shape.output_shape
    if adjoint:
        source, result = result, source
    x, w = (rng.standard_normal(size).astype(dtype) for size in (source, shape.weight_shape))
    bias = rng.standard_normal(result[1]).astype(dtype)
    run = reference.conv_input_grad if adjoint else reference.conv_forward
    plan = spread_plan(shape, adjoint, x.itemsize)
    doubles = [array.astype(float) for array in (x, w, bias)]
    error = abs(run_spread(x, w, bias, plan) - run(*doubles, shape))
    allowed = 8 * np.finfo(dtype).eps * run(*map(abs, doubles), shape)
    assert (error <= allowed).all(), (error / allowed).max()
    return plan


@pytest.mark.parametrize("results", [1, 2, 3, 4, 5, 6, 7, 12, 15])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((2, 2), (2, 2), 0), ((4, 4), (2, 2), 1), ((1, 16), (1, 8), (0, 4)), ((6, 3), (3, 3), 2),
        ((16, 16), (8, 8), 0), ((2, 3), (2, 3), (0, 1)),
    ],
)  # fmt: skip
def test_phases_with_the_same_taps(
    kernel: tuple[int, int], stride: tuple[int, int], padding: Any, results: int, dtype: type
) -> None:
    """Their weights are packed phase by phase, not as they lie."""
    shape = geometry.conv((2, 9, 35, 35), (results, 9, *kernel), stride, padding)
    plan = check(shape, False, dtype)
    each = np.prod(kernel) // np.prod(stride)
    alike = np.prod(stride) if each in dict(MACHINE.turns) else 1
    assert plan.numbers["alike"] == alike
    if alike > 1:
        begins = plan.taps.reshape(alike, -1)[:, 0]
        assert (np.diff(begins) == plan.numbers["plane"] // alike).all()


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [((12, 12), (4, 4), 2, 0, 1), ((12, 1), (4, 2), (2, 1), (0, 2), (1, 4))],
)
def test_taps_of_a_phase_keep_the_kernels_order(
    size: tuple[int, int], kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any
) -> None:
    """Even where rows are so short that a tap reads behind the next row's first one."""
    shape = geometry.conv((1, 5, *size), (3, 5, *kernel), stride, padding, dilation)
    plan = check(shape, False, np.float32)
    alike = int(plan.numbers["alike"][0])
    assert alike == 1 or (np.diff(plan.tap_kernel.reshape(alike, -1)) > 0).all()


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("channels", [1, 2, 3, 17])
@pytest.mark.parametrize("results", [1, 3, 4, 6, 12])
def test_channels_of_few_taps(taps: int, channels: int, results: int, dtype: type) -> None:
    """Several of them may be a turn of the loop, and a rest of them another."""
    shape = geometry.conv((1, channels, 3, 41), (results, channels, 1, taps), padding=(0, 2))
    check(shape, False, dtype)
    check(shape, True, dtype)


def test_where_vectors_cross_lines_many_channels_are_packed() -> None:
    few = geometry.conv((1, 65, 66, 67), (CROSSED_CHANNELS - 1, 65, 1, 1))
    many = geometry.conv((1, 65, 66, 67), (CROSSED_CHANNELS, 65, 1, 1))
    assert many.macs > CROSSED_MACS
    assert check(few, False, np.float32).numbers["plain"] == 1
    assert check(many, False, np.float32).numbers["plain"] == (not MACHINE.crossing)
    assert check(many, True, np.float32).numbers["plain"] == (not MACHINE.crossing)
