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

PARALLEL_FOR = "numba_parallel_for"  # of the threading layer, and so known by name
_I8, _INDEX = ir.IntType(8), ir.IntType(64)
_POINTER = _I8.as_pointer()
_FUNCTION = ir.FunctionType(
    ir.VoidType(), [_POINTER.as_pointer(), _INDEX.as_pointer(), _INDEX.as_pointer(), _POINTER]
)

__all__ = ["PARALLEL_FOR", "emit_parallel_for", "start_threads"]


def emit_parallel_for(
    builder: Any, count: Any, values: list[Any], emit: Callable[[Any, Any, list[Any]], None]
) -> None:
    """Run what ``emit(builder, index, values)`` emits for each index below `count`, in parallel.

    The threads are handed `values` through memory; a single index stays on the calling thread.
    """
    start_threads()
    module = builder.module
    shared = cgutils.pack_struct(builder, values)
    place = cgutils.alloca_once_value(builder, shared)
    body = ir.Function(module, _FUNCTION, module.get_unique_name("for_each"))
    body.linkage = "internal"
    inner = ir.IRBuilder(body.append_basic_block())
    begins, counts, _, data = body.args
    begin = inner.ptrtoint(inner.load(begins), _INDEX)
    taken = inner.bitcast(data, place.type)
    fields = [inner.load(cgutils.gep_inbounds(inner, taken, 0, n)) for n in range(len(values))]
    with cgutils.for_range(inner, inner.load(counts)) as loop:
        emit(inner, inner.add(begin, loop.index), fields)
    inner.ret_void()

    one, none = ir.Constant(_INDEX, 1), ir.Constant(_INDEX, 0)
    several = builder.icmp_signed(">", count, one)
    with builder.if_else(several) as (parallel, alone):
        with parallel:
            kind = ir.FunctionType(_INDEX, [])
            threads = cgutils.get_or_insert_function(module, kind, "get_num_threads")
            # Each thread's share begins at an "address" of one byte an index, from 0 on.
            first = cgutils.alloca_once_value(builder, ir.Constant(_POINTER, None))
            counts, steps = (cgutils.alloca_once_value(builder, n) for n in (count, one))
            kind = ir.FunctionType(ir.VoidType(), [_POINTER] * 5 + [_INDEX] * 3)
            run = cgutils.get_or_insert_function(module, kind, PARALLEL_FOR)
            places = (builder.bitcast(p, _POINTER) for p in (body, first, counts, steps, place))
            builder.call(run, [*places, none, one, builder.call(threads, [])])
        with alone, builder.if_then(builder.icmp_signed("==", count, one)):
            emit(builder, none, values)
