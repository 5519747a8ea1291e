"""What is done to a batch of images between the data set and the net.

Every transform is called with a batch (N, C, H, W) and returns one. Sizes, rounding and the order
of arithmetic are torchvision's for a PIL picture, so that the results are the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconv_core.arguments import integer
from deconv_core.extras import require

Batch = NDArray[Any]


class Resize:
    """Resize pictures: bilinear, antialiased, exactly as Pillow does it.

    Parameters
    ----------
    size : int or (int, int)
        The height and width, or the length of the shorter side, to which the longer one follows.

    Raises
    ------
    ValueError
        For sizes below 1, and when called with an array that is not (N, C, H, W).
    TypeError
        For sizes that are not integers, and when called with an array that is not uint8.

    Examples
    --------
    >>> import numpy as np
    >>> Resize(4)(np.full((1, 3, 2, 3), 7, np.uint8)).shape
    (1, 3, 4, 6)
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        sides = tuple(size) if isinstance(size, Sequence) else (size,)
        if len(sides) not in (1, 2):
            raise ValueError(f"size must be one or two numbers, not {size!r}")
        self.size = tuple(integer("size", side, least=1) for side in sides)

    def __repr__(self) -> str:
        return f"Resize({self.size if len(self.size) == 2 else self.size[0]})"

    def __call__(self, x: Batch) -> Batch:
        """Resize a uint8 batch (N, C, H, W); the same array when it has the size already."""
        _check(x, "Resize", np.uint8)
        height, width = x.shape[2:]
        if 0 in (height, width):
            raise ValueError(f"cannot resize pictures without pixels: shape {x.shape}")
        new_height, new_width = self._target(height, width)
        if (new_height, new_width) == (height, width):
            return x
        image = require("PIL.Image")
        result = np.empty((*x.shape[:2], new_height, new_width), np.uint8)
        planes = np.ascontiguousarray(x).reshape(-1, height, width)
        for plane, new in zip(planes, result.reshape(-1, new_height, new_width), strict=True):
            picture = image.fromarray(plane)
            new[...] = picture.resize((new_width, new_height), image.Resampling.BILINEAR)
        return result

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """The new height and width; one number is the shorter side's, the longer is cut down."""
        if len(self.size) == 2:
            return self.size[0], self.size[1]
        side = self.size[0]
        if height <= width:
            return side, int(side * width / height)
        return int(side * height / width), side


class ToUnit:
    """Scale uint8 pixels to float32 in [0, 1]: x / 255.

    Raises
    ------
    TypeError
        When called with an array that is not uint8.

    Examples
    --------
    >>> import numpy as np
    >>> ToUnit()(np.full((1, 1, 1, 1), 51, np.uint8))
    array([[[[0.2]]]], dtype=float32)
    """

    def __repr__(self) -> str:
        return "ToUnit()"

    def __call__(self, x: Batch) -> NDArray[np.float32]:
        """Scale a uint8 batch (N, C, H, W)."""
        _check(x, "ToUnit", np.uint8)
        return np.divide(x, np.float32(255), dtype=np.float32)


class Normalize:
    """Subtract a mean and divide by a standard deviation, in float32.

    Parameters
    ----------
    mean, std : float or sequence of float
        One for all channels, or one for each.

    Raises
    ------
    ValueError
        For numbers that are not finite, a standard deviation that is not positive, lengths that
        disagree, and when called with a batch of another number of channels.
    TypeError
        When called with an array that is not float32.

    Examples
    --------
    >>> import numpy as np
    >>> Normalize(0.5, 0.5)(np.ones((1, 1, 1, 2), np.float32))
    array([[[[1., 1.]]]], dtype=float32)
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        with np.errstate(over="ignore"):  # what is too large is refused below
            self.mean, self.std = (np.atleast_1d(np.asarray(v, np.float32)) for v in (mean, std))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values.ndim != 1 or not values.size or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} must be one finite float32 number, or one a channel, not {values}"
                )
        if not (self.std > 0).all():
            raise ValueError(f"std must be positive, not {self.std}")
        if len({self.mean.size, self.std.size} - {1}) > 1:
            raise ValueError(f"mean has {self.mean.size} channels but std {self.std.size}")

    def __repr__(self) -> str:
        return f"Normalize({self.mean.tolist()}, {self.std.tolist()})"

    def __call__(self, x: Batch, out: Batch | None = None) -> NDArray[np.float32]:
        """Normalize a float32 batch (N, C, H, W), into ``out`` when given (it may be ``x``)."""
        _check(x, "Normalize", np.float32)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values.size not in (1, x.shape[1]):
                raise ValueError(
                    f"Normalize has a {name} of {values.size} channels, the batch has {x.shape[1]}"
                )
        if out is not None:
            _check(out, "Normalize's out", np.float32)
            if out.shape != x.shape:
                raise ValueError(f"Normalize's out has shape {out.shape}, the batch has {x.shape}")
        result = np.subtract(x, self.mean[:, None, None], out=out)
        result /= self.std[:, None, None]
        return result


class Compose:
    """Apply transforms one after the other.

    Parameters
    ----------
    transforms : sequence of callables
        Those of this module, or any function of a batch.

    Examples
    --------
    >>> import numpy as np
    >>> listing = Compose([Resize(4), ToUnit(), Normalize(0.5, 0.5)])
    >>> x = listing(np.zeros((2, 3, 2, 2), np.uint8))
    >>> x.shape, float(x.min())
    ((2, 3, 4, 4), -1.0)
    """

    def __init__(self, transforms: Sequence[Callable[[Batch], Batch]]) -> None:
        self.transforms = tuple(transforms)
        for transform in self.transforms:
            if not callable(transform):
                raise TypeError(f"a transform must be callable, not {transform!r}")

    def __repr__(self) -> str:
        return f"Compose({list(self.transforms)})"

    def __call__(self, x: Batch) -> Batch:
        """Transform a batch; the given array is not changed."""
        ours = False  # whether x is a fresh array that nobody else holds
        for transform in self.transforms:
            x = transform(x, out=x) if ours and type(transform) is Normalize else transform(x)
            ours = type(transform) in (ToUnit, Normalize)  # a subclass may do anything
        return x


def _check(x: object, name: str, dtype: type[np.generic]) -> None:
    """Refuse anything but a batch of this dtype."""
    if not isinstance(x, np.ndarray) or x.dtype != dtype:
        found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"{name} takes a batch of {np.dtype(dtype)}, not {found}")
    if x.ndim != 4:
        raise ValueError(f"{name} takes a batch (N, C, H, W), not shape {x.shape}")
