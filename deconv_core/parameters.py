"""What every layer shares: parameters with names, and a backward pass that runs once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

import numpy as np

from deconv_core import device, init
from deconv_core import functional as F
from deconv_core.arguments import integer
from deconv_core.functional import checks


class Parameter:
    """A trainable array and the sum of its gradients.

    Parameters
    ----------
    data : float32 or float64 array, kept without a copy when it is C-contiguous, or a CUDA array
    grad : array of zeros for the gradient, of the same shape and dtype, made when none is given

    Attributes
    ----------
    data, grad : arrays of one shape and dtype; `grad` starts at zero and is only ever added to

    Raises
    ------
    ValueError, TypeError
        When the two are of different shapes or dtypes, or on different devices.

    Examples
    --------
    >>> weight = Parameter(np.ones((2, 3), np.float32))
    >>> weight.shape, weight.dtype, float(weight.grad.sum())
    ((2, 3), dtype('float32'), 0.0)
    """

    __slots__ = ("data", "grad")

    def __init__(self, data: np.ndarray, grad: np.ndarray | None = None) -> None:
        if device.of(data) != "cuda":
            if isinstance(data, np.ndarray):
                checks.plain("data", data)
            data = np.asarray(data, init.float_dtype(np.asarray(data).dtype), order="C")
        if grad is None:
            grad = device.zeros(data.shape, data.dtype, device.of(data))
        checks.floats(data=data, grad=grad)
        checks.shape_is("grad", grad.shape, data.shape, "data")
        self.data, self.grad = data, grad

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data` and of `grad`."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of `data` and of `grad`."""
        return self.data.dtype

    def zero_grad(self) -> None:
        """Set the gradient to zero, in place."""
        device.clear(self.grad)

    def add_grad(self, grad: np.ndarray) -> None:
        """Add to the gradient, in place."""
        device.add(self.grad, grad)

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.dtype})"


class Backward:
    """The backward pass of one forward call: ``grad_x = backward(grad_y)``, once.

    Adds the parameters' gradients to ``parameter.grad`` and returns the gradient to the input.
    With ``input_grad=False`` it returns None and does not compute that gradient, which is what
    the first layer of a net in training wants. Whatever the forward pass kept is released
    by the call.

    Raises
    ------
    RuntimeError
        When called a second time; nothing changes.
    ValueError, TypeError
        When the gradient's shape or dtype is not the output's; nothing changes, and the right
        gradient can still be passed.
    """

    __slots__ = ("_device", "_dtype", "_run", "_shape")

    def __init__(
        self, run: Callable[[np.ndarray, bool], np.ndarray | None], output: np.ndarray
    ) -> None:
        self._run: Callable[[np.ndarray, bool], np.ndarray | None] | None = run
        self._shape, self._dtype, self._device = output.shape, output.dtype, device.of(output)

    def __call__(self, grad_output: np.ndarray, input_grad: bool = True) -> Any:
        if self._run is None:
            raise RuntimeError("backward was called already: each forward call allows one")
        if device.of(grad_output) != self._device:
            kind = type(grad_output).__name__
            wanted = "on cuda, as the output is" if self._device == "cuda" else "a numpy.ndarray"
            raise TypeError(f"grad_output must be {wanted}, got {kind}")
        if self._device == "cpu":
            checks.plain("grad_output", grad_output)
        if grad_output.shape != self._shape:
            raise ValueError(
                f"grad_output has shape {grad_output.shape} but the output has {self._shape}"
            )
        if grad_output.dtype != self._dtype:
            raise TypeError(f"grad_output is {grad_output.dtype} but the output is {self._dtype}")
        run, self._run = self._run, None
        return run(grad_output, input_grad)


