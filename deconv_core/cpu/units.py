"""Launching passes by positions: weights are packed unit by unit, then workers run the tasks."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import prange, types

from ..memory import empty
from .arrays import flat
from .jit import kernel
from .launch import address, array, call
from .plan import PLAN, Plan
from .tasks import count_workers


def _launch(pack, run, x, w, bias, y, plan, tables, work, units, workers):
    """Pack the weights of `units`, then run all tasks.

    The kernels that do so are at the addresses `pack` and `run`.
    """
    for u in prange(units):
        call(pack, u, w, work, plan, tables)
    for worker in prange(workers):
        call(run, worker, workers, x, work, bias, y, plan, tables)


_alone, _shared = kernel(_launch), kernel(_launch, parallel=True)


@lru_cache(maxsize=8)
def _addresses(pack: Any, worker: Any, dtype: np.dtype) -> tuple[Any, Any]:
    """Return the addresses of two kernels, `pack` and `worker`, for arrays of `dtype`."""
    data, integer, rest = array(dtype), types.int64, (array(PLAN), array(np.int64))
    return (
        address(pack, integer, data, data, *rest),
        address(worker, integer, integer, *[data] * 4, *rest),
    )


def run_units(
    pack: Any,
    worker: Any,
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    plan: Plan,
) -> np.ndarray:
    """Launch a pass whose units' weights `pack` packs, and whose tasks `worker` runs."""
    y = empty(plan.shape, x.dtype)
    if y.size:
        workers = count_workers(plan)
        run = _alone if plan.workers == 1 else _shared
        run(
            *_addresses(pack, worker, x.dtype), flat(x), flat(w),
            np.zeros(y.shape[1], x.dtype) if bias is None else flat(bias), y.ravel(),
            plan.numbers, plan.tables,
            empty((plan.weight_size + workers * plan.scratch_size,), x.dtype),
            len(plan.units), workers,
        )  # fmt: skip
    return y
