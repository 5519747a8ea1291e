"""Digest results on some number of threads: ``NUMBA_NUM_THREADS=N threads_run.py FILE``.

FILE gets JSON: of each result by name the digest of its bits. Test_threads.py compares them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import calls
import numba
import numpy as np

import deconv_core as dc

DDNET = {
    "conv1": (3, 32, 32),
    "conv2": (32, 64, 32),
    "conv3": (64, 128, 32),
    "deconv1": (128, 64, 32),
    "deconv2": (64, 32, 63),
    "deconv3": (32, 3, 125),
}  # input and output channels, height and width of the input
BATCH = 3


def digest(*arrays: np.ndarray) -> str:
    """Return a digest of the arrays' exact bits."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def functions() -> Iterator[tuple[str, str]]:
    """Yield every public function on small arrays, cut into tasks as large ones are."""
    calls.share_from(0)
    ways: dict[str, list[Callable[[], None]]] = {
        "by positions": [partial(calls.multiply, False)],
        "products": [partial(calls.multiply, True)],
        "batches": [partial(calls.batch, True)],
        "tiles": [partial(calls.batch, False), partial(calls.tile, True)],
        "tiles, weights as they are used": [partial(calls.transform_near, 7)],
        "matrix registers": [partial(calls.tile, False), partial(calls.register, True)],
    }
    for dtype, (way, choose) in product((np.float32, np.float64), ways.items()):
        if way == "by positions":
            calls.tile(False)
        for change in choose:
            change()
        for i, (name, function, arrays, rest, options) in enumerate(calls.every_call(dtype)):
            result = b"".join(calls.bits(function(*arrays, *rest, **options)))
            what = f"{name}, call {i}, {dtype.__name__}, {way}"
            yield what, hashlib.sha256(result).hexdigest()[:16]


def layers() -> Iterator[tuple[str, str]]:
    """Yield the passes of DDNet's own layers."""
    rng = np.random.default_rng(0)
    for name, (inputs, outputs, size) in DDNET.items():
        make: Any = dc.Conv2d if name.startswith("conv") else dc.ConvTranspose2d
        layer = make(inputs, outputs, 3, stride=1 + (make is dc.ConvTranspose2d), padding=1, rng=0)
        x = rng.standard_normal((BATCH, inputs, size, size), np.float32)
        y, backward = layer.forward(x)
        dx = backward(rng.standard_normal(y.shape, np.float32))
        for what, array in (("forward", y), ("input grad", dx), ("weight grad", layer.weight.grad)):
            yield f"{name}: {what}", digest(array)
        yield f"{name}: bias grad", digest(layer.bias.grad)


def trained(name: str, image_size: int, batch: int, steps: int, **options: Any) -> Iterator[Any]:
    """Yield the losses, the logits and the weights after some steps of DDNet."""
    collapse = options.pop("collapse")
    net = dc.DDNet(image_size=image_size, **options)
    criterion, optimizer = dc.CrossEntropyLoss(), dc.Adam(net.parameters())
    rng = np.random.default_rng(1)
    losses = []
    for _ in range(steps):
        x = rng.standard_normal((batch, 3, image_size, image_size), np.float32)
        target = rng.integers(0, 10, batch)
        losses.append(dc.train_step(net, criterion, optimizer, x, target, collapse=collapse))
    yield f"{name}: losses", digest(np.array(losses))
    yield f"{name}: logits", digest(net(x))
    for key, value in net.state_dict().items():
        yield f"{name}: {key}", digest(value)


def main(file: str) -> None:
    """Write the digests of all results."""
    assert numba.get_num_threads() == int(os.environ["NUMBA_NUM_THREADS"])
    found = [*layers()]  # as they are cut by default
    found += trained("50 steps by matrix", 16, 24, 50, collapse=True)
    found += trained("50 steps by layer", 8, 9, 50, collapse=False)
    found += trained("50 steps, pooled", 16, 20, 50, collapse=True, variant="pooled")
    found += trained("DDNet by matrix", 32, 24, 2, collapse=True)
    found += trained("DDNet by layer", 32, 10, 2, collapse=False)
    found += functions()
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    Path(file).write_text(json.dumps(dict(found)))
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
