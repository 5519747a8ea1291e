"""Optional packages: imported when they are needed, with an error that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
    """Import an optional package of the extra ``train``.

    Parameters
    ----------
    module : str
        Its import name, dots included.

    Returns
    -------
    ModuleType
        The imported module.

    Raises
    ------
    ImportError
        When it is not installed; the message names the extra that brings it.

    Examples
    --------
    >>> require("json").loads("[1, 2]")
    [1, 2]
    >>> require("no_such_package")
    Traceback (most recent call last):
        ...
    ImportError: no_such_package is not installed: pip install deconv-core[train]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        message = f"{package} is not installed: pip install deconv-core[train]"
        raise ImportError(message, name=package) from error
