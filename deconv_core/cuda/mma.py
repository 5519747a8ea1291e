"""Tensor cores and asynchronous copies: inline PTX, each instruction with a Python twin.

``mma.sync.m16n8k8`` multiplies, by the 32 lanes of a warp together, a 16 x 8 by an 8 x 8 matrix.
Lane ``4 * g + t`` holds, of the fragments, ::

    A (row, k): (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4)      B (k, column): (t, g) (t + 4, g)
    C (row, column): (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)

Of its operands it reads the bits that a TF32 number has and ignores the other 13: ptxas drops what
clears them, so nothing here does. What it adds it rounds towards zero: over a long sum that error
grows as the number of terms, not as its root. So where float32's accuracy is asked for, `mma3` adds
eight terms by tensor cores and the rest in float32 (Ootomo and Yokota, "Recovering single precision
accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", 2022).

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
from .registers import (
    FLOAT,
    INT,
    SIZE,
    check,
    in_turn,
    load4_at,
    load_at,
    packed,
    store4,
    unpacked,
)

LANES = 32
HALF, MASK = np.uint32(1 << 12), np.uint32(0xFFFFE000)  # of a float32's last place in TF32
ZEROS = (np.float32(0),) * 4
MMA = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
_MMA_CODE = MMA + " {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$0,$1,$2,$3};"
_MMA_OPERANDS = "=f,=f,=f,=f,r,r,r,r,r,r,0,1,2,3"  # C is where it was
_CACHED = {1: "ca", 4: "cg"}  # how, by the elements of a copy: 16 bytes need not lie in L1

# ---- twins ----------------------------------------------------------------------------------

_copies = threading.local()  # of one simulated thread: groups that are closed, and the open one


def _groups() -> list[list[Callable[[], None]]]:
    """Return this thread's groups of copies; the last is open."""
    if not hasattr(_copies, "groups"):
        _copies.groups = [[]]
    return _copies.groups


def _later(count: int, each: int, pitch: int) -> Callable[..., None]:
    """Return the twin of a column of asynchronous copies."""

    def copy(target: Any, at: int, source: Any, step: int, left: int) -> None:
        for i in range(count):
            to, inside, piece = at + i * pitch, i < left, source + i * step
            check(target, to, each)
            if inside:
                check(piece.array, piece.index, each)

            def work(to: int = to, inside: bool = inside, piece: Any = piece) -> None:
                for n in range(each):
                    target[to + n] = piece.array[piece.index + n] if inside else 0

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
    """Return two numbers for each element, big and small, whose sum in TF32 is it, nearly.

    As TF32 numbers, without their last 13 bits, big is the element rounded to nearest, and small is
    the rest rounded towards zero: the error is below 2**-22 of the element.
    """
    big = (np.array(values, np.float32).view(np.uint32) + HALF).view(np.float32)
    return tuple(big), tuple(np.array(values, np.float32) - _truncated(big))


def _truncated(values: np.ndarray) -> np.ndarray:
    """Return what tensor cores read of float32 numbers."""
    return (values.view(np.uint32) & MASK).view(np.float32)


def _towards_zero(values: np.ndarray) -> np.ndarray:
    """Return float64 numbers as float32, rounded as tensor cores round their sums."""
    nearest = values.astype(np.float32)
    return np.where(abs(nearest) > abs(values), np.nextafter(nearest, np.float32(0)), nearest)


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
    all_a[warp, lane], all_b[warp, lane] = (_truncated(np.array(x, np.float32)) for x in (a, b))
    cuda.syncthreads()
    g, t = lane // 4, lane % 4
    left = all_a[warp].reshape(8, 4, 2, -1)[g].transpose(2, 1, 0).reshape(-1, 8)
    right = all_b[warp].reshape(8, 4, 2, -1)[2 * t : 2 * t + 2].transpose(2, 1, 3, 0).reshape(8, -1)
    cuda.syncthreads()
    result = np.array(sums, np.float64)
    result[:, np.ravel(_places(len(sums[0])))] += left @ right
    return tuple(map(tuple, _towards_zero(result)))


@cuda.jit(device=True)
def _mma3(sums, big_a, small_a, big_b, small_b):
    """Add to `sums` what ``(big_a + small_a) * (big_b + small_b)`` is but for the smalls' product.

    As in `_mma`, but the three products of a fragment are added up first, from the smallest on, and
    then to the sums, rounded to nearest.
    """
    zeros = tuple((np.float32(0),) * len(row) for row in sums)
    total = _mma(_mma(_mma(zeros, small_a, big_b), big_a, small_b), big_a, big_b)
    return tuple(map(tuple, np.array(sums, np.float32) + np.array(total, np.float32)))


# ---- instructions ---------------------------------------------------------------------------


