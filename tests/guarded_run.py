"""Run every public function with its arrays beside protected pages: ``guarded_run.py DTYPE WHERE``.

Results must be those of ordinary arrays, bit for bit. Pooled memory is guarded too.
"""

from __future__ import annotations

import sys

import calls
import guard
import numpy as np

from deconv_core import memory
from deconv_core.cpu import config


def guard_the_pool(where: str) -> None:
    """Let every module of the package take guarded arrays where it takes pooled ones."""
    pooled = memory.empty
    for name, module in list(sys.modules.items()):
        if name.startswith("deconv_core") and getattr(module, "empty", None) is pooled:
            module.empty = lambda shape, dtype=np.float32: guard.empty(shape, dtype, where, 16)
    assert memory.empty is not pooled


def main(dtype: str, where: str) -> None:
    """Run it all; the last line printed before a crash names the culprit."""
    calls.widen(False)  # nor products of matrices,
    calls.register(False)  # nor by matrix registers, or with images innermost
    plain = results(dtype)
    stepped = []
    for _, function, arrays, rest in calls.every_step(dtype):
        function(*arrays, *rest)
        stepped.append([a.tobytes() for a in arrays])
    calls.share_from(0)
    calls.multiply(True)
    multiplied = results(dtype)
    assert multiplied != plain

    calls.widen(True)
    widened = results(dtype)
    assert widened != plain
    calls.widen(False)
    calls.batch(True)
    batched = results(dtype)
    assert batched != plain
    calls.batch(False)
    calls.register(True)
    registered = results(dtype)
    assert (registered != plain) == (config.MATRIX and dtype == "float32")
    calls.register(False)
    calls.tile(True)
    tiled = results(dtype)
    assert tiled != plain
    calls.transform_near(7)
    near = results(dtype)
    assert near != tiled

    guard_the_pool(where)
    check(dtype, where, near, stepped)
    calls.tile(True)
    check(dtype, where, tiled, stepped)
    calls.tile(False)
    calls.multiply(True)
    check(dtype, where, multiplied, stepped)
    calls.widen(True)
    check(dtype, where, widened, stepped)
    calls.widen(False)
    calls.batch(True)
    check(dtype, where, batched, stepped)
    calls.register(True)
    check(dtype, where, registered, stepped)
    calls.register(False)
    for macs in (config.SHARED_MACS, 0):
        calls.share_from(macs)
        check(dtype, where, plain, stepped)
    print("done", flush=True)


def results(dtype: str) -> list[list[bytes]]:
    """Return the bits of every function's results."""
    return [calls.bits(f(*arrays, *rest, **o)) for _, f, arrays, rest, o in calls.every_call(dtype)]


def check(dtype: str, where: str, plain: list[list[bytes]], stepped: list[list[bytes]]) -> None:
    """Run every function on guarded arrays and compare its results with those given."""
    for expected, (name, function, arrays, rest, options) in zip(
        plain, calls.every_call(dtype), strict=True
    ):
        print(name, [a.shape for a in arrays], options, flush=True)
        guarded = [guard.copy(a, where) for a in arrays]
        if (mask := options.get("mask")) is not None:
            options = options | {"mask": guard.copy(mask, where)}
        assert calls.bits(function(*guarded, *rest, **options)) == expected
    for values, (name, function, arrays, rest) in zip(
        stepped, calls.every_step(dtype), strict=True
    ):
        print(name, [a.shape for a in arrays], flush=True)
        guarded = [guard.copy(a, where) for a in arrays]
        function(*guarded, *rest)
        assert [a.tobytes() for a in guarded] == values


if __name__ == "__main__":
    main(*sys.argv[1:])
