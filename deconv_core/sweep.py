"""Dense passes over phases: what a convolution, and its adjoint, do along one axis."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .geometry import Axis, ceil_div


@dataclass(frozen=True)
class Sweep:
    """One axis of a dense pass: every tap read, and every result written, at unit stride.

    Position ``q`` of read phase ``a``, which is phase ``read_phases[a]`` of the source, is source
    index ``read_stride * q + read_phases[a] + read_base`` (zero outside the source). Position ``q``
    of write phase ``b`` is result index ``write_stride * q + b + write_base`` (dropped outside the
    result). The pass computes, for ``q`` in ``range(count)``, ``result[b, q] = sum(source[a, q +
    offset] * weight[k])`` over the taps ``k`` of phase ``b``.

    Attributes
    ----------
    read_phases : the phases that some tap reads
    taps : tuple of (b, a, offset), one for each kernel tap; ``0 <= offset <= reach``
    folds : passes like this one side by side: fold f is at source index ``folds * read_stride * q +
        read_phases[a] + read_base + f``, and at result index ``folds * write_stride * q + b +
        write_base + f``
    """

    source: int
    result: int
    count: int
    reach: int
    read_stride: int
    read_base: int
    read_phases: tuple[int, ...]
    write_stride: int
    write_base: int
    taps: tuple[tuple[int, int, int], ...]
    folds: int = 1

    @property
    def positions(self) -> int:
        """Positions of all folds."""
        return self.count * self.folds

    @cached_property
    def inside(self) -> int:
        """The most taps that read the source, not zeros, for a single result."""
        phases: dict[int, list[int]] = {}
        for b, a, offset in self.taps:
            at = self.read_stride * offset + self.read_phases[a] + self.read_base
            phases.setdefault(b, []).append(at)
        found = 0
        for b, places in phases.items():
            first = max(0, ceil_div(-b - self.write_base, self.write_stride))
            last = min(self.count, ceil_div(self.result - b - self.write_base, self.write_stride))
            starts = -self.read_stride * np.arange(first, max(first, last))
            ends = np.searchsorted(np.sort(places), [starts, starts + self.source])
            found = max(found, int((ends[1] - ends[0]).max(initial=0)))
        return found

    @property
    def overlap(self) -> int:
        """Zeros at the end of a packed row that the zeros at the start of the next can serve as."""
        length = self.count + self.reach
        shared = self.reach
        for phase in self.read_phases:
            start = self.read_base + phase
            head = ceil_div(-start, self.read_stride)
            tail = length - ceil_div(self.source - start, self.read_stride)
            shared = min(shared, max(0, head), max(0, tail))
        return shared


def forward_sweep(axis: Axis) -> Sweep:
    """Return the pass of a convolution along `axis`: it reads phases and writes densely."""
    read = tuple(sorted(set(axis.phases)))
    taps = tuple(
        (0, read.index(phase), shift) for phase, shift in zip(axis.phases, axis.shifts, strict=True)
    )
    return Sweep(
        source=axis.size,
        result=axis.out,
        count=axis.out,
        reach=axis.reach,
        read_stride=axis.step,
        read_base=-axis.pad_lo,
        read_phases=read,
        write_stride=1,
        write_base=0,
        taps=taps,
    )


def adjoint_sweep(axis: Axis) -> Sweep:
    """Return the pass of the adjoint along `axis`: it reads densely and writes phases."""
    first = axis.pad_lo // axis.step
    count = (axis.size - 1 + axis.pad_lo) // axis.step - first + 1
    taps = tuple(
        (b, 0, axis.reach - shift) for b, shift in zip(axis.phases, axis.shifts, strict=True)
    )
    return Sweep(
        source=axis.out,
        result=axis.size,
        count=count,
        reach=axis.reach,
        read_stride=1,
        read_base=first - axis.reach,
        read_phases=(0,),
        write_stride=axis.step,
        write_base=first * axis.step - axis.pad_lo,
        taps=taps,
    )


def trimmed(sweep: Sweep) -> Sweep:
    """Return the same pass over the fewest positions: each write phase begins with a result.

    At an adjoint's first position, padding may drop the results of some phases. Here these phases
    count from the next position instead, so that a position may reach one further.
    """
    moved = [divmod(b + sweep.write_base, sweep.write_stride) for b in range(sweep.write_stride)]
    taps = [(moved[b][1], a, offset - moved[b][0]) for b, a, offset in sweep.taps]
    first = min(offset for _, _, offset in taps)
    return replace(
        sweep,
        count=ceil_div(sweep.result, sweep.write_stride),
        reach=max(offset for _, _, offset in taps) - first,
        read_base=sweep.read_base + sweep.read_stride * first,
        write_base=0,
        taps=tuple((b, a, offset - first) for b, a, offset in taps),
    )


def plain_sweeps(rows: Sweep, columns: Sweep) -> tuple[Sweep, Sweep] | None:
    """Return a pass of a single tap over whole pictures as one over a single long row, or None."""
    for axis in (rows, columns):
        sizes = (len(axis.taps), axis.source, axis.result, axis.read_base, axis.write_base)
        if sizes != (1, axis.count, axis.count, 0, 0) or axis.read_stride != axis.write_stride:
            return None
    pixels = rows.count * columns.count
    return (
        replace(rows, source=1, result=1, count=1),
        replace(columns, source=pixels, result=pixels, count=pixels),
    )


def folded(sweep: Sweep) -> Sweep:
    """Return a dilated pass without strides as dense ones side by side, others as they are."""
    folds = math.gcd(*(offset for _, _, offset in sweep.taps))
    if sweep.read_stride * sweep.write_stride > 1 or folds < 2:
        return sweep
    return replace(
        sweep,
        count=ceil_div(sweep.count, folds),
        reach=sweep.reach // folds,
        taps=tuple((b, a, offset // folds) for b, a, offset in sweep.taps),
        folds=folds,
    )


def winograd_sweep(sweep: Sweep, results: int) -> Sweep:
    """Return the pass by tiles of `results` positions, for ``5 - results`` taps (cpu/winograd).

    A position is a tile: it reads four elements of each read phase, from ``results * q`` on, and
    gives `results` positions of each write phase. The phases of the tiles, read and written, are
    the four products of each phase of `sweep`: ``4 * phase + product``. Each product is a single
    tap; the first one vanishes where the first tap is missing, and the last where the last is.
    """
    offsets: dict[tuple[int, int], set[int]] = {}
    for b, a, offset in sweep.taps:
        offsets.setdefault((b, a), set()).add(offset)
    taps = [
        (4 * b + product, 4 * a + product, 0)
        for (b, a), present in sorted(offsets.items())
        for product, needed in ((0, {0}), (1, present), (2, present), (3, {4 - results}))
        if needed <= present
    ]
    return Sweep(
        source=sweep.source,
        result=sweep.result,
        count=ceil_div(sweep.count, results),
        reach=0,
        read_stride=sweep.read_stride * results,
        read_base=sweep.read_base,
        read_phases=tuple(range(4 * len(sweep.read_phases))),
        write_stride=4 * sweep.write_stride,
        write_base=sweep.write_base,
        taps=tuple(taps),
        folds=sweep.folds,
    )
