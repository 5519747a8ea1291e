"""Geometry, by its defining inequalities and beside PyTorch."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from support import ConvCase, axes, conv_cases, transposed_cases

from deconv_core import geometry
from deconv_core.geometry import Axis


@given(axes())
def test_last_window_fits_and_the_next_would_not(axis: Axis) -> None:
    assert axis.out >= 1
    assert (axis.out - 1) * axis.stride + axis.extent <= axis.padded
    assert axis.out * axis.stride + axis.extent > axis.padded


@given(axes())
def test_extent_counts_positions_from_first_tap_to_last(axis: Axis) -> None:
    positions = range(0, axis.dilation * axis.kernel, axis.dilation)
    assert axis.extent == positions[-1] - positions[0] + 1


@given(axes())
def test_adjoint_size_round_trips_with_the_leftover_as_output_padding(axis: Axis) -> None:
    last_read = (axis.out - 1) * axis.stride + axis.extent
    leftover = axis.padded - last_read
    assert 0 <= leftover < axis.stride
    small = Axis(axis.out, axis.kernel, axis.stride, axis.pad_lo, axis.pad_hi, axis.dilation)
    assert small.adjoint_out(leftover) == axis.size


@given(axes())
def test_each_tap_reads_one_phase_at_unit_stride(axis: Axis) -> None:
    assert axis.step == (axis.stride if axis.out > 1 else 1)
    for k, (phase, shift) in enumerate(zip(axis.phases, axis.shifts, strict=True)):
        assert 0 <= phase < axis.step
        assert axis.step * shift + phase == k * axis.dilation
    assert axis.reach == max(axis.shifts)


@given(conv_cases())
def test_conv_output_shape_is_pytorchs(case: ConvCase) -> None:
    shape = geometry.conv(case.x_shape, case.w_shape, **case.options)
    x, w = (torch.empty(size, device="meta") for size in (case.x_shape, case.w_shape))
    with oracle.quiet():
        y = torch.nn.functional.conv2d(x, w, **case.options)
    assert tuple(y.shape) == shape.output_shape
    assert (shape.input_shape, shape.weight_shape) == (case.x_shape, case.w_shape)


@given(transposed_cases())
def test_transposed_output_shape_is_pytorchs(case: ConvCase) -> None:
    shape = geometry.conv_transpose(case.x_shape, case.w_shape, **case.options)
    x, w = (torch.empty(size, device="meta") for size in (case.x_shape, case.w_shape))
    y = torch.nn.functional.conv_transpose2d(x, w, **case.options)
    assert tuple(y.shape) == shape.input_shape
    assert (shape.output_shape, shape.weight_shape) == (case.x_shape, case.w_shape)


@given(conv_cases(symmetric=True))
def test_transposed_geometry_is_that_of_the_convolution_it_is_the_adjoint_of(
    case: ConvCase,
) -> None:
    forward = geometry.conv(case.x_shape, case.w_shape, **case.options)
    extra = [(a.padded - a.extent) % a.stride for a in (forward.rows, forward.cols)]
    adjoint = geometry.conv_transpose(
        forward.output_shape, case.w_shape, output_padding=extra, **case.options
    )
    assert adjoint.input_shape == forward.input_shape
    assert adjoint.output_shape == forward.output_shape
    assert adjoint.weight_shape == forward.weight_shape
    assert adjoint.macs == forward.macs


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_keeps_the_size_and_puts_the_odd_one_last(
    size: int, kernel: int, dilation: int
) -> None:
    shape = geometry.conv((1, 1, size, size), (1, 1, kernel, kernel), 1, "same", dilation)
    assert shape.output_shape == (1, 1, size, size)
    assert 0 <= shape.rows.pad_hi - shape.rows.pad_lo <= 1


def test_macs_are_counted_by_hand() -> None:
    shape = geometry.conv((8, 4, 5, 6), (6, 2, 3, 2), groups=2)
    assert shape.macs == 8 * 6 * (3 * 5) * (2 * 3 * 2)


@pytest.mark.parametrize(("value", "expected"), [(2, (2, 2)), ([3], (3, 3)), ((1, 2), (1, 2))])
def test_pair_takes_an_integer_or_a_sequence(value: object, expected: tuple[int, int]) -> None:
    assert geometry.pair(value, "stride", 1) == expected


def test_pair_takes_numpy_integers() -> None:
    assert geometry.pair(np.int64(2), "stride", 1) == (2, 2)


def test_geometry_cannot_be_changed() -> None:
    shape = geometry.conv((1, 1, 4, 4), (1, 1, 3, 3))
    with pytest.raises(AttributeError):
        shape.groups = 2  # type: ignore[misc]


def test_equal_geometries_are_one_key() -> None:
    first = geometry.conv((1, 1, 4, 4), (1, 1, 3, 3), padding=1)
    second = dataclasses.replace(first)
    assert first is not second
    assert first == second and hash(first) == hash(second)
    other = geometry.conv((1, 1, 4, 4), (1, 1, 3, 3), padding=(1, 0))
    assert len({first, second, other}) == 2


@pytest.mark.parametrize("value", [True, 1.0, (1, True), [1.0, 1]])
@pytest.mark.parametrize("option", ["stride", "padding", "dilation", "output_padding"])
def test_what_equals_an_integer_is_refused_where_the_integer_was_taken(
    option: str, value: object
) -> None:
    checks = [geometry.conv_transpose]
    if option != "output_padding":
        checks.append(geometry.conv)
    for check in checks:
        check((1, 1, 4, 4), (1, 1, 3, 3), **{"stride": 2, option: 1})
        with pytest.raises(TypeError, match=option):
            check((1, 1, 4, 4), (1, 1, 3, 3), **{"stride": 2, option: value})
