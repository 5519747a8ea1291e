"""The folder of a training run: options, checkpoint and metrics, and how a run is resumed."""

from __future__ import annotations

import json
import os
import tempfile
import time
import zlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from deconv_core import checkpoint
from deconv_core.data.dataset import ImageDataset
from deconv_core.optim import Optimizer
from deconv_core.parameters import Layer

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"
SHARE_OF_TIME = 0.05  # checkpoints are spread out until they take no more than this


@dataclass
class Position:
    """The next batch of a run: epoch and batch, both from 0."""

    epoch: int = 0
    batch: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.batch + 1}"


def fingerprint(*datasets: ImageDataset) -> str:
    """Return a short text that two runs on the same images share.

    Examples
    --------
    >>> from deconv_core.data import make_shapes
    >>> fingerprint(make_shapes("test", count=3)) == fingerprint(make_shapes("test", count=3))
    True
    """
    value, count = 0, 0
    for dataset in datasets:
        value = zlib.crc32(dataset.labels.data, zlib.crc32(dataset.images.data, value))
        count += len(dataset)
    return f"{count} images, {value:08x}"


class Run:
    """A folder that holds one training run.

    ``checkpoint.safetensors`` is everything that a run needs to go on; ``metrics.jsonl`` has one
    line for each value logged. A resumed run cuts the metrics back to its checkpoint, so that no
    line is there twice and none is lost.

    Parameters
    ----------
    folder : made if it is not there
    resume : go on with the run in the folder, if there is one
    checkpoint_seconds : shortest time between the checkpoints that `due` asks for

    Attributes
    ----------
    saved : what the checkpoint said, or None for a new run
    position : the next batch

    Raises
    ------
    ValueError
        When the folder cannot be written, is in use, or holds a run that is not to be resumed.

    Examples
    --------
    >>> from deconv_core.linear import Linear
    >>> from deconv_core.optim import SGD
    >>> net = Linear(4, 3, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder, Run(folder) as run:
    ...     run.begin(net, SGD(net.parameters()), options={}, data="no images")
    ...     run.log(step=1, loss=2.5)
    ...     run.records()
    [{'step': 1, 'loss': 2.5}]
    """

    def __init__(
        self, folder: str | PathLike[str], resume: bool = False, checkpoint_seconds: float = 30.0
    ) -> None:
        self.folder = Path(folder)
        self._lock = -1
        self._metrics: Any = None
        self._claim()
        try:
            self._open(resume)
        except BaseException:
            self.close()
            raise
        self._interval, self._cost, self._last = checkpoint_seconds, 0.0, time.monotonic()

    def _open(self, resume: bool) -> None:
        """Read the run that is to be resumed, if there is one; change nothing."""
        self.path, metrics = self.folder / CHECKPOINT, self.folder / METRICS
        self.position = Position()
        self._arrays: dict[str, Any] = {}
        self.saved: dict[str, Any] | None = None
        if resume and self.path.exists():
            self._arrays, self.saved = checkpoint.load(self.path)
            self.position = Position(**self.saved["position"])
        elif self.path.exists() or (metrics.exists() and metrics.stat().st_size):
            raise ValueError(
                f"{self.folder} holds the {'checkpoint' if self.path.exists() else 'metrics'} "
                "of another run: "
                + ("its checkpoint is missing" if resume else "--resume goes on with it")
                + ", and another --out starts a new one"
            )

    def _claim(self) -> None:
        """Make the folder, see that it can be written, and keep other runs out of it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(f"--out {self.folder} cannot be written: {error}") from error
        try:
            import fcntl
        except ImportError:
            return  # not a POSIX system
        self._lock = os.open(self.folder, os.O_RDONLY)  # the system lets go of it with the process
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ValueError(f"--out {self.folder} is in use by a run that is going on") from None

    def close(self) -> None:
        """Close the metrics and let other runs have the folder."""
        if self._metrics is not None:
            self._metrics.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def settle(
        self, defaults: Mapping[str, Any], given: Mapping[str, Any], free: Collection[str]
    ) -> dict[str, Any]:
        """Return all options: the given ones, else the saved run's, else the defaults.

        Raises
        ------
        ValueError
            When an option is given that contradicts the saved run, unless it is one of `free`.
        """
        saved = self.saved["options"] if self.saved else {}
        clashes = [
            f"--{name.replace('_', '-')} is {value} but was {saved[name]}"
            for name, value in given.items()
            if name in saved and name not in free and value != saved[name]
        ]
        if clashes:
            raise ValueError(f"the run in {self.folder} cannot be resumed: {'; '.join(clashes)}")
        return {**defaults, **saved, **given}

    def begin(
        self, net: Layer, optimizer: Optimizer, options: Mapping[str, Any], data: str
    ) -> None:
        """Take over the saved run's weights and optimizer, and write a first checkpoint.

        Parameters
        ----------
        net, optimizer : what is trained
        options : as `settle` returned them
        data : `fingerprint` of the images

        Raises
        ------
        ValueError
            When the saved run is of another net, optimizer or data set, or its metrics were cut;
            the file is named, and nothing in the folder changes.
        """
        if self.saved is not None:
            if data != self.saved["data"]:
                was = self.saved["data"]
                raise ValueError(f"{self.path} is of other images: {was}, not {data}")
            try:
                net.load_state_dict(_under("net.", self._arrays))
                optimizer.load_state_dict(self._optimizer_state())
            except ValueError as error:
                raise ValueError(f"{self.path} is of another net: {error}") from error
            self._arrays = {}
        self._metrics = _open_log(self.folder / METRICS, (self.saved or {}).get("metrics_bytes", 0))
        self._trained = net, optimizer
        self._fixed = {"options": dict(options), "data": data}
        self.save()

    def _optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state_dict from the checkpoint."""
        saved = self.saved["optimizer"] if self.saved else {}
        state: dict[int, dict[str, Any]] = {}
        for name, array in _under("optimizer.", self._arrays).items():
            index, slot = name.split(".")
            state.setdefault(int(index), {"step": saved["steps"]})[slot] = array
        return {"state": state, "param_groups": [saved["options"]]}

    def save(self) -> None:
        """Write a checkpoint of everything that the run needs to go on."""
        started = time.monotonic()
        self._metrics.flush()
        os.fsync(self._metrics.fileno())  # the metrics first: they may run ahead, never behind
        net, optimizer = self._trained
        arrays = {f"net.{name}": p.data for name, p in net.named_parameters()}
        for slot, per_parameter in optimizer.arrays.items():
            arrays |= {f"optimizer.{i}.{slot}": array for i, array in enumerate(per_parameter)}
        group = {**optimizer.options, "params": list(range(len(optimizer.parameters)))}
        moving = {
            "position": asdict(self.position),
            "metrics_bytes": self._metrics.tell(),
            "optimizer": {"steps": optimizer.steps, "options": group},
        }
        checkpoint.save(self.path, arrays, self._fixed | moving)
        self._last = time.monotonic()
        self._cost = self._last - started

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        passed = time.monotonic() - self._last
        return passed >= max(self._interval, self._cost / SHARE_OF_TIME)

    def log(self, **values: Any) -> None:
        """Add one line to the metrics."""
        self._metrics.write(json.dumps(values).encode() + b"\n")
        self._metrics.flush()

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of the metrics."""
        return [json.loads(line) for line in (self.folder / METRICS).read_bytes().splitlines()]


def _under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays whose names start with `prefix`, without it."""
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def _open_log(path: Path, size: int) -> Any:
    """Open a log for appending after its first `size` bytes; what comes later is cut off."""
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        raise ValueError(f"{path} has {found} bytes but its run had written {size}: it was changed")
    log = path.open("ab")
    log.truncate(size)
    log.seek(size)
    return log
