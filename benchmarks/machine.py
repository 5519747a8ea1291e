"""The machine, in words: what a table of timings means nothing without."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("deconv-core", "numpy", "numba", "llvmlite", "torch", "onnxruntime", "openvino", "onnx")


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_gib() -> float | None:
    """Return the machine's memory in GiB, where the system says."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError):
        return None


def packages() -> dict[str, str]:
    """Return the versions of the packages that take part and are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(threads: int) -> dict[str, object]:
    """Return everything about this machine that a reader of the numbers needs."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": memory_gib(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "packages": packages(),
        "settings": {k: v for k, v in os.environ.items() if k.startswith(("NUMBA_", "OMP_"))},
    }
