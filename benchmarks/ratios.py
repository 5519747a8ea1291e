"""What pairs of timings say: medians, ratios and their spread, geometric means."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Pairs:
    """Seconds of two sides that took turns; the ratio is taken turn by turn.

    Both sides of a turn see the same state of the machine, so that the ratio of a turn says more
    than the ratio of two medians.
    """

    ours: Sequence[float]
    theirs: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.ours) != len(self.theirs) or not self.ours:
            raise ValueError(f"{len(self.ours)} turns of ours, {len(self.theirs)} of theirs")

    @property
    def ratios(self) -> list[float]:
        """How many times faster we were, lowest first."""
        return sorted(b / a for a, b in zip(self.ours, self.theirs, strict=True))

    def record(self) -> dict[str, float]:
        """Return both medians, the median ratio, and the lowest and highest one."""
        ratios = self.ratios
        return {
            "ours_s": statistics.median(self.ours),
            "rival_s": statistics.median(self.theirs),
            "ratio": statistics.median(ratios),
            "lowest": ratios[0],
            "highest": ratios[-1],
        }


def fastest(times: dict[str, list[float]]) -> str:
    """Return the name with the lowest median."""
    return min(times, key=lambda name: statistics.median(times[name]))


def geometric_mean(values: Iterable[float]) -> float:
    """Return the mean that a ratio and its reciprocal agree on."""
    return statistics.geometric_mean(values)
