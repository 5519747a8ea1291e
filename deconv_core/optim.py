"""Optimizers: they alone write weights. In order of increasing complexity."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from deconv_core import device
from deconv_core import functional as F
from deconv_core.functional.checks import nesterov_options, updatable
from deconv_core.parameters import Parameter, as_array, mismatches


def _number(name: str, value: Any) -> float:
    """Return a finite `value` that is not negative as a float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return number


def _betas(name: str, value: Any) -> tuple[float, float]:
    """Return `value` as two floats in [0, 1)."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be two numbers, got {value!r}")
    first, second = (_number(name, beta) for beta in value)
    if max(first, second) >= 1:
        raise ValueError(f"{name} must be below 1, got {value}")
    return first, second


def _flag(name: str, value: Any) -> bool:
    """Return `value`, which must be True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


class Optimizer:
    """What SGD and Adam share: parameters, checked options, and arrays beside each parameter.

    Attributes
    ----------
    parameters : list of Parameter
    options : dict of the hyper-parameters; ``optimizer.options["lr"] = 1e-4`` changes one
    steps : number of updates made
    arrays : dict of lists, one array a parameter in each
    """

    checks: Mapping[str, Callable[[str, Any], Any]]
    slots: tuple[str, ...]
    counted = True  # whether PyTorch's state tells the number of steps

    def __init__(self, params: Iterable[Parameter], options: dict[str, Any]) -> None:
        self.parameters = list(params)
        if not self.parameters:
            raise ValueError("the optimizer got no parameters")
        for index, parameter in enumerate(self.parameters):
            if not isinstance(parameter, Parameter):
                kind = type(parameter).__name__
                raise TypeError(f"params[{index}] must be a Parameter, got {kind}")
        if len({id(parameter) for parameter in self.parameters}) < len(self.parameters):
            raise ValueError("params has the same parameter more than once")
        self.options = self._checked(options)
        self.steps = 0
        # np.zeros takes no memory until it is written.
        self.arrays = {
            slot: [np.zeros(p.shape, p.dtype) for p in self.parameters] for slot in self.slots
        }
        self._packed: tuple[Any, ...] | None = None  # on CUDA: data, gradient, slots, in one each
        self._packed_grads: list[Any] = []

    def _pieces(self) -> Iterable[tuple[Any, ...]]:
        """Return what `step` updates one after another: data, gradient and an array per slot.

        The state follows the parameters to their device. On CUDA all parameters are moved into one
        array, their gradients into another, and so on, so that one launch updates them all.
        """
        if device.of(self.parameters[0].data) == "cuda":
            grads = [parameter.grad for parameter in self.parameters]
            if self._packed is None or any(map(operator.is_not, grads, self._packed_grads)):
                self._packed = self._pack()
            return [self._packed]
        if self._packed:
            self._packed = None
            for slot, arrays in self.arrays.items():
                self.arrays[slot] = [device.to(array, "cpu") for array in arrays]
        data, grads = [p.data for p in self.parameters], [p.grad for p in self.parameters]
        pieces = list(zip(data, grads, *(self.arrays[slot] for slot in self.slots), strict=True))
        for index, arrays in enumerate(pieces):  # all of them, before any is updated
            try:
                updatable(**dict(zip(("param", "grad", *self.slots), arrays, strict=True)))
            except (TypeError, ValueError) as error:
                raise type(error)(f"parameter {index}: {error}") from error
        return pieces

    def _pack(self) -> tuple[Any, ...]:
        """Move the parameters, their gradients and the state into one array each, on CUDA."""
        for index, parameter in enumerate(self.parameters):
            if (place := device.of(parameter.data)) != "cuda":
                raise TypeError(f"parameter 0 is on cuda but parameter {index} is on {place}")
        data, views = device.pack([p.data for p in self.parameters])
        grad, self._packed_grads = device.pack([p.grad for p in self.parameters])
        for parameter, view, grad_view in zip(
            self.parameters, views, self._packed_grads, strict=True
        ):
            parameter.data, parameter.grad = view, grad_view
        packed = [data, grad]
        for slot in self.slots:
            state = [device.to(array, "cuda") for array in self.arrays[slot]]
            whole, self.arrays[slot] = device.pack(state)
            packed.append(whole)
        return tuple(packed)

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyper-parameters after checking them."""
        return {name: check(name, options[name]) for name, check in self.checks.items()}

    def _slots_in_use(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the arrays that updates with these options need."""
        return self.slots

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to zero, in place."""
        for parameter in self.parameters:
            parameter.zero_grad()

    def step(self) -> None:
        """Update every parameter, in place, from its gradient."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all state, laid out as PyTorch lays it out.

        Returns
        -------
        dict
            ``{"state": {index: {"step": int, slot: array, ...}, ...}, "param_groups": [options]}``
        """
        indices, slots = range(len(self.parameters)), self._slots_in_use(self.options)
        state = {
            i: {"step": self.steps, **{slot: device.copy(self.arrays[slot][i]) for slot in slots}}
            for i in indices
            if self.steps
        }
        return {"state": state, "param_groups": [{**self.options, "params": list(indices)}]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state that `state_dict` returned, or change nothing.

        The state of PyTorch's own optimizer of this name is taken too.

        Raises
        ------
        ValueError, TypeError
            Listing what is missing, of another shape, dtype or number, or not finite.
        """
        options = self._checked(_one_group(state_dict, self.checks, len(self.parameters)))
        slots, state = self._slots_in_use(options), state_dict["state"]
        steps = {0.0}
        arrays, problems = [], []
        if state:
            entries = [state.get(index, {}) for index in range(len(self.parameters))]
            # Where they are not counted, any number but 0 will do.
            steps = {float(entry.get("step", -1 if self.counted else 1)) for entry in entries}
            arrays = [
                (slot, i, as_array(e.get(slot))) for slot in slots for i, e in enumerate(entries)
            ]
        for slot, i, array in arrays:
            name = f"{slot} of parameter {i}"
            problems += mismatches(name, array, self.arrays[slot][i])
        if len(steps) > 1 or not (min(steps) >= 0 and min(steps).is_integer()):
            problems.append(
                f"the numbers of steps {sorted(steps)} (-1 for none) are not one number from 0 on"
            )
        if problems:
            raise ValueError("the optimizer's state does not fit: " + "; ".join(problems))
        self.options, self.steps = options, int(steps.pop())
        for slot in self.slots:
            for own in self.arrays[slot]:
                device.clear(own)
        for slot, i, array in arrays:
            device.assign(self.arrays[slot][i], array)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{type(self).__name__}({len(self.parameters)} parameters, {options})"


