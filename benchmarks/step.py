"""Time DDNet's training step, Adam included, against PyTorch at each of its tunings.

    python benchmarks/step.py --threads 2 --repeats 9

Each rival runs in a process of its own beside one of ours, a step each in turn, so that both see
the same state of the machine; the ratio is taken turn by turn. Before anything is timed, three
steps from the same weights on the same images must give the same losses.

Ours runs DDNet's tail of deconvolutions as a matrix (docs/kernels.md, section 8), which PyTorch
does not; with --layer-by-layer it runs every layer on every image, as PyTorch does.
"""

from __future__ import annotations

import argparse

import ddnet_case
import rivals
from contest import Contest
from report import Report, parser, positive, wanted

TOLERANCE = 2e-3  # of a loss
HALF_TOLERANCE = 0.1  # of a loss, when the rival computes in bfloat16
WIDTH = 16


def validate(contest: Contest, rival: rivals.Side) -> None:
    """Take three steps on both sides; raise unless their losses agree."""
    tolerance = HALF_TOLERANCE if rival.half else TOLERANCE
    for step in range(3):
        losses = {name: float(loss) for name, loss in contest.results().items()}
        ours, theirs = losses.values()
        if not abs(ours / theirs - 1) < tolerance:
            raise SystemExit(f"losses differ at step {step + 1}: {losses}")


def conclude(report: Report) -> None:
    """Print the ratio to PyTorch as installed, and to the best of its tunings."""
    best = min(report.rows, key=lambda row: row["ratio"])
    installed = [row for row in report.rows if row["rival"].endswith("as installed")]
    for name, row in [("as installed", row) for row in installed] + [("at its best", best)]:
        text = f"{row['ratio']:.2f}x PyTorch {name} ({row['rival']})"
        report.conclude(f"ratio to PyTorch {name}", row["ratio"], text)


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each rival."""
    options = _options(arguments)
    sides = {side.name: side for side in rivals.installed(rivals.STEP)}
    if not sides:
        raise SystemExit("no rival is installed: nothing to compare with")
    names = wanted(list(sides), options.only)
    report = Report(options)
    case = ddnet_case.training(options.batch_size, options.image_size)
    flops = 3 * ddnet_case.forward_flops(options.batch_size, options.image_size)
    print(
        f"A step of {options.batch_size} images is {flops / 1e9:.0f} GFLOP, counted directly; "
        "a share of the peak above 100 % comes from doing fewer."
    )
    report.header(WIDTH)
    ours = rivals.OURS_BY_LAYER if options.layer_by_layer else rivals.OURS
    for name in names:
        with Contest([sides[name]], options.threads, ours) as contest:
            contest.prepare("step", case)
            validate(contest, sides[name])
            times = contest.time(options.repeats)
        for row in report.compare(f"step, batch {options.batch_size}", flops, times):
            report.line(row, WIDTH)
    conclude(report)
    report.save()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__, repeats=9)
    made.add_argument("--batch-size", type=positive, default=128)
    made.add_argument("--image-size", type=positive, default=32)
    made.add_argument("--layer-by-layer", action="store_true", help="no affine tail as a matrix")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
