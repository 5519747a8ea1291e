"""Numba's `njit` with an on-disk cache that cannot be stale and that processes share safely.

Numba keeps one index file per function, stamped with the age of the file that holds the function:
an edit in another file of these folders would go unnoticed, and two processes that compile at once
can swap each other's entries. Here each compiled function is one file, named by a digest of all
sources of the CPU kernels, the signature and the target machine, and is put in place atomically.

Python calls what `entry` makes, which launches what `kernel` makes (launch.py). Kernels have no
wrappers for callers from elsewhere: these would take a fifth of the time to compile.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import pickle
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
from numba import config, types
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from .linking import needs, provide, register
from .threads import PARALLEL_FOR, start_threads

_FOLDER = Path(__file__).parents[1]  # of all CPU kernels


def _digest() -> str:
    """Return a digest of every source file of the CPU kernels."""
    sources = hashlib.sha256(numba.__version__.encode())
    for path in sorted(_FOLDER.rglob("*.py")):
        sources.update(path.relative_to(_FOLDER).as_posix().encode() + path.read_bytes())
    return sources.hexdigest()[:16]


DIGEST = _digest()


class KernelCache(FunctionCache):
    """One file per function, its options, signature, machine and version of the sources."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        super().__init__(function)
        if not _FOLDER.is_dir():
            raise RuntimeError(f"the kernels' sources are not in a folder: {_FOLDER}")
        source = Path(function.__code__.co_filename)
        known = _FOLDER in source.parents or not source.is_file()
        text = b"" if known else source.read_bytes()  # that the digest does not cover
        if function.__module__ not in sys.modules:
            raise RuntimeError(f"{function.__qualname__} is of no module that could be imported")
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        if not all(hasattr(value, "known_as") for value in cells):
            raise RuntimeError(f"{function.__qualname__} holds what has no name")
        held = [value.known_as for value in cells]
        name = f"{function.__module__}.{function.__qualname__}"
        self._name = name, held, hashlib.sha256(text).digest()
        self._options = repr(sorted(options.items()))

    def _file(self, signature: Any, codegen: Any) -> Path:
        """Return the path of the entry."""
        magic = codegen.magic_tuple()
        key = repr((self._name, str(signature), self._options, magic, DIGEST)).encode()
        name = f"{self._impl.filename_base}.{DIGEST}.{hashlib.sha256(key).hexdigest()[:24]}.nbc"
        return Path(self._cache_path) / name

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the cached function, or None.

        Numba's own method first imports and registers all that a compilation could ask for, which
        takes longer than reading every kernel of a net. Compiled code asks for the runtime, for
        what it calls by name, and for the threads.
        """
        rtsys.initialize(target_context)
        return self._load_overload(signature, target_context)

    def _load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the cached function, or None when there is no whole entry."""
        try:
            content = self._file(signature, target_context.codegen()).read_bytes()
        except OSError:
            content = b""
        check, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != check:  # none, or cut short, or damaged
            _announce()
            return None
        needed, code = pickle.loads(payload)
        if not provide(needed):  # an edit has taken it away
            _announce()
            return None
        if PARALLEL_FOR.encode() in code:
            start_threads()
        return self._impl.rebuild(target_context, pickle.loads(code))

    def _save_overload(self, signature: Any, data: Any) -> None:
        """Write the entry atomically and drop those of earlier versions of the sources."""
        if not self._impl.check_cachable(data):
            return
        code = dumps(self._impl.reduce(data))
        payload = dumps((needs(code), code))
        path = self._file(signature, data.codegen)
        temporary = path.with_suffix(f".{uuid.uuid4().hex[:12]}.tmp")
        with contextlib.suppress(OSError):  # a full disk costs a compilation next time, no more
            self._impl.locator.ensure_cache_path()
            try:
                temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            function = self._impl.filename_base.rpartition("-")[0]  # without its line number
            for old in path.parent.glob(f"{function}-*.nbc"):
                if DIGEST not in old.name:
                    old.unlink(missing_ok=True)


_listeners: list[Callable[[], object]] = []


def on_compile(callback: Callable[[], object]) -> None:
    """Call `callback` once, when the first kernel that is not on disk yet is about to be compiled.

    Examples
    --------
    >>> from functools import partial
    >>> messages = []
    >>> on_compile(partial(messages.append, "Compiling kernels ..."))
    """
    _listeners.append(callback)


def _announce() -> None:
    """Tell and forget the listeners."""
    while _listeners:
        _listeners.pop(0)()


def _typed(template: Callable[..., Any], args: Any, kws: Any) -> Any:
    """Type a call from another kernel; a number written out is one like any other.

    Numba would compile the kernel again for each such number.
    """
    return template([types.unliteral(argument) for argument in args], kws)


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile `function` lazily for the CPU and keep the result on disk; Python cannot call it.

    `options` are those of `numba.njit`. With ``NUMBA_DISABLE_JIT=1`` the plain function runs.

    Kernels that run within one thread count no references to arrays (whoever launches them holds
    all), for each count is an atomic operation, and on each call there would be two per array. Only
    one that allocates must: with the option ``_nrt=True``.
    """
    if function is None:
        return lambda body: kernel(body, **options)
    dispatcher = _compiled(function, {"_nrt": False, "no_cpython_wrapper": True} | options)
    if not config.DISABLE_JIT:
        # Without a wrapper there is nothing that Python could call.
        dispatcher.add_overload = partial(_add_overload, dispatcher)
        dispatcher._compile_for_args = partial(_refuse, dispatcher)
    return dispatcher


def entry(function: Callable[..., Any]) -> Any:
    """Compile, as `kernel` does, a function that Python calls; other threads run meanwhile."""
    return _compiled(function, {"_nrt": False, "nogil": True})


def _compiled(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Return `function` as Numba's, with a cache of its own.

    It divides as NumPy does, with no branch to an error at each division.
    """
    options |= {"no_cfunc_wrapper": True, "error_model": "numpy"}
    dispatcher = numba.njit(**options)(function)
    if not config.DISABLE_JIT:
        dispatcher.compile = partial(_without_collecting, dispatcher.compile)
        register(dispatcher)
        dispatcher.get_call_template = partial(_typed, dispatcher.get_call_template)
        # Where no folder of this machine can be written, kernels are compiled every time; so are
        # those in an archive, whose edits would go unnoticed, those of no module, and those that
        # hold variables of the function around them, unless these are kernels.
        with contextlib.suppress(RuntimeError):
            dispatcher._cache = KernelCache(function, options)
    return dispatcher


def _without_collecting(compile_it: Callable[[Any], Any], signature: Any) -> Any:
    """Compile without collecting garbage: most of the many objects that are made stay in use."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return compile_it(signature)
    finally:
        if collecting:
            gc.enable()


def _add_overload(dispatcher: Any, result: Any) -> None:
    """Keep a compiled function for other kernels alone."""
    dispatcher.overloads[tuple(result.signature.args)] = result


def _refuse(dispatcher: Any, *arguments: Any, **named: Any) -> None:
    """Say why Python cannot call a kernel."""
    raise TypeError(f"{dispatcher.__name__} is a kernel for other kernels; Python calls entries")
