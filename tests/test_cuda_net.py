"""Nets on CUDA, in the simulator: they follow the CPU's, step by step, and waste nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import example_run
import numpy as np
import pytest
from on_cuda import here, simulated, there

import deconv_core as dc
from deconv_core import checkpoint, device
from deconv_core.parameters import Parameter

pytestmark = simulated
X = np.random.default_rng(1).standard_normal((5, 1, 4, 4)).astype(np.float32)
TARGET = np.array([0, 1, 1, 0, 1])


def tiny() -> dc.Sequential:
    """Return a net with every kind of layer, as DDNet has them."""
    rng = np.random.default_rng(0)
    return dc.Sequential(
        {
            "conv1": dc.Conv2d(1, 2, 3, padding=1, rng=rng),
            "relu1": dc.ReLU(),
            "pool1": dc.MaxPool2d(2),
            "deconv1": dc.ConvTranspose2d(2, 1, 3, stride=2, padding=1, rng=rng),
            "flatten": dc.Flatten(),
            "fc": dc.Linear(9, 2, rng=rng),
        }
    )


def small() -> dc.Sequential:
    """Return a net that the simulator runs fast."""
    rng = np.random.default_rng(0)
    return dc.Sequential(
        dc.Flatten(), dc.Linear(16, 3, rng=rng), dc.ReLU(), dc.Linear(3, 2, rng=rng)
    )


def assert_follows(cpu: dc.Sequential, cuda: dc.Sequential) -> None:
    """Compare all weights."""
    states = cpu.state_dict(), cuda.state_dict()
    assert list(states[0]) == list(states[1])
    for name in states[0]:
        np.testing.assert_allclose(states[1][name], states[0][name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("collapse", [False, True])
def test_a_net_follows_the_cpu(collapse: bool) -> None:
    nets = tiny(), tiny()
    assert nets[1].to("cuda") is nets[1]
    optimizers = [dc.Adam(net.parameters(), lr=1e-2) for net in nets]
    steps = [
        (net, dc.CrossEntropyLoss(), optimizer, move(X), move(TARGET), "auto", collapse)
        for net, optimizer, move in zip(nets, optimizers, (here, there), strict=True)
    ]
    assert nets[1].collapsed(X.shape, training=True)[1] is not None, "there is a tail to collapse"
    for _ in range(2 - collapse):
        expected, loss = (dc.train_step(*step) for step in steps)
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert_follows(*nets)
    if not collapse:
        np.testing.assert_allclose(here(nets[1](there(X))), nets[0](X), atol=1e-5)


def test_slices_of_a_batch_sum_up() -> None:
    nets, losses = [small().to("cuda") for _ in range(2)], []
    for net, micro_batch in zip(nets, (None, 2), strict=True):
        optimizer = dc.SGD(net.parameters(), lr=0.1)
        loss = dc.train_step(
            net, dc.CrossEntropyLoss(), optimizer, there(X), there(TARGET), micro_batch
        )
        losses.append(float(loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert_follows(*nets)


def test_the_optimizer_s_state_follows_the_net() -> None:
    nets = small(), small()
    optimizers = [dc.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
    for place in ("cpu", "cuda", "cuda", "cpu"):
        nets[1].to(place)
        dc.train_step(nets[0], dc.CrossEntropyLoss(), optimizers[0], X, TARGET)
        batch = [device.to(a, place) for a in (X, TARGET)]
        dc.train_step(nets[1], dc.CrossEntropyLoss(), optimizers[1], *batch)
        assert_follows(*nets)
        saved = optimizers[1].state_dict()["state"]
        for index, expected in optimizers[0].state_dict()["state"].items():
            buffer = saved[index]["momentum_buffer"]
            np.testing.assert_allclose(buffer, expected["momentum_buffer"], atol=1e-5)


def test_states_are_saved_and_loaded_from_the_device(tmp_path: Path) -> None:
    net = small().to("cuda")
    optimizer = dc.Adam(net.parameters(), lr=0.1)
    step = (dc.CrossEntropyLoss(), optimizer, there(X), there(TARGET))
    dc.train_step(net, *step)
    state, moments = net.state_dict(), optimizer.state_dict()
    assert all(type(a) is np.ndarray for a in state.values())
    arrays = {name: p.data for name, p in net.named_parameters()}
    checkpoint.save(tmp_path / "net", arrays, {})
    for name, array in checkpoint.load(tmp_path / "net")[0].items():
        np.testing.assert_array_equal(array, state[name])
    expected = float(dc.train_step(net, *step))
    net.load_state_dict(state)
    optimizer.load_state_dict(moments)
    assert float(dc.train_step(net, *step)) == expected


def test_nothing_is_allocated_in_a_steady_step(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = device.cuda().blocks
    net = small().to("cuda")
    optimizer = dc.Adam(net.parameters())
    x, target = there(X), there(TARGET)
    for _ in range(2):
        dc.train_step(net, dc.CrossEntropyLoss(), optimizer, x, target)
    used = blocks.in_use()
    made: list[int] = []
    monkeypatch.setattr(blocks, "_allocate", made.append)
    read: list[Any] = []
    loss_type = device.cuda().loss.Loss
    monkeypatch.setattr(loss_type, "__float__", read.append)
    dc.train_step(net, dc.CrossEntropyLoss(), optimizer, x, target)
    assert made == read == [] and blocks.in_use() == used


def test_all_parameters_are_updated_in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, launches = device.cuda(), []
    step = kernels.adam_step
    monkeypatch.setattr(kernels, "adam_step", lambda *a: (launches.append(a), step(*a)))
    parameters = [Parameter(np.full(n, 1.0, np.float32)) for n in (3, 200, 0, 1)]
    net = dc.Layer()
    net.__dict__ |= {str(i): p for i, p in enumerate(parameters)}
    net.to("cuda")
    optimizer = dc.Adam(parameters, lr=0.25)
    for parameter in parameters:
        parameter.add_grad(there(np.full(parameter.shape, 2.0, np.float32)))
    optimizer.step()
    assert len(launches) == 1
    for parameter in parameters:
        np.testing.assert_allclose(here(parameter.data), np.full(parameter.shape, 0.75), rtol=1e-6)
    net.to("cpu")
    optimizer.step()
    assert len(launches) == 1


def test_evaluation_and_batches_that_are_fed() -> None:
    nets = small(), small().to("cuda")
    batches = [(X, TARGET), (X[:2], TARGET[:2]), (X[2:], TARGET[2:])]
    expected = dc.evaluate(nets[0], batches)
    result = dc.evaluate(nets[1], device.feed(batches, "cuda"))
    assert result.confusion.tolist() == expected.confusion.tolist()


def test_a_loss_that_is_not_finite_shows_when_it_is_read() -> None:
    net = small().to("cuda")
    bad = there(np.full_like(X, np.nan))
    loss = dc.train_step(net, dc.CrossEntropyLoss(), dc.SGD(net.parameters()), bad, there(TARGET))
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        float(loss)
    with pytest.raises(FloatingPointError, match="not finite"):
        dc.evaluate(net, [(bad, TARGET)])


@pytest.mark.parametrize("precision", [None, "float32", "tf32", "3xtf32"])
def test_a_precision_reaches_the_kernels(
    precision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, asked = device.cuda(), []
    net = small().to("cuda", precision=precision)
    for name in ("linear_forward", "linear_weight_grad", "linear_input_grad"):
        function = getattr(kernels, name)

        def watched(*args: Any, function: Any = function, **options: Any) -> Any:
            asked.append(options.get("precision"))
            return function(*args)

        monkeypatch.setattr(kernels, name, watched)
    y, backward = net.forward(there(X))
    backward(y)
    assert len(asked) == 6 and set(asked) == {precision}
    net.to("cpu")
    assert np.isfinite(net(X)).all()


def test_the_example_trains_on_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def net_of_shapes(*_: Any) -> dc.Sequential:
        return dc.Sequential(dc.AvgPool2d(4), dc.Flatten(), dc.Linear(12, 10, rng=0))

    monkeypatch.setattr(dc, "DDNet", net_of_shapes)
    options = ["--dataset", "shapes", "--epochs", "1", "--batch-size", "2", "--image-size", "8"]
    options += ["--limit-train", "5", "--limit-test", "2"]
    lines = []
    for place in ("cpu", "cuda"):
        out = tmp_path / place
        assert example_run.load().main([*options, "--device", place, "--out", str(out)]) == 0
        written = (out / "metrics.jsonl").read_text().splitlines()
        lines.append([json.loads(line) for line in written])
    assert "Accuracy of the DDNet on the 2 test images" in capsys.readouterr().out
    for one, other in zip(*lines, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
