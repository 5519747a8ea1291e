"""Kernels that others call by name: compiled once, on their own, and not again in each caller.

What a kernel calls, Numba copies into it, and optimises and translates again at each of the layers
around it: for a register tile and all that surrounds it, seconds. The names are the same in every
process, so that callers can be kept on disk; what they need is kept with them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import TypingError

_dispatchers: dict[str, Any] = {}  # all there are, by name
_count: Counter[str] = Counter()  # of those that were given a name
_linked: dict[str, tuple[Any, tuple[Any, ...]]] = {}  # by symbol: a kernel and its argument types

Need = tuple[str, tuple[Any, ...]]  # a kernel's name, and its argument types


def register(dispatcher: Any) -> None:
    """Give a kernel its name; one that is defined anew is another one, with a number."""
    name = f"{dispatcher.__module__}.{dispatcher.__qualname__}"
    number = _count[name]
    _count[name] += 1
    dispatcher.known_as = f"{name}~{number}" if number else name
    _dispatchers[dispatcher.known_as] = dispatcher


def link(kernel: Any, signature: tuple[Any, ...]) -> str:
    """Compile a kernel, or load it, make its code known by a symbol, and return that."""
    digest = hashlib.sha256(str(signature).encode()).hexdigest()
    symbol = f"{kernel.known_as}.{digest[:16]}"
    with global_compiler_lock:  # another thread waits for it
        if symbol not in _linked:
            kernel.compile(signature)
            result = kernel.overloads[signature]
            if result.signature.return_type != types.none:
                raise TypingError(f"{kernel.known_as} returns a value: it cannot be linked")
            function = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
            llvm.add_symbol(symbol, function)
            _linked[symbol] = kernel, signature
    return symbol


def needs(code: bytes) -> list[Need]:
    """Return what compiled code calls by name."""
    return [
        (kernel.known_as, signature)
        for symbol, (kernel, signature) in _linked.items()
        if symbol.encode() in code
    ]


def provide(needed: list[Need]) -> bool:
    """Link what code that is about to be loaded calls, if all of it exists.

    Its loader looks for that at once.
    """
    if not all(name in _dispatchers for name, _ in needed):
        return False
    for name, signature in needed:
        link(_dispatchers[name], signature)
    return True
