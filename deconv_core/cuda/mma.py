"""Tensor cores and asynchronous copies: inline PTX, each instruction with a Python twin.

``mma.sync.m16n8k8`` multiplies, by the 32 lanes of a warp together, a 16 x 8 by an 8 x 8 matrix.
Lane ``4 * g + t`` holds, of the fragments, ::

    A (row, k): (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4)      B (k, column): (t, g) (t + 4, g)
    C (row, column): (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)

``cp.async`` copies from global to shared memory without registers, and without waiting: copies are
closed into groups by `commit`, and `wait(n)` waits until at most the last n groups are on the way.
The twins of the simulator copy as late as that allows, so that a missing wait shows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from .driver import SIMULATED, cuda
from .registers import FLOAT, INT, load4, packed, pointer, store4, unpacked

LANES = 32
HALF, MASK = np.uint32(1 << 12), np.uint32(0xFFFFE000)  # of a float32's last place in TF32
ZEROS = (np.float32(0),) * 4
MMA = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
_MMA_CODE = MMA + " {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$0,$1,$2,$3};"
_COPY_CODE = {
    1: "cp.async.ca.shared.global [$0], [$1], 4, $2;",
    4: "cp.async.cg.shared.global [$0], [$1], 16, $2;",
}

# ---- twins ----------------------------------------------------------------------------------

_copies = threading.local()  # of one simulated thread: groups that are closed, and the open one


def _groups() -> list[list[Callable[[], None]]]:
    """Return this thread's groups of copies; the last is open."""
    if not hasattr(_copies, "groups"):
        _copies.groups = [[]]
    return _copies.groups


def _later(count: int) -> Callable[..., None]:
    """Return the twin of an asynchronous copy of `count` elements: zeros where not `inside`."""

    def copy(target: Any, at: int, source: Any, start: int, inside: bool) -> None:
        ends = ((target, at), (source, start)) if inside else ((target, at),)
        for array, index in ends:
            if index % count or not 0 <= index <= array.size - count:
                raise IndexError(f"{count} elements at {index} of an array of {array.size}")

        def work() -> None:
            for i in range(count):
                target[at + i] = source[start + i] if inside else 0

        _groups()[-1].append(work)

    return copy


def _commit() -> None:
    """Close the group of copies."""
    _groups().append([])


def _wait(groups: int) -> None:
    """Do the copies of all closed groups but the last `groups`."""
    waiting = _groups()
    while len(waiting) > groups + 1:
        for work in waiting.pop(0):
            work()


