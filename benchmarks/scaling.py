"""Count the tasks of every pass of DDNet, and bound what more cores can gain.

    python benchmarks/scaling.py --threads 2 8 16 64

One training step and one inference are run, and each pass's plan is read (tasks.py). A pass is
never faster than its busiest thread. So with n threads it is at most (its multiply-adds) / (those
of the thread that has most) times as fast as with one. Nothing is timed, and memory, which the
cores share, is left out: these are bounds that the cut into tasks sets, whatever the machine. They
depend on its vectors alone, as the tiles do.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import ddnet_case
import tasks
from report import Report, positive, wanted

import deconv_core as dc

LAYERS = {  # by the channels of the convolution, or of the one that a deconvolution is adjoint to
    (3, 32, 1): "conv1",
    (32, 64, 1): "conv2",
    (64, 128, 1): "conv3",
    (64, 128, 2): "deconv1",
    (32, 64, 2): "deconv2",
    (3, 32, 2): "deconv3",
}
WIDTH = 42


def name_of(launch: tasks.Launch) -> str:
    """Name a pass as DDNet's users know it."""
    shape = launch.geometry
    if shape is None:
        return f"matrices: {launch.kind}"
    layer = LAYERS[shape.in_channels, shape.out_channels, shape.rows.step]
    transposed = layer.startswith("deconv")
    what = next(what for what, kinds in tasks.KINDS.items() if kinds[transposed] == launch.kind)
    return f"{layer}: {what}, {shape.batch} image{'s' if shape.batch > 1 else ''}"


def watch(work: Callable[[], object]) -> Counter[tasks.Launch]:
    """Return the launches of one run."""
    with tasks.watched() as found:
        work()
    return found


def bound(launches: Counter[tasks.Launch], threads: int) -> float:
    """Return how many times as fast as on one thread all launches can be, one after another."""
    total = sum(times * launch.total for launch, times in launches.items())
    return total / sum(times * launch.busiest(threads) for launch, times in launches.items())


def limit(launch: tasks.Launch, threads: int) -> str:
    """Say what keeps a pass from `threads` times the speed: too few tasks, or uneven shares."""
    if launch.bound(threads) > 0.85 * threads:
        return "nothing"
    return launch.cut if len(launch.loads) < threads else f"uneven shares of {launch.cut}"


def header(threads: Sequence[int]) -> None:
    """Print the names of the columns."""
    bounds = " ".join(f"{f'at {n}':>6}" for n in threads)
    print(f"{'':{WIDTH}} {'times':>5} {'Mmac':>8} {'tasks':>5} {'longest':>7} {bounds}  limited by")


def add(
    report: Report, title: str, launches: Counter[tasks.Launch], names: list[str],
    threads: Sequence[int],
) -> None:  # fmt: skip
    """Print a line for each pass, and keep its row."""
    for launch, times in launches.items():
        name = f"{title}/{name_of(launch)}"
        if name not in names:
            continue
        row = {
            "name": name,
            "times": times,
            "macs": launch.total,
            "tasks": len(launch.loads),
            "longest": max(launch.loads) / launch.total,
            "bounds": {str(n): launch.bound(n) for n in threads},
            "limit": limit(launch, max(threads)),
        }
        report.rows.append(row)
        bounds = " ".join(f"{value:6.1f}" for value in row["bounds"].values())
        print(
            f"{name_of(launch):{WIDTH}} {times:5} {launch.total / 1e6:8.1f} {row['tasks']:5} "
            f"{row['longest']:7.1%} {bounds}  {row['limit']}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Print a table for a training step and one for inference."""
    options = _options(arguments)
    case = ddnet_case.training(options.batch_size, options.image_size)
    x, target = case["x"], case["target"]
    net = dc.DDNet(image_size=options.image_size)
    criterion, optimizer = dc.CrossEntropyLoss(), dc.Adam(net.parameters())
    collapse = not options.layer_by_layer
    runs: dict[str, Callable[[], object]] = {
        "training step": lambda: dc.train_step(
            net, criterion, optimizer, x, target, "auto", collapse
        )
    }
    if collapse:
        runs["inference"] = lambda: net(x)
    tables = {title: watch(run) for title, run in runs.items()}
    names = wanted([f"{t}/{name_of(n)}" for t in tables for n in tables[t]], options.only)
    settings = argparse.Namespace(json=options.json, threads=os.cpu_count() or 1)
    report = Report(settings, timed=False)
    for title, launches in tables.items():
        print(f"\nDDNet, batch {options.batch_size}, {title}: at most so many times one thread")
        header(options.threads)
        add(report, title, launches, names, options.threads)
        for n in options.threads:
            value = bound(launches, n)
            report.conclude(f"{title}, {n} threads", value, f"{title}, {n} threads: {value:.1f}x")
    report.save()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--threads", type=positive, nargs="+", default=[2, 8, 16, 64], metavar="N",
        help="numbers of threads to bound the speed on",
    )  # fmt: skip
    made.add_argument("--batch-size", type=positive, default=128)
    made.add_argument("--image-size", type=positive, default=32)
    made.add_argument("--layer-by-layer", action="store_true", help="no affine tail as a matrix")
    made.add_argument("--only", metavar="TEXT", help="rows whose name contains this")
    made.add_argument("--json", metavar="FILE", type=Path, help="write the rows and the machine")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
