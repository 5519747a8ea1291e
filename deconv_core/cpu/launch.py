"""Kernels called by address: a parallel loop that does not hold what it runs.

What a loop over `prange` calls, Numba copies into the loop, and optimises and translates again at
each of the four layers around it: for a register tile and all that surrounds it, seconds. So the
large kernels are compiled once, on their own, and the loops get their addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic


def array(dtype: Any, axes: int = 1) -> Any:
    """Return the type of a contiguous array."""
    return types.Array(from_dtype(np.dtype(dtype)), axes, "C")


@lru_cache(maxsize=128)
def address(kernel: Any, *arguments: Any) -> Any:
    """Compile a kernel for arguments of these types, or load it, and return where its code is."""
    if config.DISABLE_JIT:
        return kernel
    kernel.compile(arguments)
    result = kernel.overloads[arguments]
    return result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)


@intrinsic
def call(typing: Any, address: Any, *arguments: Any) -> tuple[Any, Callable[..., Any]]:
    """Call the kernel at `address`; the arguments must have the types it was compiled for."""
    signature = types.void(address, types.StarArgTuple(arguments))

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        kinds = [context.get_value_type(kind) for kind in arguments]
        function = ir.FunctionType(context.get_value_type(types.none), kinds)
        pointer = builder.inttoptr(values[0], function.as_pointer())
        builder.call(pointer, cgutils.unpack_tuple(builder, values[1]))
        return context.get_dummy_value()

    return signature, generate


def _call(kernel: Callable[..., None], *arguments: Any) -> None:
    """Do in plain Python what `call` does."""
    kernel(*arguments)


if config.DISABLE_JIT:
    call = _call
