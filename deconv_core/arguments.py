"""Checks of arguments that several modules share."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np


def integer(name: str, value: Any, least: int) -> int:
    """Return an integer argument as an int, refusing others and those below ``least``.

    Raises
    ------
    TypeError
        When it is not an integer (neither a whole float nor a bool is one).
    ValueError
        When it is too small.

    Examples
    --------
    >>> integer("batch_size", 128, least=1)
    128
    >>> integer("batch_size", 0, least=1)
    Traceback (most recent call last):
        ...
    ValueError: batch_size must be at least 1, got 0
    """
    if type(value) is int and value >= least:
        return value
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
