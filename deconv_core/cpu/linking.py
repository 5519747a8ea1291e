"""Kernels that others call by name: compiled once, on their own, and not again in each caller.

What a kernel calls, Numba copies into it, and optimises and translates again at each of the layers
around it: for a register tile and all that surrounds it, seconds. The names are the same in every
process, so that callers can be kept on disk; what they need is kept with them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import llvmlite.binding as llvm
from numba.core.compiler_lock import global_compiler_lock

KERNELS: dict[tuple[str, str], Any] = {}  # all there are, by module and name
_linked: dict[str, tuple[Any, tuple[Any, ...]]] = {}  # by symbol: a kernel and its argument types

Need = tuple[str, str, tuple[Any, ...]]  # a kernel's module, its name, and its argument types


def link(kernel: Any, signature: tuple[Any, ...]) -> str:
    """Compile a kernel, or load it, make its code known by name, and return that name."""
    digest = hashlib.sha256(str(signature).encode()).hexdigest()
    symbol = f"{kernel.__module__}.{kernel.__name__}.{digest[:16]}"
    with global_compiler_lock:  # another thread waits for it
        if symbol not in _linked:
            kernel.compile(signature)
            result = kernel.overloads[signature]
            function = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
            llvm.add_symbol(symbol, function)
            _linked[symbol] = kernel, signature
    return symbol


def needs(code: bytes) -> list[Need]:
    """Return what compiled code calls by name."""
    return [
        (kernel.__module__, kernel.__name__, signature)
        for symbol, (kernel, signature) in _linked.items()
        if symbol.encode() in code
    ]


def provide(need: Need) -> None:
    """Link what code that is about to be loaded calls: its loader looks for that at once."""
    module, name, signature = need
    link(KERNELS[module, name], signature)
