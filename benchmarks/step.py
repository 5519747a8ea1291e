"""Time DDNet's training step (Adam included) against PyTorch at each of its tunings.

    python benchmarks/step.py --threads 2 --repeats 9

Each rival runs in a process of its own beside one of ours, step by step in turn, so that both see
the same state of the machine; the ratio is taken pair by pair. Before anything is timed, three
steps from the same weights on the same images must give the same losses.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numba
import numpy as np

import deconv_core as dc

LR = 1e-3
TOLERANCE = {True: 0.1, False: 2e-3}  # of a loss; True: the rival computes in bfloat16


def our_step(weights: dict[str, np.ndarray]) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return our training step from the given weights."""
    side = round((weights["fc.weight"].shape[1] / 3) ** 0.5)
    net = dc.DDNet(len(weights["fc.bias"]), (side + 7) // 8)
    net.load_state_dict(weights)
    criterion, optimizer = dc.CrossEntropyLoss(), dc.Adam(net.parameters(), lr=LR)
    return lambda x, target: dc.train_step(net, criterion, optimizer, x, target)


def work(name: str, case: Path, threads: int) -> None:
    """Take one step for each line on standard input; answer its loss and seconds."""
    arrays = dict(np.load(case))
    x, target = arrays.pop("x"), arrays.pop("target")
    if name == "deconv_core":
        numba.set_num_threads(threads)
        step = our_step(arrays)
    else:
        import ddnet_torch
        import torch

        torch.set_num_threads(threads)
        step = ddnet_torch.make_step(arrays, LR, ddnet_torch.TUNINGS[name])[1]
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = step(x, target)
        print(json.dumps([loss, time.perf_counter() - start]), flush=True)


class Worker:
    """A process that takes steps when asked."""

    def __init__(self, name: str, case: Path, threads: int, environment: dict[str, str]) -> None:
        command = [sys.executable, __file__, "--worker", name, "--case", str(case)]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)} | environment,
        )

    def step(self) -> tuple[float, float]:
        """Return the loss and the seconds of one step."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}")
        loss, seconds = json.loads(line)
        return loss, seconds

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(rival: str, case: Path, options: argparse.Namespace) -> dict[str, float | str]:
    """Validate, then time, one rival and us in turn."""
    import ddnet_torch

    tuning = ddnet_torch.TUNINGS[rival]
    ours = Worker("deconv_core", case, options.threads, {})
    theirs = Worker(rival, case, options.threads, ddnet_torch.ALLOCATOR if tuning.allocator else {})
    try:
        for step in range(3):
            losses = ours.step()[0], theirs.step()[0]
            if not abs(losses[0] / losses[1] - 1) < TOLERANCE[tuning.bfloat16]:
                raise SystemExit(f"{rival}: losses differ at step {step + 1}: {losses}")
        pairs = [(ours.step()[1], theirs.step()[1]) for _ in range(options.repeats)]
    finally:
        ours.close()
        theirs.close()
    ratios = sorted(their / our for our, their in pairs)
    return {
        "rival": f"PyTorch {rival}",
        "ours_s": statistics.median(our for our, _ in pairs),
        "rival_s": statistics.median(their for _, their in pairs),
        "ratio": statistics.median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
    }


def make_case(folder: Path, batch: int, image_size: int) -> Path:
    """Write the weights, images and labels that everyone starts from."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (batch, 3, image_size, image_size)).astype(np.float32)
    target = rng.integers(0, 10, batch)
    weights = dc.DDNet(image_size=image_size, rng=0).state_dict()
    path = folder / "case.npz"
    np.savez(path, x=x, target=target, **weights)
    return path


def main() -> None:
    """Print a row for each rival, and with --json the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", help="rivals whose name contains this")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.case, options.threads)
        return
    if find_spec("torch") is None:
        raise SystemExit("PyTorch is not installed: nothing to compare with")
    import ddnet_torch

    print(f"DDNet step, batch {options.batch_size}, {options.threads} threads; medians of pairs")
    print(f"{'rival':44} {'ours':>8} {'rival':>8} {'ratio':>6}  spread")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        case = make_case(Path(folder), options.batch_size, options.image_size)
        for rival in ddnet_torch.TUNINGS:
            if options.only and options.only not in rival:
                continue
            row = compare(rival, case, options)
            rows.append(row)
            print(
                f"{row['rival']:44} {row['ours_s']:7.3f}s {row['rival_s']:7.3f}s "
                f"{row['ratio']:6.2f}  {row['lowest']:.2f}-{row['highest']:.2f}",
                flush=True,
            )
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
