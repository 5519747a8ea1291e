"""Sequential: names, chaining, and state_dicts to and from PyTorch."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch

from deconv_core.layers import Conv2d, Flatten, ReLU
from deconv_core.linear import Linear
from deconv_core.parameters import Backward, Layer, Parameter
from deconv_core.sequential import Sequential


def nets() -> tuple[Sequential, torch.nn.Sequential]:
    """Return a nested net and PyTorch's same net, with weights of their own."""
    ours = Sequential(
        Sequential({"conv": Conv2d(2, 3, 3, rng=0), "relu": ReLU()}),
        Flatten(),
        Linear(48, 5, rng=1),
    )
    block = OrderedDict(conv=torch.nn.Conv2d(2, 3, 3), relu=torch.nn.ReLU())
    theirs = torch.nn.Sequential(
        torch.nn.Sequential(block), torch.nn.Flatten(), torch.nn.Linear(48, 5)
    )
    return ours, theirs


def test_weights_go_to_pytorch_and_back() -> None:
    ours, theirs = nets()
    x = np.random.default_rng(0).standard_normal((4, 2, 6, 6)).astype(np.float32)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-6)

    fresh, theirs_too = nets()
    theirs_too.load_state_dict({n: torch.from_numpy(a) for n, a in fresh.state_dict().items()})
    expected = theirs_too(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(fresh(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("input_grad", [True, False])
def test_backward_follows_pytorch(input_grad: bool) -> None:
    ours, theirs = nets()
    ours.load_state_dict(theirs.state_dict())
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 2, 6, 6)).astype(np.float32)
    grad_y = rng.standard_normal((4, 5)).astype(np.float32)
    torch_x = torch.from_numpy(x).requires_grad_()
    theirs(torch_x).backward(torch.from_numpy(grad_y))
    y, backward = ours.forward(x)
    np.testing.assert_array_equal(y, ours(x))
    grad_x = backward(grad_y, input_grad)
    if input_grad:
        assert torch_x.grad is not None
        np.testing.assert_allclose(grad_x, torch_x.grad.numpy(), rtol=1e-4, atol=1e-5)
    else:
        assert grad_x is None
    for (name, parameter), (their_name, theirs_p) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == their_name and theirs_p.grad is not None
        np.testing.assert_allclose(parameter.grad, theirs_p.grad.numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="called already"):
        backward(grad_y)


def test_input_gradient_is_skipped_only_where_nobody_needs_it() -> None:
    asked: list[tuple[str, bool]] = []

    class Probe(Layer):
        def __init__(self, name: str) -> None:
            self.name = name

        def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
            def backward(grad: np.ndarray, input_grad: bool) -> np.ndarray | None:
                asked.append((self.name, input_grad))
                return grad if input_grad else None

            return x, Backward(backward, x)

    net = Sequential(Probe("a"), Sequential(Probe("b"), Probe("c")))
    x = np.ones(3)
    assert net.forward(x)[1](x, input_grad=False) is None
    assert asked == [("c", True), ("b", True), ("a", False)]


def test_state_dict_is_a_copy() -> None:
    ours, _ = nets()
    state = ours.state_dict()
    state["2.bias"][:] = 7
    assert not (ours[2].bias.data == 7).any()  # type: ignore[attr-defined]
    ours.load_state_dict(state)
    state["2.bias"][:] = 8
    assert (ours[2].bias.data == 7).all()  # type: ignore[attr-defined]


def test_everything_wrong_with_a_state_dict_is_listed_and_nothing_changes() -> None:
    ours, _ = nets()
    before = ours.state_dict()
    state = ours.state_dict()
    good = state["0.conv.weight"] + 1
    bad = {
        "0.conv.weight": good,
        "0.conv.bias": np.zeros(4, np.float32),
        "2.weight": state["2.weight"].astype(np.float64),
        "3.weight": np.zeros(1),
    }
    with pytest.raises(ValueError) as caught:
        ours.load_state_dict(bad)
    message = str(caught.value)
    for part in (
        "2.bias is missing",
        "3.weight is unknown",
        "0.conv.bias has shape (4,) but (3,)",
        "2.weight is float64 but float32",
    ):
        assert part in message
    state["2.bias"][1] = np.nan
    with pytest.raises(ValueError, match="2.bias has values that are not finite"):
        ours.load_state_dict(state)
    with pytest.raises(TypeError, match="mapping.*list"):
        ours.load_state_dict([1])  # type: ignore[arg-type]
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_names_positions_and_length() -> None:
    conv, relu = Conv2d(2, 3, 3, rng=0), ReLU()
    for net in (
        Sequential({"conv": conv, "relu": relu}),
        Sequential([("conv", conv), ("relu", relu)]),
        Sequential(OrderedDict(conv=conv, relu=relu)),
    ):
        assert len(net) == 2 and list(net) == [conv, relu]
        assert net[0] is conv and net[-1] is relu and net["relu"] is relu
        assert [name for name, _ in net.named_parameters()] == ["conv.weight", "conv.bias"]
    assert list(dict(Sequential(conv, relu).named_parameters())) == ["0.weight", "0.bias"]
    assert net.output_shape((1, 2, 6, 6)) == (1, 3, 4, 4)
    assert repr(Sequential(relu)) == "Sequential(\n  0: ReLU()\n)"


def test_a_slice_is_a_net_of_the_same_layers() -> None:
    net = Sequential({"conv": Conv2d(2, 3, 3, rng=0), "relu": ReLU(), "flat": Flatten()})
    assert isinstance(net[1:], Sequential) and list(net[1:].children()) == ["relu", "flat"]
    assert list(net[:-1]) == [net["conv"], net["relu"]] and len(net[3:]) == 0


def test_layers_that_a_subclass_has_as_attributes_are_trained_too() -> None:
    class Headed(Sequential):
        def __init__(self) -> None:
            super().__init__(Flatten(), Linear(4, 5, rng=0))
            self.head = Linear(5, 2, rng=0)

    names = [name for name, _ in Headed().named_parameters()]
    assert names == ["1.weight", "1.bias", "head.weight", "head.bias"]


def test_what_cannot_be_loaded_is_named_and_nothing_changes() -> None:
    net = Sequential(Linear(2, 2, rng=0))
    before, state = net.state_dict(), {"0.weight": np.ones((2, 2), np.float32)}
    net[0].bias.data.flags.writeable = False
    with pytest.raises(ValueError, match=r"0\.bias is read-only"):
        net.load_state_dict(state | {"0.bias": np.ones(2, np.float32)})
    masked = np.ma.masked_array(np.ones(2, np.float32), [True, False])
    with pytest.raises(ValueError, match=r"0\.bias is a masked array"):
        net.load_state_dict(state | {"0.bias": masked})
    np.testing.assert_array_equal(net.state_dict()["0.weight"], before["0.weight"])


def test_an_empty_net_is_the_identity() -> None:
    x = np.ones((2, 3))
    y, backward = Sequential().forward(x)
    assert y is x and backward(x) is x and Sequential()(x) is x
    assert Sequential().parameters() == []


@pytest.mark.parametrize(
    "layers, error, message",
    [
        ({"a.b": ReLU()}, ValueError, r"without dots, got 'a\.b'"),
        ({"": ReLU()}, ValueError, "got ''"),
        ([("a", ReLU()), ("a", ReLU())], ValueError, "'a' is used by two"),
        ({"a": np.tanh}, TypeError, "'a' must be a Layer, got ufunc"),
    ],
)
def test_bad_names_and_layers_are_refused(layers, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Sequential(layers)


def test_a_shared_layer_is_trained_once_and_its_gradients_add_up() -> None:
    shared = Linear(3, 3, bias=False, rng=0, dtype=np.float64)
    net = Sequential(shared, shared)
    assert len(net.parameters()) == 1 and len(net.state_dict()) == 2
    x = np.random.default_rng(0).standard_normal((4, 3))
    y, backward = net.forward(x)
    backward(np.ones_like(y))
    w = torch.from_numpy(shared.weight.data).requires_grad_()
    (torch.from_numpy(x) @ w.T @ w.T).sum().backward()
    assert w.grad is not None
    np.testing.assert_allclose(shared.weight.grad, w.grad.numpy(), rtol=1e-12)


def test_a_layer_of_ones_own_takes_part() -> None:
    class Scale(Layer):
        def __init__(self) -> None:
            self.factor = Parameter(np.full(1, 3.0))

        def __call__(self, x: np.ndarray) -> np.ndarray:
            return x * self.factor.data

    class Twice(Layer):
        def __init__(self) -> None:
            self.first, self.second = Scale(), Scale()

    net = Sequential({"scale": Scale(), "both": Twice()})
    assert list(net.state_dict()) == ["scale.factor", "both.first.factor", "both.second.factor"]
    with pytest.raises(NotImplementedError):
        net.forward(np.ones(2))


def test_a_list_of_layers_without_names_is_refused() -> None:
    with pytest.raises(TypeError, match=r"\(name, layer\) pairs.*Sequential\(a, b\)"):
        Sequential([ReLU(), ReLU()])


def test_tensors_in_training_are_loaded() -> None:
    theirs = torch.nn.Linear(3, 2)
    ours = Linear(3, 2, rng=0)
    ours.load_state_dict(dict(theirs.named_parameters()))
    np.testing.assert_array_equal(ours.weight.data, theirs.weight.detach().numpy())
