"""Kernels called by address or by name: callers that do not hold what they run.

What a loop over `prange` calls, Numba copies into the loop, and optimises and translates again at
each of the four layers around it: for a register tile and all that surrounds it, seconds. So the
large kernels are compiled once, on their own, and the loops get their addresses. What several of
them call, Numba would translate again in each: such kernels are `linked`, called by a name that
is the same in every process, so that callers can be kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, from_dtype, types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from .jit import before_loading


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


_linked: dict[str, tuple[Any, tuple[Any, ...]]] = {}  # by symbol: a kernel and its argument types
_ready: set[str] = set()  # symbols that are known


def linked(arguments: str) -> Callable[[Any], Any]:
    """Return a decorator: a kernel is compiled on its own, and not again in those that call it.

    `arguments` has a letter for each: i for an integer, a for an array of elements, e for an
    element, n for an array of integers. Of an array, the kernel gets the address alone: Numba
    passes seven words, which its caller would store for each call.
    """

    def decorate(kernel: Any) -> Any:
        if config.DISABLE_JIT:
            return kernel
        symbols = {}
        for element in (types.float32, types.float64):
            kinds = {"i": types.int64, "e": element}
            kinds |= {"a": types.CPointer(element), "n": types.CPointer(types.int64)}
            signature = tuple(kinds[letter] for letter in arguments)
            symbols[element] = symbol = f"{kernel.__module__}.{kernel.__name__}.{element}"
            _linked[symbol] = kernel, signature

        def typed(typing: Any, *given: Any) -> tuple[Any, Callable[..., Any]]:
            symbol = symbols[next(kind.dtype for kind in given if hasattr(kind, "dtype"))]
            _, signature = _linked[symbol]
            _link(symbol)

            def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
                convention = context.call_conv
                kind = convention.get_function_type(types.none, signature)
                function = cgutils.get_or_insert_function(builder.module, kind, symbol)
                passed = []
                for value, source, target in zip(
                    cgutils.unpack_tuple(builder, values[0]), given, signature, strict=True
                ):
                    if isinstance(source, types.Array):
                        passed.append(context.make_array(source)(context, builder, value).data)
                    else:
                        passed.append(context.cast(builder, value, source, target))
                convention.call_function(builder, function, types.none, signature, passed)
                return context.get_dummy_value()

            return types.void(types.StarArgTuple(given)), generate

        return intrinsic(typed)

    return decorate


@before_loading
def link(code: bytes) -> None:
    """Make known what `code` of a kernel calls by name: its loader looks for that at once."""
    for symbol in _linked:
        if symbol.encode() in code:
            _link(symbol)


def _link(symbol: str) -> None:
    """Compile a linked kernel, or load it, and make its code known by name."""
    with global_compiler_lock:  # another thread waits for it
        if symbol in _ready:
            return
        kernel, signature = _linked[symbol]
        kernel.compile(signature)
        result = kernel.overloads[signature]
        function = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
        llvm.add_symbol(symbol, function)
        _ready.add(symbol)


def _call(kernel: Callable[..., None], *arguments: Any) -> None:
    """Do in plain Python what `call` does."""
    kernel(*arguments)


if config.DISABLE_JIT:
    call = _call
