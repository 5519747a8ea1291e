"""Read the dictionaries of CIFAR-10's "python version" without running what a pickle may ask for.

The files are pickles of protocol 2, as Python 2's cPickle wrote them. A pickle is a program for a
small stack machine, and the standard machine calls whatever the program names. This one knows the
two dozen instructions that the format needs, builds integers, byte strings, flat lists, one flat
dictionary and arrays of uint8 from bytes that are in the file, and refuses the rest by name:
nothing is imported or called, and no memory is set aside on the word of a file.

Source of the instructions: the standard library's ``pickletools``.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_HEADER = b"\x80\x02"
_STOP = ord(".")
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_LONGEST_NAME = 200
_MOST_INSTRUCTIONS = 200_000  # a full batch has under 50,000
_REFUSED = "which no CIFAR-10 file needs: refused"

# What a global may name, and the one thing it stands for here. The stand-ins are str, which no
# instruction below can produce, so a file cannot forge them.
_GLOBALS = {
    b"numpy.core.multiarray._reconstruct": "reconstruct",
    b"numpy._core.multiarray._reconstruct": "reconstruct",
    b"numpy.ndarray": "ndarray",
    b"numpy.dtype": "dtype",
}
_EMPTY_ARRAY = ("ndarray", (0,), b"b")
_UINT8 = (b"u1", 0, 1)
_UINT8_STATE = (3, b"|", None, None, None, -1, -1, 0)


class _Dtype:
    """The dtype uint8, the only one there is."""


class _Array:
    """An array that the pickle has asked for; its values come with its state."""

    values: np.ndarray | None = None


def loads(data: bytes) -> dict[bytes, Any]:
    """Decode one dictionary of ints, byte strings, flat lists of these and uint8 arrays.

    Parameters
    ----------
    data : bytes
        A whole pickle of protocol 2.

    Returns
    -------
    dict
        Keys are bytes; arrays are read-only views of ``data``'s copy, of dtype uint8.

    Raises
    ------
    ValueError
        For another protocol, a truncated or damaged pickle, bytes after its end, and anything it
        asks for beyond those types; the message names what was asked for.

    Examples
    --------
    >>> loads(b"\\x80\\x02}U\\x06labels](K\\x03K\\x05es.")
    {b'labels': [3, 5]}
    >>> loads(b"\\x80\\x02cos\\nsystem\\nU\\x02ls\\x85R.")
    Traceback (most recent call last):
        ...
    ValueError: the pickle asks for 'os.system', which no CIFAR-10 file needs: refused
    """
    if data[:2] != _HEADER:
        raise ValueError(f"not a pickle of protocol 2: starts with {data[:2]!r}, not {_HEADER!r}")
    machine = _Machine(data)
    try:
        return machine.run()
    except (IndexError, KeyError) as error:
        raise ValueError(f"damaged pickle: nothing to work on at byte {machine.at}") from error


class _Machine:
    """The stack, the stacks below the open marks, the memo, and the place in the data."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = len(_HEADER)
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> dict[bytes, Any]:
        """Obey instructions up to the one that stops."""
        for _ in range(_MOST_INSTRUCTIONS):
            code = self.take(1)[0]
            if code == _STOP:
                return self.result()
            if code not in _INSTRUCTIONS:
                name = _NAMES.get(code, f"0x{code:02x}")
                raise ValueError(f"the pickle uses the instruction {name}, {_REFUSED}")
            _INSTRUCTIONS[code](self)
        raise ValueError(f"the pickle has over {_MOST_INSTRUCTIONS} instructions, {_REFUSED}")

    def result(self) -> dict[bytes, Any]:
        """Return the dictionary left on the stack."""
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes after the end of the pickle")
        if self.below or len(self.stack) != 1 or type(self.stack[0]) is not dict:
            raise ValueError("the pickle does not hold one dictionary")
        return {key: _finished(value) for key, value in self.stack[0].items()}

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        left = len(self.data) - self.at
        if not 0 <= count <= left:
            raise ValueError(
                f"truncated pickle: {count} bytes wanted at byte {self.at}, {left} are left"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> int:
        """Return the next little-endian integer of a ``struct`` format."""
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def line(self) -> bytes:
        """Return the rest of the line."""
        end = self.data.find(b"\n", self.at, self.at + _LONGEST_NAME)
        if end < 0:
            raise ValueError(f"damaged pickle: unfinished name at byte {self.at}")
        return self.take(end + 1 - self.at)[:-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Return what was pushed since the last mark, and forget it."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def last(self, count: int) -> list[Any]:
        """Return the ``count`` values on top of the stack, and forget them."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def extend(self, items: list[Any]) -> None:
        """Append to the list on top of the stack."""
        target = self.stack[-1]
        if type(target) is not list or not {type(item) for item in items} <= {int, bytes}:
            raise ValueError(f"damaged pickle: not a flat list of ints or bytes, byte {self.at}")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        """Set keys of the dictionary on top of the stack."""
        target, keys, values = self.stack[-1], items[::2], items[1::2]
        if type(target) is not dict or len(keys) != len(values):
            raise ValueError(f"damaged pickle: no dictionary to fill at byte {self.at}")
        for key, value in zip(keys, values, strict=True):
            if type(key) is not bytes or type(value) not in (int, bytes, list, _Array):
                pair = f"{type(key).__name__}: {type(value).__name__}"
                raise ValueError(f"the pickle fills a dictionary with {pair}, {_REFUSED}")
            target[key] = value

    def find(self) -> None:
        """Push the stand-in of a global, if it is one of the few."""
        name = self.line() + b"." + self.line()
        if name not in _GLOBALS:
            raise ValueError(f"the pickle asks for {name.decode('latin-1')!r}, {_REFUSED}")
        self.push(_GLOBALS[name])

    def call(self) -> None:
        """Make the empty array or the dtype: the only two calls there are."""
        function, arguments = self.last(2)
        if function == "reconstruct" and arguments == _EMPTY_ARRAY:
            self.push(_Array())
        elif function == "dtype" and arguments == _UINT8:
            self.push(_Dtype())
        else:
            raise ValueError("the pickle makes something other than an array of uint8: refused")

    def build(self) -> None:
        """Give the array or dtype on top of the stack its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _Array:
            target.values = _values(state)
        elif type(target) is not _Dtype or state != _UINT8_STATE:
            raise ValueError("the pickle describes a dtype other than uint8: refused")

    def long(self) -> int:
        """Return an integer with its length in bytes before it."""
        size = self.number("<B")
        if size > 8:
            raise ValueError(f"the pickle holds an integer of {size} bytes: refused")
        return int.from_bytes(self.take(size), "little", signed=True)


def _values(state: Any) -> np.ndarray:
    """Turn the state of an array (version, shape, dtype, order, bytes) into the array."""
    if type(state) is not tuple or len(state) != 5:
        raise ValueError("damaged pickle: the state of an array has five parts")
    _, shape, dtype, fortran_order, raw = state
    if type(dtype) is not _Dtype or type(raw) is not bytes or fortran_order is not False:
        raise ValueError("the pickle describes an array not made of plain uint8: refused")
    if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("damaged pickle: the shape of an array is not made of sizes")
    if len(shape) > 4:
        raise ValueError(f"the pickle claims an array of {len(shape)} axes: refused")
    if math.prod(shape) != len(raw):
        raise ValueError(f"the pickle claims an array of shape {shape} but holds {len(raw)} bytes")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _finished(value: Any) -> Any:
    """Replace an array's stand-in by the array."""
    if type(value) is not _Array:
        return value
    if value.values is None:
        raise ValueError("damaged pickle: an array without values")
    return value.values


def _memoize(machine: _Machine, layout: str) -> None:
    """Remember the top of the stack by number."""
    machine.memo[machine.number(layout)] = machine.stack[-1]


_BY_SIGN: dict[bytes, Callable[[_Machine], None]] = {
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"\x8a": lambda m: m.push(m.long()),
    b"U": lambda m: m.push(m.take(m.number("<B"))),
    b"T": lambda m: m.push(m.take(m.number("<i"))),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"(": lambda m: m.mark(),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.push(tuple(m.last(1))),
    b"\x86": lambda m: m.push(tuple(m.last(2))),
    b"\x87": lambda m: m.push(tuple(m.last(3))),
    b"a": lambda m: m.extend(m.last(1)),
    b"e": lambda m: m.extend(m.since_mark()),
    b"s": lambda m: m.update(m.last(2)),
    b"u": lambda m: m.update(m.since_mark()),
    b"q": lambda m: _memoize(m, "<B"),
    b"r": lambda m: _memoize(m, "<I"),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"c": lambda m: m.find(),
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
}
_INSTRUCTIONS = {sign[0]: instruction for sign, instruction in _BY_SIGN.items()}
