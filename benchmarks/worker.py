"""A process that runs one side's calls when it is told to; both ends of the pipe to it.

Each side has processes of its own: its threads, its allocator and its caches are then the ones that
its users get, and an environment that must be set before Python starts can be set.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Call = Callable[[], Any]


class Worker:
    """The end that asks.

    Parameters
    ----------
    threads : how many threads the side may use
    environment : variables to set before Python starts
    """

    def __init__(self, threads: int, environment: Mapping[str, str] | None = None) -> None:
        counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | counts | dict(environment or {}),
        )
        self.threads = threads

    def ask(self, name: str, *arguments: Any) -> Any:
        """Have the worker run one of its commands and return the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"in a worker: {answer['error']}")
        return answer["value"]

    def prepare(self, name: str, target: str, case: Path, options: Mapping[str, Any]) -> None:
        """Build a call, ``module:function`` of the case and the options, and name it."""
        self.ask("prepare", name, target, str(case), {"threads": self.threads, **options})

    def result(self, name: str, path: Path) -> np.ndarray:
        """Return what the call of that name returns; it travels in the file `path`."""
        self.ask("result", name, str(path))
        return np.load(path)

    def seconds(self, name: str, calls: int, untimed: int = 0) -> list[float]:
        """Return the seconds of each of `calls` calls, made after some that are not timed."""
        return self.ask("seconds", name, calls, untimed)

    def peak_mib(self) -> float:
        """Return the most resident memory that the process has had so far."""
        return self.ask("peak_mib")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class _Commands:
    """The end that answers: one method for each command."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}

    def prepare(self, name: str, target: str, case: str, options: dict[str, Any]) -> None:
        """Build a call in place of the earlier one of that name."""
        self.calls.pop(name, None)
        module, _, function = target.partition(":")
        build = getattr(importlib.import_module(module), function)
        self.calls[name] = build(dict(np.load(case)), **options)

    def result(self, name: str, path: str) -> None:
        """Save what a call returns."""
        np.save(path, np.asarray(self.calls[name]()))

    def seconds(self, name: str, calls: int, untimed: int) -> list[float]:
        """Time a call; what it returns is dropped within its own time, as in a user's loop."""
        call, clock, times = self.calls[name], time.perf_counter, []
        for _ in range(untimed):
            call()
        for _ in range(calls):
            start = clock()
            call()
            times.append(clock() - start)
        return times

    def peak_mib(self) -> float:
        """Return the process's peak resident memory."""
        import resource

        unit = 1 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _serve(questions: TextIO, answers: TextIO) -> None:
    """Answer until there are no more questions."""
    commands = _Commands()
    for line in questions:
        name, *arguments = json.loads(line)
        try:
            answer = {"value": getattr(commands, name)(*arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    # What libraries print must not get among the answers.
    with os.fdopen(os.dup(1), "w") as private:
        os.dup2(2, 1)
        _serve(sys.stdin, private)
