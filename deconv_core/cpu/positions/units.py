"""Launching passes by positions: weights are packed unit by unit, then workers run the tasks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...memory import empty
from ..runtime.arrays import flat
from ..runtime.tasks import count_workers
from .plan import Plan


def run_units(
    launch: Callable[..., None],
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    plan: Plan,
) -> np.ndarray:
    """Run a pass whose units' weights and tasks `launch` launches; return its result."""
    y = empty(plan.shape, x.dtype)
    if y.size:
        workers = count_workers(plan.workers)
        launch(
            flat(x), flat(w), np.zeros(y.shape[1], x.dtype) if bias is None else flat(bias),
            y.ravel(), plan.numbers, plan.tables,
            empty((plan.weight_size + workers * plan.scratch_size,), x.dtype),
            workers,
        )  # fmt: skip
    return y
