"""train_step, predict and evaluate: slices equal the whole, and nothing is lost on errors."""

from __future__ import annotations

import numpy as np
import pytest

from deconv_core.layers import Conv2d, ConvTranspose2d, Flatten, MaxPool2d, ReLU
from deconv_core.linear import Linear
from deconv_core.losses import CrossEntropyLoss
from deconv_core.models import DDNet
from deconv_core.optim import SGD
from deconv_core.parameters import Backward, Layer
from deconv_core.sequential import Sequential
from deconv_core.training import evaluate, predict, slice_size, train_step


def small_net(dtype: type = np.float64) -> Sequential:
    """Return a net with one layer of each kind."""
    made: dict = dict(rng=np.random.default_rng(0), dtype=dtype)
    return Sequential(
        Conv2d(2, 4, 3, padding=1, **made),
        ReLU(),
        MaxPool2d(2),
        ConvTranspose2d(4, 2, 3, stride=2, padding=1, **made),
        Flatten(),
        Linear(2 * 5 * 5, 3, **made),
    )


def batch(count: int = 7, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((count, 2, 6, 6)).astype(dtype), rng.integers(0, 3, count)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7, 100, "auto"])
def test_slices_make_the_same_step_as_the_whole_batch(micro_batch: int | str) -> None:
    x, target = batch()
    results = []
    for size in (None, micro_batch):
        net = small_net()
        optimizer = SGD(net.parameters(), lr=0.1)
        loss = train_step(net, CrossEntropyLoss(0.1), optimizer, x, target, size)
        results.append((loss, net))
    (loss, whole), (sliced_loss, sliced) = results
    assert sliced_loss == pytest.approx(loss, rel=1e-13)
    for a, b in zip(whole.parameters(), sliced.parameters(), strict=True):
        np.testing.assert_allclose(b.grad, a.grad, rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(b.data, a.data, rtol=1e-12)


class Residual(Layer):
    """Adds its input to a layer's output, and in place to the gradient that it is given."""

    def __init__(self, features: int) -> None:
        self.inner = Linear(features, features, rng=0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x + self.inner(x)

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        y, inner = self.inner.forward(x)

        def backward(grad: np.ndarray, input_grad: bool) -> np.ndarray | None:
            grad += inner(grad)
            return grad if input_grad else None

        return x + y, Backward(backward, y)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_layers_may_change_the_gradients_that_they_are_given(micro_batch: int | None) -> None:
    x, target = batch()
    nets = [Sequential(Flatten(), Residual(72), Linear(72, 3, rng=1)) for _ in range(2)]
    y, backward = nets[0].forward(x.astype(np.float32))
    backward(CrossEntropyLoss()(y, target)[1])
    optimizer = SGD(nets[1].parameters(), lr=0)
    train_step(nets[1], CrossEntropyLoss(), optimizer, x.astype(np.float32), target, micro_batch)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        np.testing.assert_allclose(b.grad, a.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("read_only", [False, True])
def test_criteria_may_give_the_same_array_again(read_only: bool) -> None:
    x, target = batch(8)
    constant = np.full((8, 3), 0.25)
    constant.flags.writeable = not read_only
    grads = []
    for micro_batch in (None, 2):
        net = small_net()

        def criterion(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
            return 0.0, constant[: len(logits)]

        train_step(net, criterion, SGD(net.parameters(), lr=0), x, target, micro_batch)
        grads.append([p.grad.copy() for p in net.parameters()])
    for whole, sliced in zip(*grads, strict=True):
        np.testing.assert_allclose(sliced * 4, whole, rtol=1e-11, atol=1e-13)
    assert (constant == 0.25).all()


def test_gradients_of_an_earlier_step_do_not_leak() -> None:
    x, target = batch()
    net = small_net()
    optimizer = SGD(net.parameters(), lr=0)
    train_step(net, CrossEntropyLoss(), optimizer, x, target)
    first = [p.grad.copy() for p in net.parameters()]
    train_step(net, CrossEntropyLoss(), optimizer, x, target)
    for parameter, grad in zip(net.parameters(), first, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)


def test_slices_are_chosen_from_shapes() -> None:
    def images(size: int) -> np.ndarray:
        return np.broadcast_to(np.float32(0), (128, 3, size, size))

    assert slice_size(DDNet(), images(32), "auto") == 8
    assert slice_size(DDNet(image_size=64), images(64), "auto") == 2
    assert slice_size(DDNet(variant="pooled"), images(32), "auto") == 64
    assert slice_size(small_net(), np.zeros((9, 2, 6, 6)), "auto") == 9
    assert slice_size(DDNet(), images(32), None) == 128
    assert slice_size(DDNet(), images(32), np.int64(5)) == 5
    nested = Sequential(Sequential(Conv2d(1, 2, 1, rng=0), ReLU()), Flatten())
    big = np.broadcast_to(np.float32(0), (128, 1, 512, 512))  # 3 * 2 MiB an image
    assert slice_size(nested, big, "auto") == 8


@pytest.mark.parametrize("micro_batch", [1, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights(value: float, micro_batch: int) -> None:
    x, target = batch(4)
    x[3, 0, 2, 2] = value
    net = small_net()
    optimizer = SGD(net.parameters(), lr=0.1)
    before = net.state_dict()
    with pytest.raises(FloatingPointError, match="loss is (nan|inf)"), np.errstate(all="ignore"):
        train_step(net, CrossEntropyLoss(), optimizer, x, target, micro_batch)
    assert optimizer.steps == 0
    assert all(not p.grad.any() for p in net.parameters())
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    x[3, 0, 2, 2] = 0
    assert np.isfinite(train_step(net, CrossEntropyLoss(), optimizer, x, target, micro_batch))


@pytest.mark.parametrize(
    "images, labels, micro_batch, error, message",
    [
        (7, 6, "auto", ValueError, "7 images and target 6 labels"),
        (0, 0, "auto", ValueError, "0 images"),
        (7, 7, 0, ValueError, "micro_batch must be at least 1, got 0"),
        (7, 7, -2, ValueError, "got -2"),
        (7, 7, 1.5, TypeError, r"got 1\.5"),
        (7, 7, True, TypeError, "micro_batch must be an integer, got True"),
        (7, 7, "all", TypeError, "got 'all'"),
    ],
)
def test_bad_arguments(images, labels, micro_batch, error: type, message: str) -> None:
    net = small_net()
    optimizer = SGD(net.parameters())
    x, target = batch()
    with pytest.raises(error, match=message):
        train_step(net, CrossEntropyLoss(), optimizer, x[:images], target[:labels], micro_batch)
    assert optimizer.steps == 0


def test_a_label_out_of_range_in_the_last_slice_leaves_everything_as_it_was() -> None:
    net = small_net()
    optimizer = SGD(net.parameters(), lr=0.1)
    x, target = batch()
    target[-1] = 3
    before = net.state_dict()
    with pytest.raises(ValueError, match="3"):
        train_step(net, CrossEntropyLoss(), optimizer, x, target, 2)
    assert all(not p.grad.any() for p in net.parameters())
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_predict_in_slices_is_the_net_itself() -> None:
    net = small_net()
    x, _ = batch()
    np.testing.assert_allclose(predict(net, x, 2), net(x), rtol=1e-12)
    assert predict(net, x[:0]).shape == (0, 3)


def test_evaluate_counts_by_class() -> None:
    logits = np.array([[2, 1, 0], [0, 3, 1], [5, 1, 1], [0, 0, 9], [0, 8, 1]], np.float64)
    target = np.array([0, 1, 1, 2, 2])
    batches = [(logits[:2], target[:2]), (logits[2:], target[2:])]
    result = evaluate(Flatten(), batches)
    assert result.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert result.images == 5 and result.accuracy == 0.6


@pytest.mark.parametrize(
    "target, error, message",
    [
        ([0, 3], ValueError, r"target has label 3, outside 0\.\.2"),
        ([-1, 0], ValueError, r"target has label -1, outside 0\.\.2"),
        ([0], ValueError, "x holds 2 images and target 1 labels"),
        ([0.0, 1.0], TypeError, r"target must be \(N,\) integers, got .* float64"),
        ([[0], [1]], TypeError, r"target must be \(N,\) integers, got \(2, 1\)"),
    ],
)
def test_evaluate_refuses_bad_labels(target: list, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(Flatten(), [(np.zeros((2, 3)), np.array(target))])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint64])
def test_evaluate_takes_labels_of_any_integers(dtype: type) -> None:
    labels = np.arange(100, dtype=dtype)
    result = evaluate(Flatten(), [(np.eye(100, dtype=np.float32), labels)])
    assert result.accuracy == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    net = small_net()
    net["5"].bias.data[1] = value
    x, target = batch()
    with pytest.raises(FloatingPointError, match="not finite"):
        predict(net, x, 3)
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate(net, [(x, target)])


def test_lists_are_refused_by_name() -> None:
    net = small_net()
    x, target = batch()
    for images, labels, name in ((x.tolist(), target, "x"), (x, target.tolist(), "target")):
        with pytest.raises(TypeError, match=f"{name} must be a numpy.ndarray, got list"):
            train_step(net, CrossEntropyLoss(), SGD(net.parameters()), images, labels)


def test_evaluate_refuses_nothing() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate(Flatten(), [])


def test_evaluate_refuses_what_are_no_logits_or_others_than_before() -> None:
    batch = np.eye(3, dtype=np.float32), np.arange(3)
    with pytest.raises(ValueError, match=r"\(N, classes\) logits, got shape \(3, 3, 1\)"):
        evaluate(ReLU(), [(batch[0][..., None], batch[1])])
    with pytest.raises(ValueError, match="returned 4 classes, but 3 before"):
        evaluate(Flatten(), [batch, (np.eye(4, dtype=np.float32), np.arange(4))])


def test_training_learns() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 60)
    x = rng.standard_normal((60, 2, 6, 6))
    x[np.arange(60), 0, target, target] += 6
    net = small_net()
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        train_step(net, CrossEntropyLoss(), optimizer, x, target)
    assert evaluate(net, [(x, target)]).accuracy > 0.95
