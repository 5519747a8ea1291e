"""How tasks are shared out: each has one worker, and none has much more to do than another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deconv_core.cpu.tasks import share, share_parts


@given(
    parts=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    units=st.integers(1, 9),
    workers=st.integers(1, 12),
)
def test_parts_of_different_sizes(parts: list[int], units: int, workers: int) -> None:
    ends = np.cumsum([0, *parts])
    runs = [share_parts(worker, workers, ends, units) for worker in range(workers)]
    assert [begin for begin, _ in runs] + [len(parts) * units] == [0] + [end for _, end in runs]
    loads = np.repeat(parts, units)
    most = max(loads[begin:end].sum() for begin, end in runs)
    assert most < loads.sum() / workers + max(parts) + 1


@given(parts=st.integers(1, 20), units=st.integers(1, 9), workers=st.integers(1, 30))
def test_parts_alike_are_shared_by_number(parts: int, units: int, workers: int) -> None:
    ends = np.arange(parts + 1) * 7
    for worker in range(workers):
        expected = share(worker, workers, parts * units)
        assert share_parts(worker, workers, ends, units) == expected


def test_without_work() -> None:
    assert share_parts(0, 3, np.zeros(1, np.int64), 5) == (0, 0)
