"""What a training run shows while it runs, and how it is asked to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from deconv_core.extras import require

Item = TypeVar("Item")
Batch = TypeVar("Batch", bound=tuple[Any, ...])


class Progress:
    """A bar with images/s and time left on a terminal, and plain lines elsewhere.

    Parameters
    ----------
    total, done : images of the whole run, and of the part before this start
    started : `time.perf_counter()` of the start; when given, the first step says how long it took

    Attributes
    ----------
    images, seconds : trained on since the first step (which compiles), and the time that took

    Examples
    --------
    >>> with Progress(total=256) as progress:
    ...     progress.step(128, loss=2.3)
    ...     progress.line("halfway")
    halfway
    """

    def __init__(self, total: int, done: int = 0, started: float | None = None) -> None:
        self.images, self.seconds = 0, 0.0
        self._started = started
        self._since: float | None = None
        self._bar: Any = require("tqdm").tqdm(
            total=total, initial=done, unit=" images", disable=None, dynamic_ncols=True
        )

    def step(self, images: int, loss: float) -> None:
        """Count a training step."""
        now = time.perf_counter()
        if self._since is not None:
            self.images += images
            self.seconds += now - self._since
        self._since = now
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update(images)
        if self._started is not None:
            self.line(f"First step after {now - self._started:.1f} s")
            self._started = None

    def testing(self, batches: Iterable[Batch], total: int) -> Iterator[Batch]:
        """Yield the batches and show how many of the `total` images were asked for.

        The time from here to the next training step is left out of `seconds`.
        """
        self._since = None
        done = 0
        for batch in batches:
            self._bar.set_postfix_str(f"testing {done}/{total}")
            yield batch
            done += len(batch[0])
        self._bar.set_postfix_str("")

    @property
    def rate(self) -> str:
        """Images a second in words, or nothing where it is not known."""
        return f"{self.images / self.seconds:.0f} images/s, " if self.seconds else ""

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is only noted; a second ends the process.

    Attributes
    ----------
    made : whether there was a signal

    Examples
    --------
    >>> with StopRequest() as stop:
    ...     stop.made
    False
    """

    def __init__(self) -> None:
        self.made = False
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal, and give the next one its default action back."""
        self.made = True
        for caught in self._before:
            signal.signal(caught, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), b"\nStopping after this step; once more stops at once.\n")

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; raise KeyboardInterrupt after one during which a stop was asked for."""
        for item in items:
            yield item
            if self.made:
                raise KeyboardInterrupt

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held at once.

    Examples
    --------
    >>> peak_memory() > 1 << 20
    True
    """
    status = Path("/proc/self/status")
    if status.exists():  # Linux: getrusage would count what the process was forked from
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
