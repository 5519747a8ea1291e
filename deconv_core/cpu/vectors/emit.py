"""Vector instructions for Numba kernels: what the tiles and the row movers are written in."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..config import LINE, MACHINE

INDEX = ir.IntType(64)
I32 = ir.IntType(32)


class Emitter:
    """Vector instructions for one element type."""

    def __init__(self, context: Any, builder: Any, element: Any) -> None:
        self.context, self.builder = context, builder
        self.size = element.bitwidth // 8
        self.width = MACHINE.vector_bytes // self.size
        self.vector = ir.VectorType(context.get_value_type(element), self.width)
        self.zero = self.constant(0.0)
        self.fma = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(self.vector, [self.vector] * 3),
            f"llvm.fmuladd.v{self.width}f{element.bitwidth}",
        )

    def pointer(self, array_type: Any, array: Any, offset: Any) -> Any:
        """Return the address of element `offset` of an array argument, or of one's address."""
        if isinstance(array_type, types.Array):
            array = self.context.make_array(array_type)(self.context, self.builder, array).data
        return self.step(array, offset)

    def step(self, pointer: Any, offset: Any) -> Any:
        """Return `pointer` moved by `offset` elements."""
        if isinstance(offset, int):
            offset = ir.Constant(INDEX, offset)
        return self.builder.gep(pointer, [offset])

    def alias(self, pointer: Any) -> Any:
        """Return `pointer` as another one to LLVM, so that what is loaded there is loaded again.

        A load with a single use becomes a part of the instruction that uses it. The assembly is
        empty; as it is not declared free of side effects on memory, two of them are never merged.
        """
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return self.builder.call(ir.InlineAsm(kind, "", "=r,0"), [pointer])

    def load(self, pointer: Any) -> Any:
        """Load a vector, however aligned."""
        address = self.builder.bitcast(pointer, self.vector.as_pointer())
        return self.builder.load(address, align=self.size)

    def load_part(self, pointer: Any) -> Any:
        """Load 128 bits, however aligned."""
        part = ir.VectorType(self.vector.element, 16 // self.size)
        return self.builder.load(self.builder.bitcast(pointer, part.as_pointer()), align=self.size)

    def store(self, value: Any, pointer: Any) -> None:
        """Store a vector, however aligned."""
        address = self.builder.bitcast(pointer, self.vector.as_pointer())
        self.builder.store(value, address, align=self.size)

    def prefetch(self, pointer: Any) -> None:
        """Bring the cache line at `pointer` into the nearest cache, if there is one."""
        address = self.builder.bitcast(pointer, ir.IntType(8).as_pointer())
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(ir.VoidType(), [address.type, I32, I32, I32]),
            "llvm.prefetch.p0",
        )
        self.builder.call(function, [address] + [ir.Constant(I32, n) for n in (0, 3, 1)])

    def prefetch_lines(self, pointer: Any, count: int) -> None:
        """Bring the cache lines of `count` elements near, if the first one begins a line."""
        for element in range(0, count, LINE // self.size):
            self.prefetch(self.step(pointer, element))

    def broadcast(self, scalar: Any) -> Any:
        """Return a vector of copies of `scalar`, of whatever type."""
        undefined = ir.Constant(ir.VectorType(scalar.type, self.width), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.shuffle(first, undefined, [0] * self.width)

    def shuffle(self, x: Any, y: Any, mask: list[int]) -> Any:
        """Return the elements of x and y, taken as one list, that `mask` names."""
        mask_type = ir.VectorType(I32, len(mask))
        return self.builder.shuffle_vector(x, y, ir.Constant(mask_type, mask))

    def pick(self, vectors: list[Any], wanted: list[int]) -> Any:
        """Return a vector of the elements that `wanted` names in `vectors`, taken as one list."""
        numbers = sorted({n // self.width for n in wanted})
        result, at = vectors[numbers[0]], [n % self.width for n in wanted]
        for number in numbers[1:] or numbers:
            mask = [
                self.width + n % self.width if n // self.width == number else place
                for n, place in zip(wanted, at, strict=True)
            ]
            result, at = self.shuffle(result, vectors[number], mask), list(range(self.width))
        return result

    def at_least_one(self, value: Any) -> Any:
        """Return an index, or one if it is less."""
        one = ir.Constant(INDEX, 1)
        return self.builder.select(self.builder.icmp_signed("<", value, one), one, value)

    def accumulators(self, rows: int, columns: int) -> list[list[Any]]:
        """Return zeroed accumulators; LLVM keeps them in registers."""
        return [
            [cgutils.alloca_once_value(self.builder, self.zero) for _ in range(columns)]
            for _ in range(rows)
        ]

    def multiply_add(self, a: Any, b: Any, accumulator: Any) -> None:
        """Add a * b to an accumulator."""
        total = self.builder.call(self.fma, [a, b, self.builder.load(accumulator)])
        self.builder.store(total, accumulator)

    def multiply_add_before(self, a: Any, b: Any, accumulator: Any, first: Any, end: Any) -> None:
        """Add a * b to the elements i of an accumulator with ``first + i < end``."""
        before = self.builder.load(accumulator)
        total = self.builder.call(self.fma, [a, b, before])
        mask = self._masked(first, end)
        self.builder.store(self.builder.select(mask, total, before), accumulator)

    def sums(self, vectors: list[Any]) -> Any:
        """Return a vector whose element i is the sum of the elements of ``vectors[i]``.

        A tree: each level halves both the vectors and the elements that each sum is spread over.
        """
        width, names = self.width, [[i] for i in range(self.width)]
        vectors = vectors + [self.zero] * (width - len(vectors))
        spread = width
        while len(vectors) > 1:
            half, pairs = spread // 2, len(vectors) // 2
            low: list[int] = []
            for start in range(0, width, spread):
                low += [start + i for i in range(half)] + [width + start + i for i in range(half)]
            high = [i + half for i in low]
            vectors = [
                self.builder.fadd(
                    self.shuffle(vectors[i], vectors[i + pairs], low),
                    self.shuffle(vectors[i], vectors[i + pairs], high),
                )
                for i in range(pairs)
            ]
            names = [
                [n for both in zip(names[i], names[i + pairs], strict=True) for n in both]
                for i in range(pairs)
            ]
            spread = half
        return self.shuffle(vectors[0], self.zero, [names[0].index(i) for i in range(width)])

    def positive(self, value: Any, of: Any, only: Any = None) -> Any:
        """Return the elements of a vector where those of another one are not below or at zero.

        The rest are zeros; with `only`, a bit, nothing is changed where it is not set.
        """
        drop = self.builder.fcmp_ordered("<=", of, self.zero)
        if only is not None:
            drop = self.builder.and_(drop, self.broadcast(only))
        return self.builder.select(drop, self.zero, value)

    def add(self, a: Any, b: Any) -> Any:
        """Return a + b."""
        return self.builder.fadd(a, b)

    def subtract(self, a: Any, b: Any) -> Any:
        """Return a - b."""
        return self.builder.fsub(a, b)

    def multiply(self, a: Any, b: Any) -> Any:
        """Return a * b."""
        return self.builder.fmul(a, b)

    def constant(self, value: float) -> Any:
        """Return a vector of `value` everywhere."""
        return ir.Constant(self.vector, [value] * self.width)

    def times(self, offset: Any, factor: int) -> Any:
        """Return an offset times a small constant."""
        return self.builder.mul(offset, ir.Constant(INDEX, factor))

    def _masked(self, first: Any, end: Any) -> Any:
        """Return the mask of the elements i of a vector with ``first + i < end``."""
        lane_type = ir.VectorType(INDEX, self.width)
        lanes = ir.Constant(lane_type, list(range(self.width)))
        room = self.broadcast(self.builder.sub(end, first))
        return self.builder.icmp_signed("<", lanes, room)

    def _masked_function(self, name: str, result: Any, arguments: list[Any]) -> Any:
        """Declare one of LLVM's masked memory functions for this vector."""
        suffix = f"v{self.width}f{8 * self.size}.p0"
        return cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(result, arguments), f"llvm.masked.{name}.{suffix}"
        )

    def _masked_load(self, pointer: Any, mask: Any) -> Any:
        """Load the elements that `mask` names, zeros for the rest."""
        address = self.builder.bitcast(pointer, self.vector.as_pointer())
        function = self._masked_function(
            "load", self.vector, [address.type, I32, mask.type, self.vector]
        )
        return self.builder.call(function, [address, ir.Constant(I32, self.size), mask, self.zero])

    def load_before(self, pointer: Any, first: Any, end: Any) -> Any:
        """Load the elements i with ``first + i < end``, zeros for the rest; touch no others."""
        return self._masked_load(pointer, self._masked(first, end))

    def _inside(self, first: Any, limit: Any) -> Any:
        """Return the mask of the elements i of a vector with ``0 <= first + i < limit``."""
        lane_type = ir.VectorType(I32, self.width)
        begin, end = (self.broadcast(self.builder.trunc(n, I32)) for n in (first, limit))
        lanes = self.builder.add(begin, ir.Constant(lane_type, list(range(self.width))))
        return self.builder.icmp_unsigned("<", lanes, end)

    def load_inside(self, pointer: Any, first: Any, limit: Any) -> Any:
        """Load the elements i with ``0 <= first + i < limit``, zeros for the rest."""
        return self._masked_load(pointer, self._inside(first, limit))

    def load_where(self, pointer: Any, bits: Any) -> Any:
        """Load the elements i whose bit i of `bits`, an integer, is set; zeros for the rest."""
        short = self.builder.trunc(bits, ir.IntType(self.width))
        mask = self.builder.bitcast(short, ir.VectorType(ir.IntType(1), self.width))
        return self._masked_load(pointer, mask)

    def store_inside(self, value: Any, pointer: Any, first: Any, limit: Any) -> None:
        """Store the elements i with ``0 <= first + i < limit``; touch no others."""
        self._masked_store(value, pointer, self._inside(first, limit))

    def store_before(self, value: Any, pointer: Any, first: Any, end: Any) -> None:
        """Store the elements i with ``first + i < end``; touch no others."""
        self._masked_store(value, pointer, self._masked(first, end))

    def _masked_store(self, value: Any, pointer: Any, mask: Any) -> None:
        """Store the elements that `mask` names."""
        address = self.builder.bitcast(pointer, self.vector.as_pointer())
        function = self._masked_function(
            "store", ir.VoidType(), [self.vector, address.type, I32, mask.type]
        )
        self.builder.call(function, [value, address, ir.Constant(I32, self.size), mask])
