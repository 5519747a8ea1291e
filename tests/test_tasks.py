"""How tasks are shared out, and that neither bits nor results depend on how a pass is cut."""

from __future__ import annotations

import calls
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconv_core import functional as F
from deconv_core.cpu.positions import blocking
from deconv_core.cpu.runtime import tasks

share = numba.njit(lambda worker, workers, count: tasks.share(worker, workers, count))
share_parts = numba.njit(
    lambda worker, workers, ends, units: tasks.share_parts(worker, workers, ends, units)
)


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


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "options"),
    [
        ((1, 13, 23, 30), (13, 14, 3, 3), {"stride": 2, "padding": 1}),
        ((9, 8, 1, 32), (8, 24, 1, 16), {"stride": (1, 8), "padding": (0, 4)}),
        ((5, 16, 14, 14), (16, 12, 5, 5), {"padding": 2}),
    ],
)
def test_bits_do_not_depend_on_blocks_and_runs(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    options: dict[str, object],
    dtype: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(x_shape).astype(dtype), rng.standard_normal(w_shape).astype(dtype)
    found, ways = set(), 1
    choose = blocking._choose
    for way in range(10):

        def chosen(work: blocking.Pass, joint: int, way: int = way) -> dict[str, int]:
            nonlocal ways
            cuts = blocking._blocks(work)
            some = [found for cut in cuts for found in blocking._in_runs(work, cut)]
            ways = max(ways, len(some))
            return choose(work, joint) if work.dot else some[way % len(some)]

        monkeypatch.setattr(blocking, "_choose", chosen)
        calls.choose_again()
        found.add(F.conv_transpose2d(x, w, **options).tobytes())
    calls.choose_again()
    assert ways > 1 and len(found) == 1
