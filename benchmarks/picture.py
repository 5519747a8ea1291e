"""Draw the ratios of tables written with --json, one bar for each rival.

python benchmarks/picture.py step.json inference.json --out docs/speed.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    """Read the tables, write the picture."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("tables", type=Path, nargs="+")
    made.add_argument("--out", type=Path, required=True)
    options = made.parse_args()
    rows = [row for table in options.tables for row in json.loads(table.read_text())["rows"]]
    rows.reverse()
    figure, axes = pyplot.subplots(figsize=(8, 0.28 * len(rows) + 0.8), layout="constrained")
    names = [f"{row['name']}: {row['rival']}" for row in rows]
    bars = axes.barh(names, [row["ratio"] for row in rows], color="#3b6ea5")
    axes.bar_label(bars, [f"{row['ratio']:.1f}x" for row in rows], padding=3, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="times as fast as the rival (logarithmic)")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
