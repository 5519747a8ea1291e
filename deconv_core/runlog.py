"""The folder of a training run: options, checkpoint and metrics, and how a run is resumed."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from deconv_core import checkpoint
from deconv_core.optim import Optimizer
from deconv_core.parameters import Layer

CHECKPOINT, METRICS, WEIGHTS = "checkpoint.safetensors", "metrics.jsonl", "weights.safetensors"
CURVES, CONFUSION = "curves.png", "confusion.png"
RESULTS = (CHECKPOINT, METRICS, WEIGHTS, CURVES, CONFUSION)
SHARE_OF_TIME = 0.05  # checkpoints are spread out until they take no more than this
# What a run's checkpoint says.
FORM = {
    "position": {"epoch": int, "batch": int},
    "metrics_bytes": int,
    "optimizer": {"steps": int, "options": dict},
    "options": dict,
    "data": str,
}


@dataclass
class Position:
    """The next batch of a run: epoch and batch, both from 0."""

    epoch: int = 0
    batch: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.batch + 1}"


class Run:
    """A folder that holds one training run.

    ``checkpoint.safetensors`` is all that a run needs to go on; ``metrics.jsonl`` has one line for
    each value logged, and a resumed run cuts it back to its checkpoint.

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
        When the folder cannot be written, is in use, or holds results that are not to be resumed.

    Examples
    --------
    >>> from deconv_core.linear import Linear
    >>> from deconv_core.optim import SGD
    >>> net = Linear(4, 3, rng=0)
    >>> with tempfile.TemporaryDirectory() as folder, Run(folder) as run:
    ...     run.begin(net, SGD(net.parameters()), options={}, data="no images", batches=1)
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
        self.path = self.folder / CHECKPOINT
        self.position = Position()
        self._arrays: dict[str, Any] = {}
        self.saved: dict[str, Any] | None = None
        if resume and self.path.exists():
            self._arrays, saved = checkpoint.load(self.path, checkpoint.RUN, FORM)
            self.saved, self.position = saved, Position(**saved["position"])
            self._read_metrics(saved["metrics_bytes"])
            return
        for path in (self.folder / name for name in RESULTS):
            if path.exists() and path.stat().st_size:
                how = "--resume goes on with it" if self.path.exists() else "it has no checkpoint"
                other = f"{how}, and another --out starts a new one"
                raise ValueError(f"{self.folder} holds {path.name} of another run: {other}")

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
        self._lock = os.open(self.folder, os.O_RDONLY)  # ends with the process
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
            When an option is given that contradicts the saved run, unless it is one of `free`,
            or when a saved one is of another type than its default.
        """
        saved = self.saved["options"] if self.saved else {}
        for name, value in saved.items():
            default = defaults.get(name, value)
            if default is not None and type(value) is not type(default):
                raise ValueError(
                    f"{self.path} is not {checkpoint.RUN}: its option {name} is {value!r}"
                )
        clashes = [
            f"--{name.replace('_', '-')} is {value} but was {saved[name]}"
            for name, value in given.items()
            if name in saved and name not in free and value != saved[name]
        ]
        if clashes:
            raise ValueError(f"the run in {self.folder} cannot be resumed: {'; '.join(clashes)}")
        return {**defaults, **saved, **given}

    def begin(
        self,
        net: Layer,
        optimizer: Optimizer,
        options: Mapping[str, Any],
        data: str,
        batches: int,
    ) -> None:
        """Take over the saved run's weights and optimizer, and write a first checkpoint.

        Parameters
        ----------
        net, optimizer : what is trained
        options : as `settle` returned them
        data : `deconv_core.data.fingerprint` of the images
        batches : number of them in an epoch

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
            if self.position.batch > batches:
                raise ValueError(
                    f"{self.path} is not {checkpoint.RUN}: it stands at {self.position} but an "
                    f"epoch has {batches}"
                )
            try:
                net.load_state_dict(_under("net.", self._arrays))
                optimizer.load_state_dict(self._optimizer_state())
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self.path} is of another net: {error}") from error
            self._arrays = {}
        size = self.saved["metrics_bytes"] if self.saved else 0
        self._metrics = (self.folder / METRICS).open("ab")
        self._metrics.truncate(size)
        self._metrics.seek(size)
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
        checkpoint.save(self.path, arrays, self._fixed | moving, checkpoint.RUN)
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
        return self._read_metrics((self.folder / METRICS).stat().st_size)

    def _read_metrics(self, size: int) -> list[dict[str, Any]]:
        """Return the lines of the first `size` bytes of the metrics, after checking each."""
        path = self.folder / METRICS
        content = path.read_bytes() if path.exists() else b""
        if len(content) < size:
            raise ValueError(
                f"{path} has {len(content)} bytes but its run had written {size}: it was changed"
            )
        return [
            _record(f"{path}, line {number}", line)
            for number, line in enumerate(content[:size].splitlines(), start=1)
        ]


def _record(where: str, line: bytes) -> dict[str, Any]:
    """Return a line of metrics: numbers by name, among them the step."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if (
        not isinstance(record, dict)
        or "step" not in record
        or not all(type(value) in (int, float) for value in record.values())
    ):
        raise ValueError(f"{where}: {line[:60]!r} is no record of a step")
    return record


def _under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays whose names start with `prefix`, without it."""
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
