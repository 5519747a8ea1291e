"""DDNet in OpenVINO, in float32, built in a worker."""

from __future__ import annotations

import math
from collections.abc import Callable

import ddnet_onnx
import numpy as np
import openvino as ov


def inference(
    case: dict[str, np.ndarray], threads: int, hint: str = "", images: int = 0
) -> Callable[[], np.ndarray]:
    """Return DDNet's inference.

    With the throughput hint the batch is cut into requests of about `images` (0: as many requests
    as OpenVINO asks for), which run at the same time: that is what the hint is for.
    """
    x = case.pop("x")
    config: dict[str, int | str] = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if hint:
        config["PERFORMANCE_HINT"] = hint
    compiled = _compile(case, x.shape, config)
    if hint != "THROUGHPUT" or len(x) == 1:
        return lambda: compiled(x)[0]
    if not images:
        requests = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        images = math.ceil(len(x) / requests)
    images = math.gcd(images, len(x))
    queue = ov.AsyncInferQueue(_compile(case, (images, *x.shape[1:]), config))
    logits = np.empty((len(x), len(case["fc.bias"])), np.float32)

    def store(request: ov.InferRequest, start: int) -> None:
        logits[start : start + images] = request.get_output_tensor().data

    queue.set_callback(store)

    def infer() -> np.ndarray:
        for start in range(0, len(x), images):
            queue.start_async([x[start : start + images]], start)
        queue.wait_all()
        return logits

    return infer


def _compile(
    weights: dict[str, np.ndarray], shape: tuple[int, ...], config: dict[str, int | str]
) -> ov.CompiledModel:
    """Return the model for inputs of one shape."""
    core = ov.Core()
    return core.compile_model(core.read_model(ddnet_onnx.model(weights, shape)), "CPU", config)
