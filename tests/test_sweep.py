"""Sweeps, by brute force along one axis: the convolution's matrix and its transpose."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support import axes

from deconv_core import sweep
from deconv_core.geometry import Axis
from deconv_core.sweep import Sweep


def matrix(axis: Axis, weight: np.ndarray) -> np.ndarray:
    """Return the convolution along one axis as a dense matrix (out, size), from its definition."""
    dense = np.zeros((axis.out, axis.size), int)
    for o in range(axis.out):
        for k in range(axis.kernel):
            i = o * axis.stride + k * axis.dilation - axis.pad_lo
            if 0 <= i < axis.size:
                dense[o, i] += weight[k]
    return dense


def execute(one: Sweep, source: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Run a sweep as its docstring defines it."""
    result = np.zeros(one.result, int)
    for q, fold in itertools.product(range(one.count), range(one.folds)):
        for k, (b, a, offset) in enumerate(one.taps):
            write = one.folds * one.write_stride * q + fold + b + one.write_base
            start = one.folds * one.read_stride * (q + offset) + fold
            read = start + one.read_phases[a] + one.read_base
            if 0 <= write < one.result and 0 <= read < one.source:
                result[write] += source[read] * weight[k]
    return result


def trimmed_adjoint(axis: Axis) -> Sweep:
    """Return the adjoint's pass over the fewest positions."""
    return sweep.trimmed(sweep.adjoint_sweep(axis))


KINDS = [sweep.forward_sweep, sweep.adjoint_sweep, trimmed_adjoint]


@given(axes(), st.integers(0, 100))
def test_sweeps_compute_the_convolution_and_its_adjoint(axis: Axis, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 9, axis.kernel)
    x, y = rng.integers(-9, 9, axis.size), rng.integers(-9, 9, axis.out)
    dense = matrix(axis, weight)
    np.testing.assert_array_equal(execute(sweep.forward_sweep(axis), x, weight), dense @ x)
    np.testing.assert_array_equal(execute(sweep.adjoint_sweep(axis), y, weight), dense.T @ y)
    np.testing.assert_array_equal(execute(trimmed_adjoint(axis), y, weight), dense.T @ y)
    folded = sweep.folded(sweep.forward_sweep(axis))
    np.testing.assert_array_equal(execute(folded, x, weight), dense @ x)
    folded = sweep.folded(sweep.adjoint_sweep(axis))
    np.testing.assert_array_equal(execute(folded, y, weight), dense.T @ y)


@given(axes())
def test_a_trimmed_pass_has_the_fewest_positions(axis: Axis) -> None:
    untrimmed, passed = sweep.adjoint_sweep(axis), trimmed_adjoint(axis)
    assert passed.count == -(-passed.result // passed.write_stride) <= untrimmed.count
    assert min(offset for _, _, offset in passed.taps) == 0
    assert passed.reach <= untrimmed.reach + 1
    assert sweep.trimmed(sweep.forward_sweep(axis)) == sweep.forward_sweep(axis)


@given(axes(), st.sampled_from(KINDS))
def test_sweeps_write_every_result_once_and_stay_within_reach(
    axis: Axis, kind: Callable[[Axis], Sweep]
) -> None:
    passed = kind(axis)
    written = [
        passed.write_stride * q + b + passed.write_base
        for q in range(passed.count)
        for b in range(passed.write_stride)
    ]
    inside = [index for index in written if 0 <= index < passed.result]
    assert inside == list(range(passed.result))
    assert all(0 <= offset <= passed.reach for _, _, offset in passed.taps)


@given(axes())
def test_the_most_taps_inside_are_those_that_some_result_sums(axis: Axis) -> None:
    taps = matrix(axis, np.ones(axis.kernel, int))
    assert sweep.forward_sweep(axis).inside == taps.sum(1).max()
    assert sweep.adjoint_sweep(axis).inside == trimmed_adjoint(axis).inside == taps.sum(0).max()


@given(axes(), st.sampled_from(KINDS))
def test_overlap_is_zeros_at_both_ends_of_a_packed_row(
    axis: Axis, kind: Callable[[Axis], Sweep]
) -> None:
    passed = kind(axis)
    length, shared = passed.count + passed.reach, passed.overlap
    assert 0 <= shared <= passed.reach
    for q in [*range(shared), *range(length - shared, length)]:
        for phase in passed.read_phases:
            index = passed.read_stride * q + phase + passed.read_base
            assert not 0 <= index < passed.source
