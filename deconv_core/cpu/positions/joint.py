"""Write phases as lanes of the same tile, for passes with few result channels.

A tile of one lane loads a vector for each product that it makes: on the processors tried it takes
almost as long as a tile of four. But the write phases of a strided adjoint read much the same
positions. So those of a row, or all, can be lanes. Where one of them has not a tap that another
has, its weight is zero.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ...sweep import Sweep
from ..config import LEAST_LANES, MACHINE


def joint_taps(rows: Sweep, columns: Sweep, joint: int) -> int:
    """Return the taps of a pass, counting one that several of `joint` phases have once."""
    across = {offset for _, _, offset in columns.taps}
    along = {offset for _, _, offset in rows.taps}
    if joint == 1:
        return len(rows.taps) * len(columns.taps)
    return len(rows.taps if joint == columns.write_stride else along) * len(across)


def joint_cost(rows: Sweep, columns: Sweep, joint: int, result: int) -> float:
    """Return the products that tiles make of a position in a channel, or might have made."""
    return max(joint * result, LEAST_LANES) * joint_taps(rows, columns, joint)


def choose_joint(rows: Sweep, columns: Sweep, result: int) -> int:
    """Return how many write phases make the lanes of a tile: one, a row of them, or all."""
    choices = 1, columns.write_stride, columns.write_stride * rows.write_stride
    fitting = [n for n in choices if n == 1 or n * result in dict(MACHINE.spread)]
    return min(fitting, key=lambda joint: joint_cost(rows, columns, joint, result))


def join(
    offsets: np.ndarray, kernel: np.ndarray, starts: np.ndarray, joint: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return plan.py's taps, tap_kernel and phase_at, of single phases, for `joint` of them each.

    A tap has a position in the kernel for each of the phases, or -1.
    """
    unions = [np.unique(offsets[first:last]) for first, last in pairwise(starts[::joint])]
    ends = np.cumsum([0, *map(len, unions)])
    found = np.full((ends[-1], joint), -1)
    for phase, (first, last) in enumerate(pairwise(starts)):
        group, lane = divmod(phase, joint)
        places = ends[group] + np.searchsorted(unions[group], offsets[first:last])
        found[places, lane] = kernel[first:last]
    return np.concatenate(unions), found.ravel(), ends