def _to_tf32(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Round to TF32's 10 bits of mantissa, to nearest with ties away from zero."""
    bits = np.array(values, np.float32).view(np.uint32)
    rounded = np.where(np.isfinite(values), (bits + HALF) & MASK, bits)
    return tuple(rounded.view(np.float32))


def _split(values: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return two TF32 numbers for each element, big and small, whose sum is it, nearly.

    Big is rounded to nearest, small towards zero: the error is below 2**-22 of the element.
    """
    bits = np.array(values, np.float32).view(np.uint32)
    big = ((bits + HALF) & MASK).view(np.float32)
    rest = np.array(values, np.float32) - big
    return tuple(big), tuple((rest.view(np.uint32) & MASK).view(np.float32))


def _places(columns: int) -> list[tuple[int, int]]:
    """Return where the two columns of each product's C lie in a lane's row of sums."""
    width = min(4, columns // 2)
    firsts = [j // width * 2 * width + j % width for j in range(columns // 2)]
    return [(first, first + width) for first in firsts]


@cuda.jit(device=True)
def _mma(sums, a, b):
    """Add the products of a grid of fragments to a lane's `sums`; all lanes of the block call it.

    The elements of `a` are k = t of each of the lane's rows, then k = t + 4; those of `b` likewise
    of its columns. Rows 2i and 2i + 1 of the lane are rows g and g + 8 of product i. Its sums in a
    row come four products at a time: their columns 2t, then their columns 2t + 1.
    """
    thread = cuda.threadIdx.x
    warp, lane = thread // LANES, thread % LANES
    all_a = cuda.shared.array((LANES, LANES, len(a)), np.float64)
    all_b = cuda.shared.array((LANES, LANES, len(b)), np.float64)
    all_a[warp, lane], all_b[warp, lane] = a, b
    cuda.syncthreads()
    g, t = lane // 4, lane % 4
    left = all_a[warp].reshape(8, 4, 2, -1)[g].transpose(2, 1, 0).reshape(-1, 8)
    right = all_b[warp].reshape(8, 4, 2, -1)[2 * t : 2 * t + 2].transpose(2, 1, 3, 0).reshape(8, -1)
    cuda.syncthreads()
    result = np.array(sums, np.float32)
    result[:, np.ravel(_places(len(sums[0])))] += (left @ right).astype(np.float32)
    return tuple(map(tuple, result))


# ---- instructions ---------------------------------------------------------------------------


def _assembly(builder: Any, result: Any, code: str, constraints: str, *values: Any) -> Any:
    """Emit inline PTX with side effects: it is neither moved past memory accesses nor dropped."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(ir.InlineAsm(kind, code, constraints, side_effect=True), values)


def _emit_copy(count: int) -> Callable[..., Any]:
    """Return the generator of ``cp.async``, which reads no bytes where not `inside`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, at, source, start, inside = arguments
        shared = pointer(context, builder, signature.args[0], target, at)
        shared = builder.addrspacecast(shared, ir.PointerType(FLOAT, 3))
        source = pointer(context, builder, signature.args[2], source, start)
        _assembly(
            builder, ir.VoidType(), _COPY_CODE[count], "r,l,r,~{memory}",
            builder.ptrtoint(shared, INT), builder.ptrtoint(source, ir.IntType(64)),
            builder.select(inside, INT(4 * count), INT(0)),
        )  # fmt: skip
        return context.get_dummy_value()

    return emit


def _emit_commit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit ``cp.async.commit_group``."""
    _assembly(builder, ir.VoidType(), "cp.async.commit_group;", "~{memory}")
    return context.get_dummy_value()


def _emit_to_tf32(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit ``cvt.rna.tf32`` for each element."""
    kind = ir.FunctionType(INT, [FLOAT])
    convert = ir.InlineAsm(kind, "cvt.rna.tf32.f32 $0, $1;", "=r,f")
    return packed(builder, [
        builder.bitcast(builder.call(convert, [value]), FLOAT)
        for value in unpacked(builder, arguments[0])
    ])  # fmt: skip


def _emit_split(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit four instructions for each element, where two ``cvt.rna`` would become nine."""
    bigs, smalls = [], []
    for value in unpacked(builder, arguments[0]):
        rounded = builder.add(builder.bitcast(value, INT), INT(int(HALF)))
        big = builder.bitcast(builder.and_(rounded, INT(int(MASK))), FLOAT)
        rest = builder.bitcast(builder.fsub(value, big), INT)
        bigs.append(big)
        smalls.append(builder.bitcast(builder.and_(rest, INT(int(MASK))), FLOAT))
    return packed(builder, [packed(builder, bigs), packed(builder, smalls)])


def _emit_mma(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit one ``mma.sync`` for each product."""
    rows = [unpacked(builder, row) for row in unpacked(builder, arguments[0])]
    a, b = (
        [builder.bitcast(value, INT) for value in unpacked(builder, argument)]
        for argument in arguments[1:]
    )
    result = ir.LiteralStructType([FLOAT] * 4)
    for i in range(0, len(rows), 2):
        for j, (first, second) in enumerate(_places(len(rows[0]))):
            fragments = *a[i : i + 2], *a[len(rows) + i :][:2], b[j], b[len(b) // 2 + j]
            sums = [rows[i + half][place] for half in (0, 1) for place in (first, second)]
            product = _assembly(
                builder, result, _MMA_CODE, "=f,=f,=f,=f,r,r,r,r,r,r,0,1,2,3", *fragments, *sums
            )
            for n in range(4):
                rows[i + n // 2][(first, second)[n % 2]] = builder.extract_value(product, n)
    return packed(builder, [packed(builder, row) for row in rows])


if SIMULATED:
    copy1, copy4, commit = _later(1), _later(4), _commit
    to_tf32, split, mma = _to_tf32, _split, _mma
else:
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    @intrinsic
    def copy1(typing, target, at, source, start, inside):
        """Declare the asynchronous copy of one element."""
        return types.void(target, types.int64, source, types.int32, types.boolean), _emit_copy(1)

    @intrinsic
    def copy4(typing, target, at, source, start, inside):
        """Declare the asynchronous copy of four elements."""
        return types.void(target, types.int64, source, types.int32, types.boolean), _emit_copy(4)

    @intrinsic
    def commit(typing):
        """Declare `_commit`."""
        return types.void(), _emit_commit

    @intrinsic
    def to_tf32(typing, values):
        """Declare `_to_tf32`."""
        return values(values), _emit_to_tf32

    @intrinsic
    def split(typing, values):
        """Declare `_split`."""
        return types.UniTuple(values, 2)(values), _emit_split

    @intrinsic
    def mma(typing, sums, a, b):
        """Declare `_mma`."""
        return sums(sums, a, b), _emit_mma


def waiting(groups: int) -> Callable[[], None]:
    """Return the device function that waits until at most `groups` groups are on the way."""
    if SIMULATED:
        return lambda: _wait(groups)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _assembly(builder, ir.VoidType(), f"cp.async.wait_group {groups};", "~{memory}")
        return context.get_dummy_value()

    @intrinsic
    def wait(typing):
        """Declare `_wait`."""
        return types.void(), emit

    return wait


@cuda.jit(device=True)
def plain_copy1(target, at, source, start, inside):
    """Copy one element by way of a register, on GPUs without ``cp.async``."""
    value = np.float32(0)
    if inside:
        value = source[np.uint32(start)]
    target[np.uint32(at)] = value


@cuda.jit(device=True)
def plain_copy4(target, at, source, start, inside):
    """Copy four elements by way of registers."""
    value = ZEROS
    if inside:
        value = load4(source, start)
    store4(target, at, value)


def copies(waits: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the copies of one and of four elements; `waits`: the asynchronous ones."""
    return (copy1, copy4) if waits else (plain_copy1, plain_copy4)
