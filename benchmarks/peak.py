"""Measure the machine's peak: how many float32 multiply-adds a second, on one core and on several.

    python benchmarks/peak.py --threads 2

A loop of nothing but multiply-adds on registers, in as many independent chains as hide their
latency. No kernel can run faster, so a kernel's share of it says how much there is left to gain.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from deconv_core.cpu.config import MACHINE

WIDTH = MACHINE.vector_bytes // 4
CHAINS = 12  # a latency of 4 cycles and 2 a cycle need 8; the registers of AVX2 hold 14 or so
ROUNDS = 1 << 20
FLOPS = 2 * WIDTH * CHAINS * ROUNDS


@intrinsic
def _chains(typing: Any, rounds: Any, factor: Any) -> tuple[Any, Callable[..., Any]]:
    """Emit ``total = total * factor + factor``, `rounds` times on each of `CHAINS` vectors."""

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        count, scalar = values
        vector = ir.VectorType(ir.FloatType(), WIDTH)
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{WIDTH}f32"
        )
        factors = ir.Constant(vector, ir.Undefined)
        for i in range(WIDTH):
            factors = builder.insert_element(factors, scalar, ir.Constant(ir.IntType(32), i))
        # Chains that start alike would be one chain to the compiler.
        starts = [ir.Constant(vector, [float(chain)] * WIDTH) for chain in range(CHAINS)]
        totals = [cgutils.alloca_once_value(builder, start) for start in starts]
        with cgutils.for_range(builder, count):
            for total in totals:
                builder.store(builder.call(fma, [builder.load(total), factors, factors]), total)
        result = builder.load(totals[0])
        for total in totals[1:]:
            result = builder.fadd(result, builder.load(total))
        return builder.extract_element(result, ir.Constant(ir.IntType(32), 0))

    return types.float32(rounds, factor), generate


@numba.njit(nogil=True)
def _loop(rounds, factor):  # type: ignore[no-untyped-def]
    return _chains(rounds, factor)


def _seconds(barrier: threading.Barrier) -> float:
    """Run the loop once, when all threads are there, and return its seconds."""
    barrier.wait()
    start = time.perf_counter()
    _loop(ROUNDS, numba.float32(0.5))
    return time.perf_counter() - start


def measure(threads: int, repeats: int = 12) -> float:
    """Return the best GFLOP/s of `threads` threads together."""
    _loop(1, numba.float32(0.5))
    barrier = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        turns = [list(pool.map(_seconds, [barrier] * threads)) for _ in range(repeats)]
    return threads * FLOPS / min(max(turn) for turn in turns) / 1e9


def main() -> None:
    """Print the peak of one thread and of several, as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    threads = parser.parse_args().threads
    print(json.dumps({str(n): round(measure(n), 1) for n in sorted({1, threads})}))


if __name__ == "__main__":
    main()
