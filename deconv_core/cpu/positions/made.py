"""How many products a plan's tiles make: what other ways to run the same pass are held against."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np

from ...geometry import ceil_div
from ..config import MACHINE, SUMS_COST
from .blocking import covered, covered_streams
from .plan import Plan


def unit_products(numbers: np.ndarray, units: np.ndarray) -> list[int]:
    """Return the products that `dot`'s tiles make of a position, for each unit of a plan."""
    streams = int(numbers["source_channels"][0] * numbers["kernel"][0])
    tiles = [(int(unit[2]), int(unit[4])) for unit in units]
    return [lanes * covered_streams(streams, lanes, across) for lanes, across in tiles]


def made_by_dot(plan: Plan) -> float:
    """Return the products that a weight gradient's tiles make; their last sums cost some, too."""
    each, width = (
        sum(unit_products(plan.numbers, plan.units)),
        MACHINE.vector_bytes // plan.itemsize,
    )
    lengths = Counter(chain.from_iterable(plan.runs(1)))
    vectors = sum(times * ceil_div(n, width) for n, times in lengths.items())
    vectors += SUMS_COST * sum(map(len, plan.runs()))
    return float(each * width * vectors)


def made_by_spread(plan: Plan) -> int:
    """Return the products that the register tiles of another plan make."""
    each = plan.numbers[0]["source_channels"] * len(plan.taps)
    width = MACHINE.vector_bytes // plan.itemsize
    tiles = Counter((int(unit[2]), int(unit[4])) for unit in plan.units)
    return int(each) * sum(
        times * count * lanes * covered(length, lanes, vectors, width)
        for length, times in Counter(chain.from_iterable(plan.runs())).items()
        for (lanes, vectors), count in tiles.items()
    )
