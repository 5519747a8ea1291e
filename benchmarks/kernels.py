"""Time single passes of (transposed) convolutions of real nets against PyTorch's.

    python benchmarks/kernels.py --threads 2 --repeats 5              both tables
    python benchmarks/kernels.py --table transposed --only FSRCNN     some rows of one
    python benchmarks/kernels.py --overhead                           the cost of a call
    python benchmarks/kernels.py --alone --threads 1 --batch-size 4   no rivals: shares of the peak

Ours go through `deconv_core.functional`, NumPy NCHW in and out, with whatever conversion they need
in their time. PyTorch's arrays are in its own layout from the start, unless --nchw asks it to take
and give NCHW too; the ratio is the one against the best of its layouts and allocators. Before a row
is timed every side's result is checked against float64. Operations are counted directly; Winograd's
tiles make fewer, and a share of the peak may exceed 100 %. Alone, the share of those that are made
is printed as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import exact
import numpy as np
import rivals
import shapes
import tasks
from contest import Contest
from ratios import geometric_mean
from report import Report, parser, positive, wanted

from deconv_core import geometry

PASSES = tuple(tasks.KINDS)
TABLES = {"transposed": shapes.TRANSPOSED, "ordinary": shapes.ORDINARY}
OVERHEAD = "overhead"
WAYS = {  # to run PyTorch, as its users do
    "at its best": lambda row: True,
    "in its better layout": lambda row: "allocator" not in row["rival"],
    "as installed": lambda row: row["rival"].endswith("as installed"),
}
TOLERANCE = 1e-4  # of the largest element
WIDTH = 54


@dataclass(frozen=True)
class Row:
    """One pass of one shape."""

    table: str
    shape: shapes.Shape
    what: str

    @property
    def name(self) -> str:
        """The name as printed."""
        return f"{self.shape.name}: {self.what}"

    @property
    def transposed(self) -> bool:
        """Whether the convolution is transposed."""
        return self.table == "transposed"

    @property
    def geometry(self) -> geometry.ConvGeometry:
        """The geometry, which is that of the adjoint for a transposed convolution."""
        describe = geometry.conv_transpose if self.transposed else geometry.conv
        return describe(self.shape.x, self.shape.weight, **self.shape.options)

    @property
    def made(self) -> float:
        """Multiply-adds that the register tiles make, for each that a direct pass asks for."""
        launch = tasks.of_plan(tasks.KINDS[self.what][self.transposed], self.geometry, 4)
        return launch.total / self.geometry.macs if launch else 1.0

    def case(self) -> dict[str, np.ndarray]:
        """Return an input, a weight and a gradient to the output."""
        shape = self.geometry
        output = shape.input_shape if self.transposed else shape.output_shape
        sizes = {"x": self.shape.x, "weight": self.shape.weight, "grad": output}
        rng = np.random.default_rng(0)
        return {name: rng.standard_normal(size, np.float32) for name, size in sizes.items()}


def rows_of(table: str | None, overhead: bool, batch: int | None = None) -> Iterator[Row]:
    """Yield the rows of a table, or of both, with as many images as they have or as `batch`."""
    if overhead:
        yield from (Row(OVERHEAD, shapes.SMALL, what) for what in PASSES)
        return
    for name in [table] if table else TABLES:
        for shape in TABLES[name]:
            size = (batch or shape.x[0], *shape.x[1:])
            yield from (Row(name, replace(shape, x=size), what) for what in PASSES)


def validate(
    row: Row, case: dict[str, np.ndarray], results: dict[str, np.ndarray]
) -> dict[str, float]:
    """Return everybody's error against float64; raise when a result is wrong."""
    judge = exact.kernel(case, row.transposed, row.what, row.shape.options)
    errors = {name: exact.error(result, judge) for name, result in results.items()}
    if not max(errors.values()) < TOLERANCE:
        raise SystemExit(f"{row.name}: wrong results: errors {errors}")
    return errors


def against_fastest(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each name's row against its fastest rival, which comes first."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        best.setdefault(row["name"], row)
    return best


def conclude(report: Report, table: str) -> None:
    """Print a table's geometric means and lowest ratios, for each way to run the rival."""
    rows = [row for row in report.rows if row["table"] == table and row["rival"]]
    for way, belongs in WAYS.items():
        best = against_fastest(filter(belongs, rows))
        for what in ("all passes", *PASSES):
            some = [row for row in best.values() if what in ("all passes", row["pass"])]
            if some:
                _conclude(report, f"{table}, PyTorch {way}, {what}", some)


def _conclude(report: Report, title: str, rows: list[dict[str, Any]]) -> None:
    """Print the geometric mean and the lowest ratio of some rows."""
    mean = geometric_mean(row["ratio"] for row in rows)
    worst = min(rows, key=lambda row: row["ratio"])
    text = f"{mean:5.2f}x, lowest {worst['ratio']:.2f}x ({worst['name']})"
    report.conclude(f"{title}: geometric mean", mean, f"{title}: {text}")
    report.summary[f"{title}: lowest"] = worst["ratio"]


def run(report: Report, contest: Contest, row: Row, repeats: int) -> None:
    """Validate, time and print one row."""
    case = row.case()
    asked = {"transposed": row.transposed, "what": row.what, **row.shape.options}
    contest.prepare("kernel", case, **asked)
    errors = validate(row, case, contest.results())
    extra = {"table": row.table, "pass": row.what, "geometry": str(row.geometry), "errors": errors}
    extra["made"] = row.made
    results = report.compare(row.name, 2.0 * row.geometry.macs, contest.time(repeats), **extra)
    report.line(results[0], WIDTH)


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each shape and pass, with the best rival's ratio."""
    options = _options(arguments)
    found = rows_of(options.table, options.overhead, options.batch_size)
    rows = {f"{row.table}/{row.name}": row for row in found}
    names = wanted(list(rows), options.only)
    sides = rivals.KERNELS_NCHW if options.nchw else rivals.KERNELS
    sides = [] if options.alone else rivals.installed(sides)
    report = Report(options)
    report.header(WIDTH)
    with Contest(sides, options.threads) as contest:
        for name in names:
            run(report, contest, rows[name], options.repeats)
    for table in dict.fromkeys(rows[name].table for name in names):
        conclude(report, table)
    report.save()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__, repeats=5)
    made.add_argument("--table", choices=TABLES, help="one table instead of both")
    made.add_argument("--batch-size", type=positive, metavar="N", help="instead of the table's")
    made.add_argument("--nchw", action="store_true", help="channels_last converts, as ours does")
    made.add_argument("--alone", action="store_true", help="no rivals, only shares of the peak")
    made.add_argument("--overhead", action="store_true", help="a tiny layer: the cost of a call")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
