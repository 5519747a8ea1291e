"""A slow machine that runs PTX: what the compiler made of a kernel, on NumPy, without a GPU.

The threads of a block run in step: of those that wait for nothing, the ones that are furthest
behind in the code execute one instruction. The machine is stricter than a GPU. Every access must be
aligned and inside an array; all lanes of a warp must take part in an ``mma.sync``; a ``cp.async``
arrives at the last moment; and between two barriers no thread may read a word of shared memory that
another writes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np

JUNK = 0x7FC0DEAD  # what shared memory holds at first: as a float, NaN
SPACE = 1 << 40  # bytes of addresses for each array
KINDS = {
    "pred": np.bool_, "f32": np.float32, "s32": np.int32, "u32": np.uint32, "b32": np.uint32,
    "s64": np.int64, "u64": np.uint64, "b64": np.uint64,
}  # fmt: skip
REGISTERS = {"%p": np.bool_, "%f": np.float32, "%r": np.uint32, "%rd": np.uint64}
BINARY: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul.lo": operator.mul, "div": operator.floordiv,
    "rem": operator.mod, "and": operator.and_, "or": operator.or_, "xor": operator.xor,
    "min": np.minimum, "max": np.maximum,
    "shl": lambda a, b: a << b.astype(a.dtype), "shr": lambda a, b: a >> b.astype(a.dtype),
}  # fmt: skip
COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge, "gtu": lambda a, b: ~(a <= b), "leu": lambda a, b: ~(a > b),
    "ltu": lambda a, b: ~(a >= b), "geu": lambda a, b: ~(a < b),
}  # fmt: skip


def parse(ptx: str) -> tuple[list[tuple[str, str, list[str]]], dict[str, int], dict[str, int], int]:
    """Return instructions (guard, opcode, operands), labels, and shared arrays with their size."""
    code: list[tuple[str, str, list[str]]] = []
    labels, shared, size = {}, {}, 0
    for name, length in re.findall(r"\.shared .*?(\w+)\[(\d+)\];", ptx):
        shared[name] = size
        size += -(-int(length) // 16) * 16
    body = re.sub(r"//.*", "", ptx[ptx.index("{", ptx.index(".entry")) + 1 :])
    for part in re.findall(r"\$\w+:|[^;:]+;", body):
        part = part.strip()
        if part.endswith(":"):
            labels[part[:-1]] = len(code)
        elif not part.startswith((".", "}")):
            guard, opcode, rest = re.match(r"(@!?%p\d+)?\s*(\S+)\s*(.*);", part, re.S).groups()
            operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
            code.append((guard or "", opcode, operands))
    return code, labels, shared, size


class Machine:
    """One kernel, as PTX; `run` launches it with NumPy arrays, and integers, as its arguments."""

    def __init__(self, ptx: str, threads: int) -> None:
        self.code, self.labels, self.symbols, self.shared_size = parse(ptx)
        self.threads = threads

    def run(self, blocks: int, arguments: list[Any]) -> None:
        """Run all blocks."""
        self.prepare(arguments)
        for block in range(blocks):
            self.run_block(block)

    def prepare(self, arguments: list[Any]) -> None:
        """Take the arguments; an array counts as the seven numbers that numba makes of it."""
        self.arrays = [a.reshape(-1) for a in arguments if isinstance(a, np.ndarray)]
        self.parameters: list[int] = []
        count = 0
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                count += 1
                self.parameters += [0, 0, argument.size, 4, SPACE * count, argument.size, 4]
            else:
                self.parameters += [argument] if isinstance(argument, int) else list(argument)

    @np.errstate(all="ignore")
    def run_block(self, block: int) -> None:
        """Run one block, to its end."""
        every = np.arange(self.threads)
        self.special = {"%tid.x": every, "%ctaid.x": np.full_like(every, block)}
        self.special["%ntid.x"] = np.full_like(every, self.threads)
        self.shared = np.full(self.shared_size // 4, JUNK, np.uint32)
        # Per word of shared memory: the interval between barriers of the last write, and of the
        # last read, and who it was (-1: several).
        self.interval = 1
        self.touched = {how: np.zeros((2, self.shared.size), int) for how in ("write", "read")}
        self.registers: dict[str, np.ndarray] = {}
        self.groups: list[list[tuple[Any, ...]]] = [[]]
        at, waiting = np.zeros(self.threads, int), np.zeros(self.threads, bool)
        while True:
            running = (at < len(self.code)) & ~waiting
            if not running.any():
                if not waiting.any():
                    return
                assert waiting.all(), "a thread has left before a barrier"
                waiting[:] = False
                self.interval += 1
                continue
            here = at[running].min()
            self.active = np.flatnonzero(running & (at == here))
            at[self.active] += 1
            guard, opcode, operands = self.code[here]
            if guard:
                taken = self.get(guard.lstrip("@!"), "pred") ^ guard.startswith("@!")
                self.active = self.active[taken]
            if opcode.startswith("bra"):
                at[self.active] = self.labels[operands[0]]
            elif opcode == "ret":
                at[self.active] = len(self.code)
            elif opcode == "bar.sync":
                waiting[self.active] = True
            elif self.active.size:
                self.execute(opcode, operands)

    def get(self, operand: str, kind: str) -> np.ndarray:
        """Return an operand for the active threads."""
        dtype = np.dtype(KINDS[kind])
        if operand in self.special:
            return self.special[operand][self.active].astype(dtype)
        if operand.startswith("%"):
            value = self.registers[operand][self.active]
            if value.itemsize > dtype.itemsize:  # the lower half is meant
                value = value.astype(f"u{dtype.itemsize}")
            return value.view(dtype)
        if operand.startswith("0f"):
            return np.full(self.active.size, int(operand[2:], 16), np.uint32).view(dtype)
        value = self.symbols[operand] if operand in self.symbols else int(operand, 0)
        unsigned = np.dtype(f"u{dtype.itemsize}")
        mask = (1 << 8 * dtype.itemsize) - 1
        return np.full(self.active.size, value & mask, unsigned).view(dtype)

    def put(self, register: str, value: np.ndarray) -> None:
        """Set a register of the active threads."""
        dtype = np.dtype(REGISTERS[re.match(r"%[a-z]+", register)[0]])
        if register not in self.registers:
            self.registers[register] = np.zeros(self.threads, dtype)
        value = np.asarray(value)
        if value.itemsize < dtype.itemsize:  # a load extends what it loads, by its sign or zeros
            value = value.astype(f"{value.dtype.kind}{dtype.itemsize}")
        self.registers[register][self.active] = value.view(dtype)

    def address(self, operand: str) -> np.ndarray:
        """Return ``[register + offset]``, in bytes."""
        register, _, offset = operand.strip("[]").partition("+")
        wide = "u64" if register.startswith("%rd") or register in self.symbols else "u32"
        return self.get(register, wide).astype(np.int64) + int(offset or 0)

    def execute(self, opcode: str, operands: list[str]) -> None:
        """Execute one instruction for the active threads."""
        name, _, kind = opcode.rpartition(".")
        if name in BINARY or name in ("mad.lo", "fma.rn"):
            values = [self.get(operand, kind) for operand in operands[1:]]
            if name == "mad.lo":
                self.put(operands[0], values[0] * values[1] + values[2])
            elif name == "fma.rn":
                a, b, c = (value.astype(float) for value in values)
                self.put(operands[0], (a * b + c).astype(np.float32))
            else:
                self.put(operands[0], BINARY[name](*values).astype(KINDS[kind]))
        elif name == "mul.wide":
            wide = KINDS[kind.replace("32", "64")]
            a, b = (self.get(operand, kind).astype(wide) for operand in operands[1:])
            self.put(operands[0], a * b)
        elif name.startswith("setp"):
            compare = COMPARE[name.partition(".")[2]]
            self.put(operands[0], compare(*(self.get(operand, kind) for operand in operands[1:])))
        elif name == "selp":
            a, b = (self.get(operand, kind) for operand in operands[1:3])
            self.put(operands[0], np.where(self.get(operands[3], "pred"), a, b))
        elif name in ("mov", "cvta.to.global"):
            self.put(operands[0], self.get(operands[1], kind))
        elif name in ("not", "neg"):
            value = self.get(operands[1], kind)
            self.put(operands[0], ~value if name == "not" else -value)
        elif opcode == "cvt.rna.tf32.f32":
            self.put(operands[0], tf32(self.get(operands[1], "f32")))
        elif name.startswith("cvt"):
            self.put(operands[0], self.get(operands[1], kind).astype(KINDS[name[4:]]))
        elif name == "ld.param":
            number = self.parameters[int(re.search(r"_param_(\d+)\]", operands[1])[1])]
            self.put(operands[0], self.get(str(number), kind))
        elif name.startswith(("ld.", "st.")):
            self.access(name.split("."), *(operands if name[0] == "l" else operands[::-1]))
        elif opcode.startswith("cp.async"):
            self.copy(opcode, operands)
        elif opcode.startswith("mma.sync.aligned.m16n8k8"):
            self.multiply(*(re.findall(r"%\w+", operand) for operand in operands))
        else:
            raise NotImplementedError(opcode)

    def words(self, space: str, address: np.ndarray, size: int) -> list[tuple[np.ndarray, Any]]:
        """Return (memory, index of a word, mask of threads) for each array that is addressed."""
        assert not (address % size).any(), f"an address is no multiple of {size}"
        if space == "shared":
            found = [(self.shared, address, np.full(address.size, True))]
        else:
            found = [
                (self.arrays[n - 1].view(np.uint32), address - n * SPACE, address // SPACE == n)
                for n in np.unique(address // SPACE)
            ]
        for memory, place, mask in found:
            inside = (place[mask] >= 0) & (place[mask] + size <= 4 * memory.size)
            assert inside.all(), f"an access outside of {space} memory"
        return [(memory, place // 4, mask) for memory, place, mask in found]

    def access(self, name: list[str], registers: str, address: str) -> None:
        """Load or store one word, or four."""
        names = re.findall(r"%\w+", registers) or [registers]
        for memory, place, mask in self.words(name[1], self.address(address), 4 * len(names)):
            active, self.active = self.active, self.active[mask]
            for n, register in enumerate(names):
                at = place[mask] + n
                if memory is self.shared:
                    self.touch("read" if name[0] == "ld" else "write", at)
                if name[0] == "ld":
                    self.put(register, memory[at])
                else:
                    memory[at] = self.get(register, "b32")
            self.active = active

    def touch(self, how: str, at: np.ndarray) -> None:
        """Note who reads or writes these words; raise when another has, since the last barrier."""
        for other in ("write",) if how == "read" else ("write", "read"):
            when, who = self.touched[other][:, at]
            race = (when == self.interval) & (who != self.active)
            assert not race.any(), f"a {how} races with a {other} of shared memory"
        when, who = self.touched[how]
        several = (when[at] == self.interval) & (who[at] != self.active)
        who[at] = np.where(several, -1, self.active)
        unique, counts = np.unique(at, return_counts=True)
        who[unique[counts > 1]] = -1
        when[at] = self.interval

    def copy(self, opcode: str, operands: list[str]) -> None:
        """Note an asynchronous copy, close a group of them, or do those that are waited for."""
        if opcode.endswith("global"):
            target, source = self.address(operands[0]), self.address(operands[1])
            size, read = int(operands[2]), self.get(operands[3], "u32")
            (_, place, _), = self.words("shared", target, size)  # fmt: skip
            for n in range(size // 4):
                self.touch("write", place + n)
            self.groups[-1].append((place, source, size, read))
            return
        assert self.active.size == self.threads, "threads go their own ways around a copy"
        if opcode.endswith("commit_group"):
            self.groups.append([])
            return
        while len(self.groups) > int(operands[0]) + 1:
            for place, source, size, read in self.groups.pop(0):
                whole = read == size
                assert (whole | (read == 0)).all()
                for n in range(size // 4):
                    self.shared[place[~whole] + n] = 0
                    for memory, word, mask in self.words("global", source[whole], size):
                        self.shared[place[whole][mask] + n] = memory[word[mask] + n]

    def multiply(self, d: list[str], a: list[str], b: list[str], c: list[str]) -> None:
        """Multiply fragments, of every warp, as the PTX manual lays them out."""
        assert self.active.size % 32 == 0, "a part of a warp is at mma.sync"
        assert (self.active.reshape(-1, 32) % 32 == np.arange(32)).all()
        g, t = np.divmod(np.arange(32), 4)
        values = [np.stack([self.get(r, "f32") for r in side], -1) for side in (a, b, c)]
        for side in values[:2]:
            side.view(np.uint32)[:] &= 0xFFFFE000  # the bits of a TF32 number
        result = np.empty_like(values[2])
        for first in range(0, self.active.size, 32):
            warp = slice(first, first + 32)
            left, right, total = np.empty((16, 8)), np.empty((8, 8)), np.empty((16, 8))
            for n in range(4):
                left[g + 8 * (n % 2), t + 4 * (n // 2)] = values[0][warp, n]
                total[g + 8 * (n // 2), 2 * t + n % 2] = values[2][warp, n]
            for n in range(2):
                right[t + 4 * n, g] = values[1][warp, n]
            total += left @ right
            for n in range(4):
                result[warp, n] = total[g + 8 * (n // 2), 2 * t + n % 2]
        for n, register in enumerate(d):
            self.put(register, np.ascontiguousarray(result[:, n]))


def tf32(x: np.ndarray) -> np.ndarray:
    """Round to 10 bits of mantissa, to nearest, ties away from zero."""
    fraction, exponent = np.frexp(x.astype(float))
    rounded = np.ldexp(np.trunc(fraction * 2048 + np.copysign(0.5, fraction)), exponent - 11)
    return np.where(np.isfinite(x), rounded, x).astype(np.float32)
