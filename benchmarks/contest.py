"""Let sides take turns at the same case, each in its own process."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rivals import OURS, Side
from worker import Worker

TURN_SECONDS = 0.03  # a turn is as many calls as fill this
PAUSE_SECONDS = 0.015  # before a turn: the other side's threads stop spinning
LONG_SECONDS = 0.25  # calls longer than this need no untimed one to warm up
MAX_CALLS = 2000


class Contest:
    """Ours and some rivals, as processes.

    Sides with the same packages and environment share a process: two layouts of one library.

    Parameters
    ----------
    sides : the rivals; ours is always there and first
    threads : how many threads each side may use
    ours : the way to run ours
    """

    def __init__(self, sides: Sequence[Side], threads: int, ours: Side = OURS) -> None:
        self.sides = (ours, *sides)
        self._folder = tempfile.TemporaryDirectory()
        self._workers: dict[str, Worker] = {}
        for side in self.sides:
            key = self._key(side)
            if key not in self._workers:
                self._workers[key] = Worker(threads, side.environment)

    @staticmethod
    def _key(side: Side) -> str:
        """Name the process that a side runs in."""
        return repr((side.packages, sorted(side.environment.items())))

    def _worker(self, side: Side) -> Worker:
        """Return the process that a side runs in."""
        return self._workers[self._key(side)]

    def __enter__(self) -> Contest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers.values():
            worker.close()
        self._folder.cleanup()

    def prepare(self, function: str, case: Mapping[str, np.ndarray], **options: Any) -> None:
        """Have every side build its call: that `function` of its module, on these arrays."""
        path = Path(self._folder.name) / "case.npz"
        np.savez(path, **case)  # type: ignore[arg-type]
        for side in self.sides:
            target = f"{side.module}:{function}"
            self._worker(side).prepare(side.name, target, path, {**side.options, **options})

    def results(self) -> dict[str, np.ndarray]:
        """Return what a call of each side returns."""
        path = Path(self._folder.name) / "result.npy"
        return {side.name: self._worker(side).result(side.name, path) for side in self.sides}

    def peaks_mib(self) -> dict[str, float]:
        """Return the peak resident memory of each side's process."""
        return {side.name: self._worker(side).peak_mib() for side in self.sides}

    def time(self, repeats: int) -> dict[str, list[float]]:
        """Return, for each side, the median seconds of a call in each of `repeats` turns.

        Sides take their turns in order, and every other time in the opposite order.
        """
        plans = {side.name: self._plan(side) for side in self.sides}
        times: dict[str, list[float]] = {side.name: [] for side in self.sides}
        for turn in range(repeats):
            for side in self.sides[:: -1 if turn % 2 else 1]:
                time.sleep(PAUSE_SECONDS)
                seconds = self._worker(side).seconds(side.name, *plans[side.name])
                times[side.name].append(statistics.median(seconds))
        return times

    def _plan(self, side: Side) -> tuple[int, int]:
        """Return how many calls a turn of this side has, and how many untimed ones before them."""
        time.sleep(PAUSE_SECONDS)
        once = min(self._worker(side).seconds(side.name, 2))
        calls = min(max(math.ceil(TURN_SECONDS / once), 1), MAX_CALLS)
        return calls, int(once < LONG_SECONDS)