# Entries of PyTorch's groups that change no update.
_WITHOUT_EFFECT = {"params", "initial_lr", "foreach", "fused", "capturable", "differentiable"}


def _one_group(state_dict: Any, names: Iterable[str], count: int) -> Mapping[str, Any]:
    """Return the only parameter group of an optimizer's state, after checking its entries."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError('an optimizer\'s state must be a mapping with "state" and "param_groups"')
    groups, names = state_dict["param_groups"], set(names)
    if len(groups) != 1 or len(groups[0]["params"]) != count:
        sizes = [len(group["params"]) for group in groups]
        raise ValueError(f"the state has groups of {sizes} parameters, not one group of {count}")
    missing = names - set(groups[0])
    unknown = {key for key, value in groups[0].items() if value} - names - _WITHOUT_EFFECT
    if missing or unknown:
        raise ValueError(
            f"the state is of another optimizer: it lacks {sorted(missing) or 'no options'} "
            f"and has {sorted(unknown) or 'no options'} unknown here"
        )
    return groups[0]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    Parameters
    ----------
    params : iterable of Parameter
    lr, momentum, dampening, weight_decay : finite numbers, none negative
    nesterov : bool; needs momentum and no dampening

    Raises
    ------
    ValueError, TypeError
        Naming the hyper-parameter and its value.

    Examples
    --------
    >>> weight = Parameter(np.ones(1, np.float32))
    >>> weight.grad += 2
    >>> SGD([weight], lr=0.25).step()
    >>> weight.data.tolist()
    [0.5]
    """

    checks = {
        "lr": _number,
        "momentum": _number,
        "dampening": _number,
        "weight_decay": _number,
        "nesterov": _flag,
    }
    slots = ("momentum_buffer",)
    counted = False

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        options = dict(lr=lr, momentum=momentum, dampening=dampening)
        super().__init__(params, options | dict(weight_decay=weight_decay, nesterov=nesterov))

    def _checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyper-parameters after checking them, and nesterov against the others."""
        checked = super()._checked(options)
        nesterov_options(checked["nesterov"], checked["momentum"], checked["dampening"])
        return checked

    def _slots_in_use(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Without momentum there is nothing to keep."""
        return self.slots if options["momentum"] else ()

    def step(self) -> None:
        """Update every parameter, in place, from its gradient."""
        options = self._checked(self.options)
        for data, grad, buffer in self._pieces():
            F.sgd_step(
                data, grad, buffer if options["momentum"] else None, self.steps == 0, **options
            )
        self.steps += 1


class Adam(Optimizer):
    """Adam with bias correction, as ``torch.optim.Adam``.

    Parameters
    ----------
    params : iterable of Parameter
    lr, eps, weight_decay : finite numbers, none negative
    betas : two numbers in [0, 1)

    Raises
    ------
    ValueError, TypeError
        Naming the hyper-parameter and its value.

    Examples
    --------
    >>> weight = Parameter(np.ones(1, np.float32))
    >>> weight.grad += 2
    >>> Adam([weight], lr=0.25).step()
    >>> weight.data.round(4).tolist()
    [0.75]
    """

    checks = {"lr": _number, "betas": _betas, "eps": _number, "weight_decay": _number}
    slots = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    def step(self) -> None:
        """Update every parameter, in place, from its gradient."""
        options = self._checked(self.options)
        beta1, beta2 = options["betas"]
        pieces = self._pieces()
        self.steps += 1
        for data, grad, exp_avg, exp_avg_sq in pieces:
            F.adam_step(
                data,
                grad,
                exp_avg,
                exp_avg_sq,
                self.steps,
                options["lr"],
                beta1,
                beta2,
                options["eps"],
                options["weight_decay"],
            )