class Layer:
    """Base of layers and nets: finds the parameters and layers set as attributes.

    A layer of your own needs ``__call__(x) -> y``, ``forward(x) -> (y, Backward(...))`` and
    ``output_shape(input_shape)``.

    Examples
    --------
    >>> class Scale(Layer):
    ...     def __init__(self):
    ...         self.factor = Parameter(np.ones(1, np.float32))
    >>> [name for name, _ in Scale().named_parameters()]
    ['factor']
    """

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Inference: return the output and keep nothing."""
        raise NotImplementedError

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: return the output and its backward pass."""
        raise NotImplementedError

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the output for an input of this shape; computes nothing."""
        raise NotImplementedError

    def children(self) -> dict[str, Layer]:
        """Return the layers directly inside this one, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Layer)}

    def walk(self) -> Iterator[Layer]:
        """Yield the layers inside this one that hold no others (itself, if it holds none)."""
        children = self.children()
        if not children:
            yield self
        for child in children.values():
            yield from child.walk()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (name, parameter); inner layers' names are joined with dots, as in PyTorch."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value
        for child_name, child in self.children().items():
            for name, parameter in child.named_parameters():
                yield f"{child_name}.{name}", parameter

    def parameters(self) -> list[Parameter]:
        """Return the parameters in order, one that is shared by several layers only once."""
        return list({id(p): p for _, p in self.named_parameters()}.values())

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def to(self, where: str, precision: str | None = None) -> Any:
        """Move all parameters and their gradients to a device, in place; optimizers follow.

        Parameters
        ----------
        where : "cpu" or "cuda"
        precision : of the layers' products on CUDA: "float32"; "tf32", on tensor cores, each off by
            up to 2**-10 of itself; "3xtf32", on tensor cores, off by up to 2**-21; or None for
            float32's accuracy (the first or the last) in the way that suits the GPU

        Returns
        -------
        Layer
            This one itself.

        Raises
        ------
        ValueError, TypeError
            For an unknown device or precision, and for float64 parameters on CUDA.
        ImportError
            When CUDA cannot be used here: it says what is missing, and how to install it.
        MemoryError
            When the device has no room. In each of these cases nothing has moved.

        Examples
        --------
        >>> from deconv_core.linear import Linear
        >>> Linear(2, 1, rng=0).to("cpu")
        Linear(weight=(1, 2))
        """
        device.check(where)
        device.check_precision(precision, where)
        for name, parameter in self.named_parameters():
            if where == "cuda" and parameter.dtype != np.float32:
                raise TypeError(f"{name} is {parameter.dtype}: on cuda parameters are float32")
        moved = [
            (parameter, device.to(parameter.data, where), device.to(parameter.grad, where))
            for parameter in self.parameters()
        ]
        if where == "cpu" and any(device.of(parameter.data) == "cuda" for parameter, *_ in moved):
            device.cuda().graph.forget(self)
        for parameter, data, grad in moved:
            parameter.data, parameter.grad = data, grad
        for layer in self.walk():
            if isinstance(layer, Weighted):
                layer.precision = precision
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all parameters by name, in NumPy: names, shapes, layouts of PyTorch."""
        return {name: device.copy(parameter.data) for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy the arrays of `state` into the parameters, or change nothing.

        Parameters
        ----------
        state : mapping of names to arrays (anything `np.asarray` takes: PyTorch tensors too)

        Raises
        ------
        ValueError
            Listing every entry that is missing, unknown, of another shape or dtype, or not finite.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state_dict must be a mapping of names, got {type(state).__name__}")
        own = dict(self.named_parameters())
        problems = [f"{name} is missing" for name in own if name not in state]
        problems += [f"{name} is unknown to this net" for name in state if name not in own]
        arrays = {name: as_array(state[name]) for name in own if name in state}
        for name, array in arrays.items():
            problems += mismatches(name, array, own[name].data)
        if problems:
            raise ValueError("state_dict does not fit: " + "; ".join(problems))
        for name, array in arrays.items():
            device.assign(own[name].data, array)


def as_array(value: Any) -> np.ndarray:
    """Return an array of `value`, which may be a PyTorch tensor in training, or on a device."""
    return np.asanyarray(value.detach() if hasattr(value, "detach") else device.plain(value))


def mismatches(name: str, array: np.ndarray, like: np.ndarray) -> list[str]:
    """Return in words why `array` cannot take the place of `like` (nothing if it can)."""
    if isinstance(array, np.ma.MaskedArray):
        return [f"{name} is a masked array"]
    if array.shape != like.shape:
        return [f"{name} has shape {array.shape} but {tuple(like.shape)} is needed"]
    if array.dtype != like.dtype:
        return [f"{name} is {array.dtype} but {like.dtype} is needed"]
    if not np.isfinite(array).all():
        return [f"{name} has values that are not finite"]
    if isinstance(like, np.ndarray) and not like.flags.writeable:
        return [f"{name} is read-only here"]
    return []


def channel_count(value: Any, groups: Any, name: str) -> int:
    """Return a number of channels, which `groups` must divide."""
    channels, groups = integer(name, value, 1), integer("groups", groups, 1)
    if channels % groups:
        raise ValueError(f"{name} {channels} is not divisible by groups {groups}")
    return channels


class Affine(Layer):
    """A layer that is a linear map and, perhaps, a bias: ``y = A x + b``."""

    def adjoint(self, grad_y: np.ndarray, input_shape: tuple[int, ...]) -> np.ndarray:
        """Return the gradient to an input of this shape, ``A^T grad_y``; touch no parameter."""
        raise NotImplementedError

    def without_bias(self) -> Affine:
        """Return the linear map alone, with this layer's own weight in it."""
        return self

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds of one forward pass."""
        return 0


class Weighted(Affine):
    """A layer with a weight and, unless it is None, a bias."""

    precision: str | None = None  # of its products on CUDA

    def __init__(
        self, weight_shape: tuple[int, ...], bias_size: int | None, rng: init.Rng, dtype: Any
    ) -> None:
        weight, bias = init.weight_and_bias(weight_shape, bias_size, rng, dtype)
        self.weight = Parameter(weight)
        self.bias = None if bias is None else Parameter(bias)
        self.options: dict[str, Any] = {}

    @property
    def bias_data(self) -> np.ndarray | None:
        """The bias array, or None."""
        return None if self.bias is None else self.bias.data

    def output(self, x: np.ndarray, relu: bool) -> np.ndarray:
        """Return the output, or its positive part."""
        return F.relu(self(x)) if relu else self(x)

    def adjoint(
        self, grad_y: np.ndarray, input_shape: tuple[int, ...], mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the gradient to an input of this shape, with the mask of a ReLU before it."""
        raise NotImplementedError

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Training: the output, and its backward pass, which keeps x."""
        y = self(x)

        def backward(grad_y: np.ndarray, input_grad: bool) -> np.ndarray | None:
            self.add_grads(grad_y, x)
            return self.adjoint(grad_y, x.shape) if input_grad else None

        return y, Backward(backward, y)

    def add_grads(self, grad_y: np.ndarray, x: np.ndarray) -> None:
        """Add the gradients of the parameters, for an output's gradient and its input."""
        self.add_weight_grad(grad_y, x)
        if self.bias is not None:
            self.bias.add_grad(F.bias_grad(grad_y))

    def add_weight_grad(self, grad_y: np.ndarray, x: np.ndarray) -> None:
        """Add the gradient of the weight, for an output's gradient and its input."""
        raise NotImplementedError

    def without_bias(self) -> Affine:
        """Return the linear map alone, with this layer's own weight in it."""
        bare = copy(self)
        bare.bias = None
        return bare

    def __repr__(self) -> str:
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        bias = "" if self.bias is not None else ", bias=False"
        return f"{type(self).__name__}(weight={self.weight.shape}{options}{bias})"
