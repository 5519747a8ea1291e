"""Pictures of a run: its loss and accuracy, and its confusion matrix."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from deconv_core.extras import require


def _figure(width: float, height: float) -> Any:
    """Return an empty figure that draws to files, whatever the display."""
    figure = require("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Return the mean of each value and those before it, `window` of them at most.

    Examples
    --------
    >>> running_mean([2.0, 4.0, 6.0], window=2).tolist()
    [2.0, 3.0, 5.0]
    """
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _write(figure: Any, path: str | PathLike[str]) -> None:
    """Write a picture as PNG, wholly or not at all."""
    whole = Path(path)
    part = whole.with_name(f"{whole.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        figure.savefig(part, format="png", dpi=120)
        os.replace(part, whole)
    finally:
        part.unlink(missing_ok=True)


def save_curves(
    path: str | PathLike[str], records: Sequence[dict[str, Any]], title: str = ""
) -> None:
    """Draw the training loss with its running mean, and the test accuracy after every epoch.

    Parameters
    ----------
    path : of the PNG
    records : the metrics: ``{"step", "loss"}`` a step, ``{"step", "accuracy"}`` an epoch
    title : above the picture

    Raises
    ------
    ImportError
        When matplotlib is not installed (the extra ``train``).
    """
    steps = [record["step"] for record in records if "loss" in record]
    losses = [record["loss"] for record in records if "loss" in record]
    scores = [(r["step"], 100 * r["accuracy"]) for r in records if "accuracy" in r]
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    window = max(1, len(losses) // 50)
    axes.plot(steps, losses, color="tab:blue", linewidth=0.5, alpha=0.4)
    axes.plot(steps, running_mean(losses, window), color="tab:blue")
    axes.set(xlabel="step", ylabel=f"training loss (line: mean of {window} steps)", title=title)
    axes.yaxis.label.set_color("tab:blue")
    right = axes.twinx()
    right.plot(*zip(*scores, strict=True), color="tab:red", marker="o")
    right.set(ylabel="test accuracy, %", ylim=(0, 100))
    right.yaxis.label.set_color("tab:red")
    _write(figure, path)


def save_confusion(
    path: str | PathLike[str], confusion: np.ndarray, classes: Sequence[str], title: str = ""
) -> None:
    """Draw a confusion matrix with its counts.

    Parameters
    ----------
    path : of the PNG
    confusion : (classes, classes) integers; row = true class, column = predicted class
    classes : their names
    title : above the picture

    Raises
    ------
    ImportError
        When matplotlib is not installed (the extra ``train``).
    """
    figure = _figure(7, 6.5)
    axes = figure.add_subplot()
    axes.imshow(confusion, cmap="Blues")
    for (row, column), count in np.ndenumerate(confusion):
        color = "white" if 2 * count > confusion.max() else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right")
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    _write(figure, path)
