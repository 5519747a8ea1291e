"""Train the same epoch in PyTorch as `examples/train_ddnet.py` did, and lay the two side by side.

    python examples/train_ddnet.py --data DIR --epochs 1 --out runs/epoch
    python benchmarks/epoch.py --data DIR --out runs/epoch

From the same weights, on the same images in the same order; prints both losses and accuracies.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path

import ddnet_torch
import numpy as np
import rivals
import torch

import deconv_core as dc
from deconv_core import data

TUNINGS = {side.tuning: side for side in rivals.STEP}


def accuracy(net: torch.nn.Module, loader: data.Loader) -> float:
    """Return the share of images that the net gets right."""
    right, total = 0, 0
    with torch.no_grad():
        for x, target in loader.epoch(0):
            right += int((net(torch.from_numpy(x)).argmax(1).numpy() == target).sum())
            total += len(target)
    return right / total


def main() -> None:
    """Run PyTorch's epoch and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder of our run")
    parser.add_argument("--tuning", choices=TUNINGS, default="allocator, channels_last")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    tuning = TUNINGS[options.tuning]
    if not tuning.environment.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | tuning.environment)
    torch.set_num_threads(options.threads)
    lines = (options.out / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    ours = [record["loss"] for record in records if "loss" in record]
    train, test = data.load("cifar10", options.data)
    transform = data.Compose([data.ToUnit(), data.Normalize(0.5, 0.5)])
    weights = dc.DDNet(rng=0).state_dict()
    net, step = ddnet_torch.make_step(weights, **tuning.options)
    loader = data.Loader(train, 128, True, 0, transform=transform)
    start, losses = time.perf_counter(), []
    for x, target in loader.epoch(0):
        losses.append(step(x, target))
        if len(losses) % 20 == 0:
            first = len(losses) - 20
            pair = np.mean(ours[first : first + 20]), np.mean(losses[first:])
            print(f"steps {first + 1:3}-{first + 20:3}  ours {pair[0]:.4f}  PyTorch {pair[1]:.4f}")
    seconds = time.perf_counter() - start
    mine = next(record["accuracy"] for record in records if "accuracy" in record)
    theirs = accuracy(net, data.Loader(test, 128, transform=transform))
    early = max(abs(a / b - 1) for a, b in zip(ours[:20], losses[:20], strict=True))
    print(f"largest relative difference of the first 20 losses: {early:.1e}")
    print(f"accuracy on {len(test)} test images: ours {mine:.2%}, PyTorch {theirs:.2%}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"PyTorch ({options.tuning}): {seconds:.0f} s of training, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
