"""Optimizers against torch.optim, step by step; their state, and bad hyper-parameters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from deconv_core.optim import SGD, Adam, Optimizer
from deconv_core.parameters import Parameter

OPTIONS: list[tuple[type[Optimizer], type, dict[str, Any]]] = [
    (SGD, torch.optim.SGD, dict(lr=0.1)),
    (SGD, torch.optim.SGD, dict(lr=0.1, weight_decay=0.3)),
    (SGD, torch.optim.SGD, dict(lr=0.05, momentum=0.9)),
    (SGD, torch.optim.SGD, dict(lr=0.05, momentum=0.9, dampening=0.4, weight_decay=0.1)),
    (SGD, torch.optim.SGD, dict(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1)),
    (Adam, torch.optim.Adam, {}),
    (Adam, torch.optim.Adam, dict(lr=0.05, betas=(0.7, 0.9), eps=1e-3)),
    (Adam, torch.optim.Adam, dict(lr=0.05, weight_decay=0.2)),
    (Adam, torch.optim.Adam, dict(lr=0.05, betas=(0.0, 0.0))),
]
IDS = [f"{ours.__name__}-{i}" for i, (ours, _, _) in enumerate(OPTIONS)]


def parameters(dtype: type = np.float64) -> list[Parameter]:
    """Return two parameters, one with several axes."""
    rng = np.random.default_rng(0)
    return [Parameter(rng.standard_normal(s).astype(dtype)) for s in ((3, 4, 2), (5,))]


def twins(params: list[Parameter]) -> list[torch.nn.Parameter]:
    """Return the same parameters in PyTorch, in float64: its own rounding is no yardstick."""
    return [torch.nn.Parameter(torch.tensor(p.data, dtype=torch.float64)) for p in params]


def run(params: list[Parameter], ours: Optimizer, others: Any, theirs: Any, steps: int) -> None:
    """Give both the same gradients and make the same steps."""
    rng = np.random.default_rng(1)
    for step in range(steps):
        ours.zero_grad()
        for parameter, other in zip(params, others, strict=True):
            grad = rng.standard_normal(parameter.shape) * 10.0 ** (step % 3 - 1)
            parameter.grad += grad.astype(parameter.dtype)
            other.grad = torch.tensor(parameter.grad, dtype=torch.float64)
        ours.step()
        theirs.step()


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-5)])
@pytest.mark.parametrize("kind, torch_kind, options", OPTIONS, ids=IDS)
def test_fifty_steps_follow_pytorch(kind, torch_kind, options, dtype, tolerance) -> None:
    params = parameters(dtype)
    others = twins(params)
    run(params, kind(params, **options), others, torch_kind(others, **{"lr": 1e-3} | options), 50)
    for parameter, other in zip(params, others, strict=True):
        assert parameter.dtype == dtype
        np.testing.assert_allclose(
            parameter.data, other.detach().numpy(), rtol=tolerance, atol=tolerance
        )


def test_adam_divides_by_zero_as_pytorch_does() -> None:
    params = parameters()
    others = twins(params)
    ours, theirs = Adam(params, lr=0.1, eps=0.0), torch.optim.Adam(others, lr=0.1, eps=0.0)
    for parameter, other in zip(params, others, strict=True):
        parameter.grad[..., 1:] = 1.0  # and 0 before it: 0 / 0
        other.grad = torch.tensor(parameter.grad)
    ours.step()
    theirs.step()
    for parameter, other in zip(params, others, strict=True):
        assert np.isnan(parameter.data[..., 0]).all()
        np.testing.assert_allclose(parameter.data, other.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("kind, torch_kind, options", OPTIONS, ids=IDS)
def test_state_comes_from_pytorch(kind, torch_kind, options) -> None:
    params = parameters()
    others = twins(params)
    theirs = torch_kind(others, **{"lr": 1e-3} | options)
    run(params, kind(parameters(), lr=0.5), others, theirs, 3)
    for parameter, other in zip(params, others, strict=True):
        parameter.data[...] = other.detach().numpy()
    ours = kind(params, lr=0.5)
    ours.load_state_dict(theirs.state_dict())
    run(params, ours, others, theirs, 10)
    for parameter, other in zip(params, others, strict=True):
        np.testing.assert_allclose(parameter.data, other.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("kind, torch_kind, options", OPTIONS, ids=IDS)
def test_state_goes_on_bit_for_bit(kind, torch_kind, options) -> None:
    def five_steps(optimizer: Optimizer) -> None:
        for step in range(5):
            for parameter in optimizer.parameters:
                parameter.grad[...] = np.cos(parameter.data + step)
            optimizer.step()

    one = kind(parameters(), **options)
    five_steps(one)
    state, weights = one.state_dict(), [p.data.copy() for p in one.parameters]
    kept = copy.deepcopy(state)
    five_steps(one)
    other = kind([Parameter(w) for w in weights], lr=7.0)
    other.load_state_dict(state)
    five_steps(other)
    for a, b in zip(one.parameters, other.parameters, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    for i, entry in kept["state"].items():  # the state was a copy, and loading copied it
        for name, value in entry.items():
            np.testing.assert_array_equal(state["state"][i][name], value)


def test_state_of_a_fresh_optimizer_resets() -> None:
    params = parameters()
    used, fresh = Adam(params, lr=0.1), Adam(parameters())
    for parameter in params:
        parameter.grad += 1
    used.step()
    used.load_state_dict(fresh.state_dict())
    assert used.steps == 0 and used.options["lr"] == 1e-3
    assert not any(array.any() for arrays in used.arrays.values() for array in arrays)


def _damage(state: dict[str, Any], how: str) -> dict[str, Any]:
    """Return a state with one thing wrong."""
    entry = state["state"][1]
    if how == "missing":
        del entry["exp_avg"]
    elif how == "shape":
        entry["exp_avg"] = np.zeros(6)
    elif how == "dtype":
        entry["exp_avg"] = entry["exp_avg"].astype(np.float32)
    elif how == "masked":
        entry["exp_avg"] = np.ma.masked_array(entry["exp_avg"], entry["exp_avg"] > 0)
    elif how == "nan":
        entry["exp_avg_sq"][0] = np.nan
    elif how == "steps":
        entry["step"] = 9
    elif how == "half":
        state["state"] = {i: {**each, "step": 1.5} for i, each in state["state"].items()}
    elif how == "uncounted":
        for each in state["state"].values():
            del each["step"]
    elif how == "count":
        state["param_groups"][0]["params"] = [0]
    elif how == "option":
        state["param_groups"][0]["amsgrad"] = True
    elif how == "lacking":
        del state["param_groups"][0]["eps"]
    elif how == "value":
        state["param_groups"][0]["lr"] = -1.0
    elif how == "form":
        del state["param_groups"]
    return state


@pytest.mark.parametrize(
    "how, message",
    [
        ("missing", "exp_avg of parameter 1"),
        ("shape", r"exp_avg of parameter 1 has shape \(6,\) but \(5,\)"),
        ("dtype", "exp_avg of parameter 1 is float32 but float64"),
        ("masked", "exp_avg of parameter 1 is a masked array"),
        ("nan", "exp_avg_sq of parameter 1 .*not finite"),
        ("steps", r"\[1\.0, 9\.0\]"),
        ("half", r"\[1\.5\]"),
        ("uncounted", r"steps \[-1\.0\] \(-1 for none\)"),
        ("count", r"\[1\] parameters, not one group of 2"),
        ("option", "amsgrad"),
        ("lacking", "lacks.*eps"),
        ("value", "lr .*-1"),
        ("form", "param_groups"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(how: str, message: str) -> None:
    params = parameters()
    optimizer = Adam(params)
    for parameter in params:
        parameter.grad += 1
    optimizer.step()
    before = optimizer.state_dict()
    with pytest.raises((ValueError, TypeError), match=message):
        optimizer.load_state_dict(_damage(optimizer.state_dict(), how))
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"] and optimizer.steps == 1
    for index, entry in before["state"].items():
        for name, value in entry.items():
            np.testing.assert_array_equal(after["state"][index][name], value)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda p: Adam(p, lr=-1), ValueError, "lr .*-1"),
        (lambda p: Adam(p, lr=float("nan")), ValueError, "lr .*nan"),
        (lambda p: Adam(p, lr="fast"), TypeError, "lr .*'fast'"),
        (lambda p: Adam(p, lr=True), TypeError, "lr .*True"),
        (lambda p: Adam(p, lr=np.True_), TypeError, "lr .*True"),
        (lambda p: Adam(p, lr=b"a"), TypeError, "lr .*b'a'"),
        (lambda p: Adam(p, lr=1j), TypeError, "lr .*1j"),
        (lambda p: Adam(p, betas=(0.9, 1.0)), ValueError, r"betas .*1\.0"),
        (lambda p: Adam(p, betas=0.9), TypeError, r"betas .*0\.9"),
        (lambda p: Adam(p, eps=-1e-8), ValueError, "eps .*-1e-08"),
        (lambda p: Adam(p, weight_decay=-0.1), ValueError, r"weight_decay .*-0\.1"),
        (lambda p: SGD(p, momentum=-0.5), ValueError, r"momentum .*-0\.5"),
        (lambda p: SGD(p, nesterov=True), ValueError, "nesterov.*momentum 0"),
        (lambda p: SGD(p, nesterov=1), TypeError, "nesterov .*1"),
        (lambda p: SGD([]), ValueError, "no parameters"),
        (lambda p: SGD([p[0], p[0]]), ValueError, "more than once"),
        (lambda p: SGD([p[0].data]), TypeError, r"params\[0\].*ndarray"),
    ],
)
def test_bad_hyper_parameters_are_refused(make, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make(parameters())


def test_options_changed_later_are_used_and_checked() -> None:
    (parameter,) = params = [Parameter(np.ones(1))]
    optimizer = SGD(params, lr=1.0)
    parameter.grad += 1
    optimizer.options["lr"] = 0.25
    optimizer.step()
    assert parameter.data.tolist() == [0.75]
    optimizer.options["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        optimizer.step()
    assert parameter.data.tolist() == [0.75]
    assert "lr=-1.0" in repr(optimizer)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_what_one_parameter_lacks_leaves_all_as_they_were(kind: type[Optimizer]) -> None:
    params = parameters()
    before = [p.data.copy() for p in params]
    optimizer = kind(params, lr=0.1)  # type: ignore[call-arg, arg-type]
    params[0].grad += 1
    params[1].data.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 1: param is read-only"):
        optimizer.step()
    assert optimizer.steps == 0
    for parameter, data in zip(params, before, strict=True):
        np.testing.assert_array_equal(parameter.data, data)


def test_the_state_of_a_scheduled_optimizer_is_taken() -> None:
    params = parameters()
    theirs = torch.optim.Adam(twins(params), lr=0.5, foreach=True)
    torch.optim.lr_scheduler.StepLR(theirs, 1)
    ours = Adam(params)
    ours.load_state_dict(theirs.state_dict())
    assert ours.options["lr"] == 0.5
