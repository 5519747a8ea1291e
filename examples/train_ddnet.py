"""Train DDNet on CIFAR-10 with nothing but NumPy and Numba.

    python examples/train_ddnet.py                    ten epochs at 32x32
    python examples/train_ddnet.py --resume           go on after any interruption

The results lie in the folder `--out`: `metrics.jsonl`, `curves.png`, `confusion.png`,
`weights.safetensors` (the names and layouts of the same net in PyTorch) and
`checkpoint.safetensors`. Exit status: 0 done, 1 failed, 2 wrong options, 130 interrupted.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402  (the clock starts before the imports that take time)
import sys  # noqa: E402
from typing import Any  # noqa: E402

import numba  # noqa: E402

import deconv_core as dc  # noqa: E402
from deconv_core import checkpoint, data, pictures  # noqa: E402
from deconv_core.progress import Progress, StopRequest, peak_memory  # noqa: E402
from deconv_core.runlog import Position, Run, fingerprint  # noqa: E402

DEFAULTS: dict[str, Any] = {
    "data": "data",
    "dataset": "auto",
    "epochs": 10,
    "batch_size": 128,
    "lr": 1e-3,
    "image_size": 32,
    "variant": "listing",
    "threads": None,
    "seed": 0,
    "limit_train": None,
    "limit_test": None,
}
FREE_ON_RESUME = ("data", "epochs", "threads")  # these do not change a step that was made


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
    add("--lr", type=float, help="Adam's learning rate (0.001)")
    add("--image-size", type=at_least(1), metavar="N", help="32; the original listing has 224")
    add("--variant", choices=("listing", "pooled"), help="which DDNet (listing)")
    add("--threads", type=at_least(1), metavar="N", help="threads (all cores)")
    add("--seed", type=at_least(0), metavar="N", help="of the weights and the order (0)")
    add("--out", metavar="DIR", default="runs/ddnet", help="folder of the results (%(default)s)")
    add("--resume", action="store_true", default=False, help="go on with the run in --out")
    add("--limit-train", type=at_least(1), metavar="N", help="train on the first N images only")
    add("--limit-test", type=at_least(1), metavar="N", help="test on the first N images only")
    add("--checkpoint-seconds", type=float, default=30.0, metavar="S", help="(%(default)s)")
    return parser.parse_args(arguments)


def at_least(minimum: int) -> Any:
    """Return a parser of integers from `minimum` on, for argparse."""

    def integer(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {text}")
        return int(text)

    return integer


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


def train_ddnet(options: dict[str, Any], run: Run) -> None:
    """Load the images, make the net, train it and write the results."""
    train, test = load_images(options)
    train_loader = make_loader(options, train, shuffle=True)
    test_loader = make_loader(options, test, shuffle=False)
    net = dc.DDNet(len(train.classes), options["image_size"], options["variant"], options["seed"])
    optimizer = dc.Adam(net.parameters(), lr=options["lr"])

    run.begin(net, optimizer, options, fingerprint(train, test))
    if not dc.kernels_are_cached():
        print("Compiling kernels (first run only) ...", flush=True)
    done = run.position.epoch * len(train) + run.position.batch * options["batch_size"]
    total = options["epochs"] * len(train)
    with Progress(total, done, STARTED) as progress, StopRequest() as stop:
        try:
            result = train_epochs(
                net, optimizer, train_loader, test_loader, options, run, progress, stop
            )
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} at {run.position}. The last good checkpoint is kept in {run.path}. "
                "A new run with a lower --lr may help."
            ) from error
        except KeyboardInterrupt:
            run.save()
            raise

    result = result or dc.evaluate(net, test_loader.epoch(0))  # a run resumed when complete
    checkpoint.save(run.folder / "weights.safetensors", net.state_dict(), {"options": options})
    pictures.save_curves(run.folder / "curves.png", run.records())
    pictures.save_confusion(run.folder / "confusion.png", result.confusion, train.classes)
    print(f"Accuracy of the DDNet on the {len(test)} test images: {result.accuracy:.1%}")
    print(f"{progress.rate:.0f} images/s, peak memory {peak_memory() / 2**30:.2f} GiB")
    print(f"Curves, confusion matrix, metrics and weights are in {run.folder}")


def train_epochs(
    net: dc.Sequential,
    optimizer: dc.Adam,
    train_loader: data.Loader,
    test_loader: data.Loader,
    options: dict[str, Any],
    run: Run,
    progress: Progress,
    stop: StopRequest,
) -> dc.Evaluation | None:
    """Train from wherever the run stands; return what the net makes of the test images then."""
    result, epochs, steps = None, options["epochs"], len(train_loader)
    criterion = dc.CrossEntropyLoss()
    for epoch in range(run.position.epoch, epochs):
        for x, target in stop.watch(train_loader.epoch(epoch, start=run.position.batch)):
            loss = dc.train_step(net, criterion, optimizer, x, target)
            run.position.batch += 1
            run.log(epoch=epoch + 1, step=optimizer.steps, loss=loss)
            progress.step(len(x), loss)
            if run.position.batch % 100 == 0:
                progress.line(
                    f"Epoch [{epoch + 1}/{epochs}], Step [{run.position.batch}/{steps}], "
                    f"Loss: {loss:.4f}"
                )
            if run.due:
                run.save()
        progress.pause()
        result = dc.evaluate(net, stop.watch(test_loader.epoch(0)))
        run.log(epoch=epoch + 1, step=optimizer.steps, accuracy=result.accuracy)
        run.position = Position(epoch + 1)
        run.save()
        progress.line(
            f"Epoch [{epoch + 1}/{epochs}] done, test accuracy {result.accuracy:.1%}, "
            f"{progress.rate:.0f} images/s"
        )
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the whole job and return its exit status."""
    given = vars(parse_options(arguments))
    out, resume, seconds = given.pop("out"), given.pop("resume"), given.pop("checkpoint_seconds")
    try:
        with Run(out, resume, seconds) as run:
            if resume and run.saved is None:
                print(f"There is no run in {out} to resume: starting one", flush=True)
            if run.saved and given.get("dataset") == "auto":
                del given["dataset"]  # what it came to is in the checkpoint
            options = run.settle(DEFAULTS, given, free=FREE_ON_RESUME)
            if (options["epochs"], 0) < (run.position.epoch, run.position.batch):
                raise ValueError(
                    f"--epochs is {options['epochs']} but the run is at {run.position}"
                )
            if options["threads"]:
                numba.set_num_threads(options["threads"])
            train_ddnet(options, run)
    except KeyboardInterrupt:
        print(f"Stopped. To go on: python {sys.argv[0]} --resume --out {out}", file=sys.stderr)
        return 130
    except (FloatingPointError, ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
