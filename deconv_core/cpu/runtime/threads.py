"""Numba's threads, which run a compiled function for each index of a range.

Numba's own loops over `prange` end here too, but are compiled three times over on the way: a
function around each, and one around that, take half a second to compile, for a loop that calls one
kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.np.ufunc.parallel import _launch_threads as start_threads

PARALLEL_FOR = "numba_parallel_for"  # the symbol of what runs a function on all threads
_BOOL, _I8, _INDEX = ir.IntType(1), ir.IntType(8), ir.IntType(64)
_POINTER = _I8.as_pointer()
_FUNCTION = ir.FunctionType(
    ir.VoidType(), [_POINTER.as_pointer(), _INDEX.as_pointer(), _INDEX.as_pointer(), _POINTER]
)

__all__ = ["PARALLEL_FOR", "emit_parallel_for", "start_threads"]


def emit_parallel_for(
    builder: Any, count: Any, values: list[Any], emit: Callable[[Any, Any, list[Any]], Any]
) -> Any:
    """Run what ``emit(builder, index, values)`` emits for each index below `count`, in parallel.

    That returns whether it failed, and so does this: whether any has. The threads are handed
    `values` through memory; a single index stays on the calling thread.
    """
    start_threads()
    module, false = builder.module, ir.Constant(_BOOL, 0)
    shared = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [false, *values]))
    body = ir.Function(module, _FUNCTION, module.get_unique_name("for_each"))
    body.linkage = "internal"
    inner = ir.IRBuilder(body.append_basic_block())
    first, number, _, data = body.args
    begin = inner.ptrtoint(inner.load(first), _INDEX)
    taken = inner.bitcast(data, shared.type)
    fields = [inner.load(cgutils.gep_inbounds(inner, taken, 0, n + 1)) for n in range(len(values))]
    with cgutils.for_range(inner, inner.load(number)) as loop:
        with cgutils.if_unlikely(inner, emit(inner, inner.add(begin, loop.index), fields)):
            inner.store(ir.Constant(_BOOL, 1), cgutils.gep_inbounds(inner, taken, 0, 0))
    inner.ret_void()

    one, none = ir.Constant(_INDEX, 1), ir.Constant(_INDEX, 0)
    failed = cgutils.gep_inbounds(builder, shared, 0, 0)
    with builder.if_else(builder.icmp_signed(">", count, one)) as (parallel, alone):
        with parallel:
            kind = ir.FunctionType(_INDEX, [])
            threads = cgutils.get_or_insert_function(module, kind, "get_num_threads")
            # Each thread's share begins at an "address" of one byte an index, from 0 on.
            begins = cgutils.alloca_once_value(builder, ir.Constant(_POINTER, None))
            counts, steps = (cgutils.alloca_once_value(builder, n) for n in (count, one))
            kind = ir.FunctionType(ir.VoidType(), [_POINTER] * 5 + [_INDEX] * 3)
            run = cgutils.get_or_insert_function(module, kind, PARALLEL_FOR)
            places = (builder.bitcast(p, _POINTER) for p in (body, begins, counts, steps, shared))
            builder.call(run, [*places, none, one, builder.call(threads, [])])
        with alone, builder.if_then(builder.icmp_signed("==", count, one)):
            builder.store(emit(builder, none, values), failed)
    return builder.load(failed)
