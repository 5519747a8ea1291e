"""Launching kernels on all threads, and linking them: what others call is compiled once.

``launch(kernel, workers, *arguments)`` runs ``kernel(worker, workers, *arguments)`` on so many
threads; each knows its share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numba import config, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from .jit import entry, kernel
from .linking import link
from .threads import emit_parallel_for


def _plain(kind: Any) -> Any:
    """Return the type that a kernel is compiled for, where a caller has one like it."""
    kind = types.unliteral(kind)
    if isinstance(kind, types.Integer):
        return types.int64
    if not isinstance(kind, types.Array):
        return kind
    if kind.layout != "C":
        raise TypingError(f"a kernel's array must be contiguous, got {kind}")
    return types.Array(kind.dtype, kind.ndim, "C")


def _call(context: Any, builder: Any, symbol: str, signature: tuple[Any, ...], values: Any) -> Any:
    """Emit a call of the kernel that is known as `symbol`, and return its status."""
    convention = context.call_conv
    kind = convention.get_function_type(types.none, signature)
    function = cgutils.get_or_insert_function(builder.module, kind, symbol)
    status, _ = convention.call_function(builder, function, types.none, signature, values)
    return status


def _cast(context: Any, builder: Any, values: Any, given: Any, signature: Any) -> list[Any]:
    """Return arguments as values of the types that a kernel was compiled for."""
    passed = []
    for value, kind, target in zip(
        cgutils.unpack_tuple(builder, values), given, signature, strict=True
    ):
        if not isinstance(kind, types.Array):
            value = context.cast(builder, value, kind, target)
        elif isinstance(target, types.CPointer):
            value = context.make_array(kind)(context, builder, value).data
        passed.append(value)
    return passed


def _launching(run: Any, workers: Any, given: Any, kind: Any) -> tuple[Any, Callable[..., Any]]:
    """Return what emits a launch of the kernel `run`, with arguments in a tuple of that kind."""
    signature = (types.int64, types.int64, *map(_plain, given))
    symbol = link(run.dispatcher, signature)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        count = context.cast(builder, values[1], workers, types.int64)
        passed = [count, *_cast(context, builder, values[2], given, signature[2:])]

        def emit(inner: Any, worker: Any, taken: list[Any]) -> Any:
            return _call(context, inner, symbol, signature, [worker, *taken]).is_error

        failed = emit_parallel_for(builder, count, passed, emit)
        with cgutils.if_unlikely(builder, failed):
            # All that a thread hands on: but for a lack of memory, nothing in a kernel fails.
            message = "a kernel failed on one of its threads: what it has written is not whole"
            context.call_conv.return_user_exc(builder, RuntimeError, (message,))
        return context.get_dummy_value()

    return types.void(run, workers, kind), generate


@intrinsic
def _launch(typing: Any, run: Any, workers: Any, *given: Any) -> Any:
    """Emit `launch`."""
    return _launching(run, workers, given, types.StarArgTuple(given))


@intrinsic
def _launch_with(typing: Any, run: Any, workers: Any, given: Any) -> Any:
    """Emit `launch`, with the arguments in one tuple: Numba warns of kernels beside ``*given``."""
    return _launching(run, workers, given.types, given)


def _launch_python(run: Callable[..., None], workers: int, *arguments: Any) -> None:
    """Do `launch` in plain Python."""
    for worker in range(workers):
        run(worker, workers, *arguments)


def _launch_with_python(run: Callable[..., None], workers: int, arguments: Any) -> None:
    """Do `launch`, with the arguments in one tuple, in plain Python."""
    _launch_python(run, workers, *arguments)


if config.DISABLE_JIT:
    launch, launch_with = _launch_python, _launch_with_python
else:
    launch, launch_with = _launch, _launch_with


def launched(function: Callable[..., None]) -> Any:
    """Return an entry that launches a kernel, on as many workers as its first argument says."""
    body = kernel(function)

    def run(workers, *arguments):
        launch_with(body, workers, arguments)

    run.__name__ = run.__qualname__ = f"launch{function.__name__}"
    run.__module__ = function.__module__
    return entry(run)


def linked(function: Any) -> Any:
    """Have other kernels call a kernel by name; it returns nothing."""
    return _by_symbol(function, None)


def linked_by_address(arguments: str) -> Callable[[Any], Any]:
    """Return a decorator like `linked`; of arrays, such a kernel gets the addresses alone.

    Numba passes seven words of each, which the caller would store for each call. `arguments` has a
    letter for each: i for an integer, a for an array of elements, e for an element, n for an array
    of integers.
    """
    return partial(_by_symbol, arguments=arguments)


def _by_symbol(function: Any, arguments: str | None) -> Any:
    """Return what kernels call in place of a kernel."""
    if config.DISABLE_JIT:
        return function

    def typed(typing: Any, *given: Any) -> tuple[Any, Callable[..., Any]]:
        if arguments is None:
            signature = tuple(map(_plain, given))
        else:
            element = next(a.dtype for a, letter in zip(given, arguments) if letter == "a")
            kinds = {"i": types.int64, "e": element}
            kinds |= {"a": types.CPointer(element), "n": types.CPointer(types.int64)}
            signature = tuple(kinds[letter] for letter in arguments)
        symbol = link(function, signature)

        def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
            passed = _cast(context, builder, values[0], given, signature)
            status = _call(context, builder, symbol, signature, passed)
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
            return context.get_dummy_value()

        return types.void(types.StarArgTuple(given)), generate

    return intrinsic(typed)
