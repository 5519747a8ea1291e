"""Checks of arguments that several modules share."""

from __future__ import annotations

import operator
from typing import Any


def integer(name: str, value: Any, least: int) -> int:
    """Return an integer argument as an int, refusing others and those below ``least``.

    Raises
    ------
    TypeError
        When it is not an integer (a float that is whole is not one either).
    ValueError
        When it is too small.

    Examples
    --------
    >>> integer("batch_size", 128, least=1)
    128
    >>> integer("batch_size", 0, least=1)
    Traceback (most recent call last):
        ...
    ValueError: batch_size must be at least 1, not 0
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return number
