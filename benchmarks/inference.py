"""Time DDNet's inference against OpenVINO, ONNX Runtime and PyTorch, NumPy in and out, float32.

    python benchmarks/inference.py --threads 2 --repeats 9

Batch 128 shows the throughput, batch 1 the latency. Everybody has the same weights and images, and
before anything is timed, the same logits; those of the first image are checked against float64.
"""

from __future__ import annotations

import argparse

import ddnet_case
import exact
import numpy as np
import rivals
from contest import Contest
from report import Report, parser, positive, wanted

TOLERANCE = 1e-4  # of the largest logit
WIDTH = 14


def validate(
    x: np.ndarray, weights: dict[str, np.ndarray], logits: dict[str, np.ndarray]
) -> dict[str, float]:
    """Return everybody's error on the first image; raise when one is too large."""
    first = exact.ddnet(weights, x[:1])
    ours = logits[rivals.OURS.name]
    errors = {name: exact.error(result[:1], first) for name, result in logits.items()}
    for name, result in logits.items():
        if not max(errors[name], exact.error(result, ours)) < TOLERANCE:
            raise SystemExit(f"the logits of {name} are wrong: errors {errors}")
    return errors


def conclude(report: Report, batch: int, rows: list[dict]) -> None:
    """Print the ratio to the best tuning of each rival."""
    for family in dict.fromkeys(side.family for side in rivals.INFERENCE):
        mine = [row for row in rows if (row["rival"] or "").startswith(f"{family}:")]
        if mine:  # fastest first
            text = f"batch {batch}: {mine[0]['ratio']:.2f}x {family} at its best"
            report.conclude(f"batch {batch}: ratio to {family}", mine[0]["ratio"], text)


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each batch size and rival, fastest rival first."""
    options = _options(arguments)
    sides = {side.name: side for side in rivals.installed(rivals.INFERENCE)}
    names = wanted(list(sides), options.only) if sides else []
    report = Report(options)
    report.header(WIDTH)
    tables, size = {}, options.image_size
    with Contest([sides[name] for name in names], options.threads) as contest:
        for batch in options.batch_size:
            x, weights = ddnet_case.images(batch, size), ddnet_case.weights(size)
            flops = ddnet_case.forward_flops(batch, size)
            contest.prepare("inference", {"x": x, **weights})
            errors = validate(x, weights, contest.results())
            name = f"batch {batch}"
            rows = report.compare(name, flops, contest.time(options.repeats), errors=errors)
            for row in rows:
                report.line(row, WIDTH)
            tables[batch] = rows
    for batch, rows in tables.items():
        conclude(report, batch, rows)
    report.save()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__, repeats=9)
    made.add_argument("--batch-size", type=positive, nargs="+", default=[128, 1], metavar="N")
    made.add_argument("--image-size", type=positive, default=32)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