def _assembly(builder: Any, result: Any, code: str, constraints: str, *values: Any) -> Any:
    """Emit inline PTX with side effects: it is neither moved past memory accesses nor dropped."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(ir.InlineAsm(kind, code, constraints, side_effect=True), values)


def _emit_copies(count: int, each: int, pitch: int) -> Callable[..., Any]:
    """Return the generator of a column of ``cp.async``, which read no bytes from `left` on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, at, source, step, left = arguments
        array = context.make_array(signature.args[0])(context, builder, target).data
        shared = builder.ptrtoint(builder.addrspacecast(array, ir.PointerType(FLOAT, 3)), INT)
        shared = builder.add(shared, builder.mul(at, INT(SIZE)))
        for i in range(count):
            code = f"cp.async.{_CACHED[each]}.shared.global "
            code += f"[$0+{SIZE * i * pitch}], [$1], {SIZE * each}, $2;"
            read = builder.icmp_signed("<", INT(i), left)
            size = builder.select(read, INT(SIZE * each), INT(0))
            _assembly(builder, ir.VoidType(), code, "r,l,r,~{memory}", shared, source, size)
            source = builder.add(source, step)
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
    """Emit three instructions for each element, where two ``cvt.rna`` would become nine."""
    bigs, smalls = [], []
    for value in unpacked(builder, arguments[0]):
        big = builder.add(builder.bitcast(value, INT), INT(int(HALF)))
        truncated = builder.bitcast(builder.and_(big, INT(int(MASK))), FLOAT)
        bigs.append(builder.bitcast(big, FLOAT))
        smalls.append(builder.fsub(value, truncated))
    return packed(builder, [packed(builder, bigs), packed(builder, smalls)])


def _multiplied(builder: Any, sums: Any, pairs: list[tuple[Any, Any]], apart: bool) -> Any:
    """Emit ``mma.sync`` for each fragment and pair of operands, one after another.

    Parameters
    ----------
    apart : whether a fragment's products are added up from zero, and then to its sums in float32
    """
    rows = [unpacked(builder, row) for row in unpacked(builder, sums)]
    factors = [
        [[builder.bitcast(value, INT) for value in unpacked(builder, side)] for side in pair]
        for pair in pairs
    ]
    result = ir.LiteralStructType([FLOAT] * 4)
    for i in range(0, len(rows), 2):
        for j, (first, second) in enumerate(_places(len(rows[0]))):
            places = [(i + half, place) for half in (0, 1) for place in (first, second)]
            before = [rows[row][place] for row, place in places]
            total = [FLOAT(0)] * 4 if apart else before
            for a, b in factors:
                fragments = *a[i : i + 2], *a[len(rows) + i :][:2], b[j], b[len(b) // 2 + j]
                operands = *fragments, *total
                product = _assembly(builder, result, _MMA_CODE, _MMA_OPERANDS, *operands)
                total = [builder.extract_value(product, n) for n in range(4)]
            for (row, place), old, new in zip(places, before, total, strict=True):
                rows[row][place] = builder.fadd(old, new) if apart else new
    return packed(builder, [packed(builder, row) for row in rows])


def _emit_mma(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit one ``mma.sync`` for each product."""
    sums, a, b = arguments
    return _multiplied(builder, sums, [(a, b)], apart=False)


def _emit_mma3(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit three for each product, and four additions."""
    sums, big_a, small_a, big_b, small_b = arguments
    pairs = [(small_a, big_b), (big_a, small_b), (big_a, big_b)]
    return _multiplied(builder, sums, pairs, apart=True)


if SIMULATED:
    commit, to_tf32, split, mma, mma3 = _commit, _to_tf32, _split, _mma, _mma3
else:
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

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

    @intrinsic
    def mma3(typing, sums, big_a, small_a, big_b, small_b):
        """Declare `_mma3`."""
        return sums(sums, big_a, small_a, big_b, small_b), _emit_mma3


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


def copies(count: int, each: int, pitch: int, waits: bool) -> Callable[..., None]:
    """Return the device function that copies a column of `count` pieces to shared memory.

    ``copy(target, at, source, step, left)`` copies `each` (one or four) elements `count` times:
    from the address `source` and `step` bytes on, to ``target[at]`` and `pitch` elements on. Of
    pieces from the `left`-th on nothing is read: they are zeros.

    Parameters
    ----------
    waits : whether asynchronously, or by way of registers: older GPUs have no ``cp.async``
    """
    if not waits:
        return in_turn([_plain_copy(i, each, pitch) for i in range(count)])
    if SIMULATED:
        return _later(count, each, pitch)

    @intrinsic
    def copy(typing, target, at, source, step, left):
        """Declare the copies."""
        kinds = target, types.int32, types.int64, types.int64, types.int32
        return types.void(*kinds), _emit_copies(count, each, pitch)

    return copy


def _plain_copy(i: int, each: int, pitch: int) -> Callable[..., None]:
    """Return the device function for the `i`-th of a column of copies, by way of registers."""

    @cuda.jit(device=True)
    def copy1(target, at, source, step, left):
        value = ZEROS[0]
        if i < left:
            value = load_at(source + i * step)
        target[np.uint32(at + i * pitch)] = value

    @cuda.jit(device=True)
    def copy4(target, at, source, step, left):
        value = ZEROS
        if i < left:
            value = load4_at(source + i * step)
        store4(target, at + i * pitch, value)

    return copy1 if each == 1 else copy4
