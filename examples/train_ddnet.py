"""Train DDNet on CIFAR-10 with nothing but NumPy and Numba.

    python examples/train_ddnet.py                    ten epochs at 32x32
    python examples/train_ddnet.py --resume           go on after any interruption
    python examples/train_ddnet.py --device cuda      on an NVIDIA GPU, with numba.cuda

The results lie in the folder `--out`: `metrics.jsonl`, `curves.png`, `confusion.png`,
`weights.safetensors` (the names and layouts of the same net in PyTorch) and
`checkpoint.safetensors`. Exit status: 0 done, 1 failed, 2 options that no run can have, 130
interrupted.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402  (the clock starts before the imports that take time)
import math  # noqa: E402
import os  # noqa: E402
import shlex  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import numba  # noqa: E402
import numpy as np  # noqa: E402

import deconv_core as dc  # noqa: E402
from deconv_core import checkpoint, data, pictures  # noqa: E402
from deconv_core.progress import Progress, StopRequest, peak_memory  # noqa: E402
from deconv_core.runlog import (  # noqa: E402
    CHECKPOINT,
    CONFUSION,
    CURVES,
    WEIGHTS,
    Position,
    Run,
)

DEFAULTS: dict[str, Any] = {
    "data": "data",
    "dataset": "auto",
    "epochs": 10,
    "batch_size": 128,
    "lr": 1e-3,
    "image_size": 32,
    "variant": "listing",
    "threads": None,
    "device": "cpu",
    "seed": 0,
    "limit_train": None,
    "limit_test": None,
}
CORES = numba.config.NUMBA_NUM_THREADS
FREE_ON_RESUME = ("data", "epochs", "threads", "device")  # these change no step that was made


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; options of DEFAULTS that are not given are left out."""
    parser = argparse.ArgumentParser(
        description="Train DDNet on CIFAR-10.", argument_default=argparse.SUPPRESS
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help="where CIFAR-10 is, or is downloaded to (data)")
    add("--dataset", choices=data.CHOICES, help="auto: CIFAR-10 if it can be had, else shapes")
    add("--epochs", type=at_least(1), metavar="N", help="passes over the images (10)")
    add("--batch-size", type=at_least(1), metavar="N", help="images in a step (128)")
    add("--lr", type=learning_rate, help="Adam's learning rate (0.001)")
    add("--image-size", type=at_least(1), metavar="N", help="32; the original listing has 224")
    add("--variant", choices=("listing", "pooled"), help="which DDNet (listing)")
    add("--threads", type=at_least(1, CORES), metavar="N", help="threads (all cores)")
    add("--device", choices=dc.device.DEVICES, help="where to compute (cpu)")
    add("--seed", type=at_least(0), metavar="N", help="of the weights and the order (0)")
    add("--out", type=folder, default="runs/ddnet", help="folder of the results (%(default)s)")
    add("--resume", action="store_true", default=False, help="go on with the run in --out")
    add("--limit-train", type=at_least(1), metavar="N", help="train on the first N images only")
    add("--limit-test", type=at_least(1), metavar="N", help="test on the first N images only")
    add("--checkpoint-seconds", type=not_negative, default=30.0, metavar="S", help="(%(default)s)")
    return parser.parse_args(arguments)


