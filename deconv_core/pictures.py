"""Pictures of a run: its loss and accuracy, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from deconv_core.data.extras import require


def _figure(width: float, height: float) -> Any:
    """Return an empty figure that draws to files, whatever the display."""
    figure = require("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def save_curves(path: str | PathLike[str], records: Sequence[dict[str, Any]]) -> None:
    """Draw the training loss of every step, and the test accuracy after every epoch.

    Parameters
    ----------
    path : of the PNG
    records : the metrics: ``{"step", "loss"}`` a step, ``{"step", "accuracy"}`` an epoch

    Raises
    ------
    ImportError
        When matplotlib is not installed (the extra ``train``).
    """
    losses = [(record["step"], record["loss"]) for record in records if "loss" in record]
    scores = [(r["step"], 100 * r["accuracy"]) for r in records if "accuracy" in r]
    figure = _figure(7, 4)
    axes = figure.add_subplot()
    axes.plot(*zip(*losses, strict=True), color="tab:blue", linewidth=0.8)
    axes.set(xlabel="step", ylabel="training loss")
    axes.yaxis.label.set_color("tab:blue")
    right = axes.twinx()
    right.plot(*zip(*scores, strict=True), color="tab:red", marker="o")
    right.set(ylabel="test accuracy, %", ylim=(0, 100))
    right.yaxis.label.set_color("tab:red")
    figure.savefig(path, format="png", dpi=120)


def save_confusion(
    path: str | PathLike[str], confusion: np.ndarray, classes: Sequence[str]
) -> None:
    """Draw a confusion matrix with its counts.

    Parameters
    ----------
    path : of the PNG
    confusion : (classes, classes) integers; row = true class, column = predicted class
    classes : their names

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
    axes.set(xlabel="predicted", ylabel="true")
    figure.savefig(path, format="png", dpi=120)
