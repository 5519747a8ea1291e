"""Tuples of registers: what Numba lacks between arrays and arithmetic, each with a Python twin.

A thread's operands and sums are tuples, which the compiler keeps in registers; a local array with
an index that is not constant would live in (slow) local memory. Each intrinsic emits a few LLVM
instructions. Its twin says the same in Python, checks bounds and alignment, and is what the
simulator runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from .driver import SIMULATED, cuda

INT, LONG, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
SIZE = 4  # bytes of an element


def check(array: Any, index: int, count: int) -> None:
    """Raise where a vector access would leave the array, or be split over two."""
    if index % count or not 0 <= index <= array.size - count:
        raise IndexError(f"{count} elements at {index} of an array of {array.size}")


class _Address:
    """An address of the simulator: `SIZE` bytes after an element's is that of the next."""

    def __init__(self, array: Any, index: int) -> None:
        self.array, self.index = array, index

    def __add__(self, nbytes: int) -> _Address:
        return _Address(self.array, self.index + nbytes // SIZE)


def _load_at(address: _Address) -> Any:
    """Return the element at an address."""
    return _load1(address.array, address.index)


def _load4_at(address: _Address) -> tuple[Any, ...]:
    """Return the four neighbours at an address."""
    return _load4(address.array, address.index)


def _store_at(address: _Address, value: Any) -> None:
    """Write the element at an address."""
    check(address.array, address.index, 1)
    address.array[address.index] = value


def _load1(array: Any, index: int) -> Any:
    """Return an element; `index` must not be negative, which Numba would have to ask."""
    check(array, index, 1)
    return array[index]


def _load4(array: Any, index: int) -> tuple[Any, ...]:
    """Return four neighbours, read at once; `index` must be a multiple of four."""
    check(array, index, 4)
    return tuple(array[index + i] for i in range(4))


def _store4(array: Any, index: int, values: Sequence[Any]) -> None:
    """Write four neighbours at once; `index` must be a multiple of four."""
    check(array, index, 4)
    for i in range(4):
        array[index + i] = values[i]


def _outer(sums: tuple[Any, ...], a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
    """Return ``sums[i][j] + a[i] * b[j]``."""
    return tuple(
        tuple(total + x * y for total, y in zip(row, b, strict=True))
        for row, x in zip(sums, a, strict=True)
    )


def _divided(a: int, b: int) -> tuple[np.int32, np.int32]:
    """Return quotient and remainder of 32-bit numbers that are not negative."""
    quotient, remainder = divmod(int(a), int(b))
    return np.int32(quotient), np.int32(remainder)


def _within(a: int, size: int) -> bool:
    """Return whether ``0 <= a < size``, by one unsigned comparison: `size` is not negative."""
    return bool(int(a) % 2**32 < int(size) % 2**32)


def pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of an element, without Numba's wrap-around of negative indices."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def packed(builder: Any, values: Sequence[Any]) -> Any:
    """Return LLVM values of one type as the value of a Numba tuple."""
    result = ir.Constant(ir.ArrayType(values[0].type, len(values)), ir.Undefined)
    for i, value in enumerate(values):
        result = builder.insert_value(result, value, i)
    return result


def unpacked(builder: Any, value: Any) -> list[Any]:
    """Return the elements of the value of a Numba tuple."""
    return [builder.extract_value(value, i) for i in range(value.type.count)]


def _emit_address(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit the address of an element, as a number."""
    address = pointer(context, builder, signature.args[0], *arguments)
    return builder.ptrtoint(builder.addrspacecast(address, ir.PointerType(FLOAT, 1)), LONG)


def _emit_load_at(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit a load."""
    return builder.load(builder.inttoptr(arguments[0], ir.PointerType(FLOAT, 1)))


def _emit_load4_at(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit a load of 16 bytes."""
    return _four(builder, builder.inttoptr(arguments[0], ir.PointerType(FLOAT, 1)))


def _emit_store_at(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit a store."""
    address, value = arguments
    builder.store(value, builder.inttoptr(address, ir.PointerType(FLOAT, 1)))
    return context.get_dummy_value()


def _emit_load1(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit a load."""
    return builder.load(pointer(context, builder, signature.args[0], *arguments))


def _emit_load4(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit a load of 16 bytes."""
    address = pointer(context, builder, signature.args[0], *arguments)
    return _four(builder, address)


def _four(builder: Any, address: Any) -> Any:
    """Load 16 bytes as the value of a tuple."""
    vector = ir.VectorType(address.type.pointee, 4)
    target = ir.PointerType(vector, address.type.addrspace)
    loaded = builder.load(builder.bitcast(address, target), align=16)
    return packed(builder, [builder.extract_element(loaded, INT(i)) for i in range(4)])


def _emit_store4(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit a store of 16 bytes."""
    array, index, values = arguments
    address = pointer(context, builder, signature.args[0], array, index)
    vector = ir.VectorType(address.type.pointee, 4)
    whole = ir.Constant(vector, ir.Undefined)
    for i, value in enumerate(unpacked(builder, values)):
        whole = builder.insert_element(whole, value, INT(i))
    builder.store(whole, builder.bitcast(address, vector.as_pointer()), align=16)
    return context.get_dummy_value()


def _emit_outer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit one fused multiply-add for each sum."""
    sums, a, b = (unpacked(builder, argument) for argument in arguments)
    rows = [
        [builder.fma(x, y, total) for y, total in zip(b, unpacked(builder, row), strict=True)]
        for x, row in zip(a, sums, strict=True)
    ]
    return packed(builder, [packed(builder, row) for row in rows])


def _emit_divided(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit unsigned divisions of 32 bits, where Numba would make them of 64, and signed."""
    return packed(builder, [builder.udiv(*arguments), builder.urem(*arguments)])


def _emit_within(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit the comparison: as an unsigned number, a negative one is large."""
    return builder.icmp_unsigned("<", *arguments)


if SIMULATED:
    address, load_at, load4_at, store_at = _Address, _load_at, _load4_at, _store_at
    load1, load4, store4, outer = _load1, _load4, _store4, _outer
    divided, within = _divided, _within
else:
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def address(typing, array, index):
        """Declare `_Address`, of an array in global memory."""
        return types.int64(array, types.int64), _emit_address

    @intrinsic
    def load_at(typing, address):
        """Declare `_load_at`."""
        return types.float32(types.int64), _emit_load_at

    @intrinsic
    def load4_at(typing, address):
        """Declare `_load4_at`."""
        return types.UniTuple(types.float32, 4)(types.int64), _emit_load4_at

    @intrinsic
    def store_at(typing, address, value):
        """Declare `_store_at`."""
        return types.void(types.int64, types.float32), _emit_store_at

    @intrinsic
    def load1(typing, array, index):
        """Declare `_load1`."""
        return array.dtype(array, types.int64), _emit_load1

    @intrinsic
    def load4(typing, array, index):
        """Declare `_load4`."""
        return types.UniTuple(array.dtype, 4)(array, types.int64), _emit_load4

    @intrinsic
    def store4(typing, array, index, values):
        """Declare `_store4`."""
        return types.void(array, types.int64, values), _emit_store4

    @intrinsic
    def divided(typing, a, b):
        """Declare `_divided`."""
        return types.UniTuple(types.int32, 2)(types.int32, types.int32), _emit_divided

    @intrinsic
    def within(typing, a, size):
        """Declare `_within`."""
        return types.boolean(types.int32, types.int32), _emit_within

    @intrinsic
    def outer(typing, sums, a, b):
        """Declare `_outer`."""
        return sums(sums, a, b), _emit_outer


def zeros(rows: int, columns: int) -> tuple[tuple[np.float32, ...], ...]:
    """Return the sums that an accumulation starts from."""
    return ((np.float32(0),) * columns,) * rows


@cache
def load_chunks(count: int, step: int) -> Callable[..., Any]:
    """Return a device function that loads `count` chunks of four, `step` elements apart."""
    if count == 1:
        return load4
    rest = load_chunks(count - 1, step)

    @cuda.jit(device=True)
    def load(array, index):
        return load4(array, index) + rest(array, index + step)

    return load


def store_chunks(offsets: Sequence[int]) -> Callable[..., Any]:
    """Return a device function that stores a tuple in chunks of four, at these offsets."""
    offset, last = offsets[-1], 4 * (len(offsets) - 1)
    end = last + 4

    @cuda.jit(device=True)
    def store_last(array, index, values):
        store4(array, index + offset, values[last:end])

    return in_turn([store_chunks(offsets[:-1]), store_last]) if last else store_last


def in_turn(functions: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """Return a device function that calls several, one after the other, with its arguments."""
    if len(functions) == 1:
        return functions[0]
    first, rest = functions[0], in_turn(functions[1:])

    @cuda.jit(device=True)
    def call(*arguments):
        first(*arguments)
        rest(*arguments)

    return call


def gathered(functions: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    """Return a device function that calls several, and returns the tuple of what they return."""
    first = functions[0]

    @cuda.jit(device=True)
    def alone(*arguments):
        return (first(*arguments),)

    if len(functions) == 1:
        return alone
    rest = gathered(functions[1:])

    @cuda.jit(device=True)
    def call(*arguments):
        return alone(*arguments) + rest(*arguments)

    return call


def repeated(step: Callable[..., Any], count: int, stride: int = 1) -> Callable[..., Any]:
    """Return ``step(sums, ..., k)`` run for k = 0, stride, ...: a loop of `count` turns, unrolled.

    Unrolled so that the loads of one turn can run ahead of the arithmetic of another.
    """
    if count == 1:
        return step
    less, last = repeated(step, count - 1, stride), (count - 1) * stride

    @cuda.jit(device=True)
    def run(sums, buffer, a, b, k):
        return step(less(sums, buffer, a, b, k), buffer, a, b, k + last)

    return run