def at_least(minimum: int, maximum: float = math.inf) -> Any:
    """Return a parser of integers from `minimum` to `maximum`, for argparse."""

    def integer(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {text}")
        if int(text) > maximum:
            raise argparse.ArgumentTypeError(f"must be at most {maximum} here, got {text}")
        return int(text)

    return integer


def not_negative(text: str) -> float:
    """Parse a finite number from 0 on, for argparse."""
    if not (math.isfinite(float(text)) and float(text) >= 0):
        raise argparse.ArgumentTypeError(f"must be finite and not negative, got {text}")
    return float(text)


def learning_rate(text: str) -> float:
    """Parse a number that float32 can hold, for argparse."""
    if not_negative(text) > float(np.finfo(np.float32).max):
        raise argparse.ArgumentTypeError(f"must be within float32, got {text}")
    return float(text)


def folder(text: str) -> str:
    """Parse the name of a folder, for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("must name a folder, got an empty name")
    return text


def load_images(options: dict[str, Any]) -> tuple[data.ImageDataset, ...]:
    """Return the training and the test images, cut to the limits."""
    train, test = data.load(options["dataset"], options["data"], announce=print)
    options["dataset"] = train.name  # so that a resumed run never changes its images
    if options["limit_train"]:
        train = train.take(options["limit_train"])
    if options["limit_test"]:
        test = test.take(options["limit_test"])
    print(f"{train.name}: {len(train)} images to train on, {len(test)} to test on", flush=True)
    return train, test


def make_loader(options: dict[str, Any], images: data.ImageDataset, shuffle: bool) -> data.Loader:
    """Return a loader of images resized, scaled to [0, 1] and normalised, as the listing does."""
    size = (options["image_size"], options["image_size"])
    transform: Any = [data.ToUnit(), data.Normalize(0.5, 0.5)]
    if images.images.shape[2:] != size:
        transform.insert(0, data.Resize(size))
    return data.Loader(
        images, options["batch_size"], shuffle, options["seed"], transform=data.Compose(transform)
    )


def train_ddnet(options: dict[str, Any], net: dc.Sequential, run: Run) -> None:
    """Load the images, train the net and write the results."""
    train, test = load_images(options)
    train_loader = make_loader(options, train, shuffle=True)
    test_loader = make_loader(options, test, shuffle=False)
    optimizer = dc.Adam(net.parameters(), lr=options["lr"])

    run.begin(net, optimizer, options, data.fingerprint(train, test), len(train_loader))
    done = run.position.epoch * len(train)
    done += min(run.position.batch * options["batch_size"], len(train))
    total = options["epochs"] * len(train)
    with Progress(total, done, STARTED) as progress, StopRequest() as stop:
        dc.on_compile(lambda: progress.line("Compiling kernels (first run only) ..."))
        try:
            result = train_epochs(
                net, optimizer, train_loader, test_loader, options, run, progress, stop
            )
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} at {run.position}. The last good checkpoint is kept in {run.path}. "
                f"To start again with a lower rate: --out OTHER --lr {options['lr'] / 10:g}"
            ) from error

    settings = {name: o for name, o in options.items() if name not in FREE_ON_RESUME}
    checkpoint.save(
        run.folder / WEIGHTS, net.state_dict(), {"options": settings}, checkpoint.WEIGHTS
    )
    title = f"DDNet on {train.name}: test accuracy {result.accuracy:.1%}"
    pictures.save_curves(run.folder / CURVES, run.records(), title)
    pictures.save_confusion(run.folder / CONFUSION, result.confusion, train.classes, title)
    print(f"Accuracy of the DDNet on the {len(test)} test images: {result.accuracy:.1%}")
    print(f"{progress.rate}peak memory {peak_memory() / 2**30:.2f} GiB")
    print(f"Curves, confusion matrix, metrics and weights are in {run.folder}", flush=True)


def train_epochs(
    net: dc.Sequential,
    optimizer: dc.Adam,
    train_loader: data.Loader,
    test_loader: data.Loader,
    options: dict[str, Any],
    run: Run,
    progress: Progress,
    stop: StopRequest,
) -> dc.Evaluation:
    """Train from wherever the run stands; return what the net makes of the test images then."""

    def test() -> dc.Evaluation:
        batches = stop.watch(test_loader.epoch(0))
        shown = progress.testing(batches, len(test_loader.dataset))
        return dc.evaluate(net, dc.device.feed(shown, options["device"]))

    result, epochs = None, options["epochs"]
    try:
        for epoch in range(run.position.epoch, epochs):
            train_epoch(net, optimizer, train_loader, options, run, progress, stop)
            result = test()
            run.log(epoch=epoch + 1, step=optimizer.steps, accuracy=result.accuracy)
            run.position = Position(epoch + 1)
            run.save()
            progress.line(
                f"Epoch [{epoch + 1}/{epochs}] done, {progress.rate}"
                f"test accuracy {result.accuracy:.1%}"
            )
        return result or test()  # a run may be resumed when it is complete
    except KeyboardInterrupt:
        run.save()
        raise


def train_epoch(
    net: dc.Sequential,
    optimizer: dc.Adam,
    loader: data.Loader,
    options: dict[str, Any],
    run: Run,
    progress: Progress,
    stop: StopRequest,
) -> None:
    """Train to the end of the epoch in which the run stands."""
    criterion, epoch = dc.CrossEntropyLoss(), run.position.epoch
    steps: list[tuple[int, int, int, Any]] = []  # whose loss is not read yet

    def report(waiting: int) -> None:
        """Report on all steps but the last few; reading a loss waits for its step."""
        while len(steps) > waiting:
            batch, step, images, loss = steps.pop(0)
            loss = float(loss)
            run.log(epoch=epoch + 1, step=step, loss=loss)
            progress.step(images, loss)
            if batch % 100 == 0:
                progress.line(
                    f"Epoch [{epoch + 1}/{options['epochs']}], Step [{batch}/{len(loader)}], "
                    f"Loss: {loss:.4f}"
                )

    late = int(options["device"] == "cuda")  # so that the GPU always has a next step to do
    batches = stop.watch(loader.epoch(epoch, start=run.position.batch))
    try:
        for x, target in dc.device.feed(batches, options["device"]):
            loss = dc.train_step(net, criterion, optimizer, x, target)
            run.position.batch += 1
            steps.append((run.position.batch, optimizer.steps, len(x), loss))
            report(late)
            if run.due:
                report(0)
                run.save()
    finally:
        report(0)


def settle(run: Run, given: dict[str, Any]) -> dict[str, Any]:
    """Return all options, after checking them against the run that is resumed."""
    if run.saved and given.get("dataset") == "auto":
        del given["dataset"]  # what it came to is in the checkpoint
    options = run.settle(DEFAULTS, given, free=FREE_ON_RESUME)
    position = run.position
    if (options["epochs"], 0) < (position.epoch, position.batch):
        stands = f"is at {position}" if position.batch else f"has finished {position.epoch} epochs"
        raise ValueError(f"--epochs is {options['epochs']} but the run {stands}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the whole job and return its exit status."""
    given = vars(parse_options(arguments))
    out, resume, seconds = given.pop("out"), given.pop("resume"), given.pop("checkpoint_seconds")
    try:
        with Run(out, resume, seconds) as run:
            if resume and run.saved is None:
                print(f"There is no run in {out} to resume: starting one", flush=True)
            options = settle(run, given)
            try:  # both data sets have ten classes
                net = dc.DDNet(10, options["image_size"], options["variant"], options["seed"])
            except (TypeError, ValueError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            numba.set_num_threads(min(options["threads"] or CORES, CORES))
            net.to(options["device"])
            train_ddnet(options, net, run)
    except KeyboardInterrupt:
        again = sys.argv[1:] if arguments is None else arguments  # where nothing is saved yet
        if os.path.exists(os.path.join(out, CHECKPOINT)):
            again = ["--resume", "--out", out]
        command = shlex.join([sys.executable, sys.argv[0], *again])
        print(f"Stopped. To go on: {command}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # nobody reads; what is still flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FloatingPointError, ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
