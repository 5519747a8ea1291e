"""DDNet in ONNX Runtime, built in a worker."""

from __future__ import annotations

import math
from collections.abc import Callable

import ddnet_onnx
import numpy as np
import onnxruntime as ort


def inference(
    case: dict[str, np.ndarray], threads: int, optimise: bool = False, images: int = 0
) -> Callable[[], np.ndarray]:
    """Return DDNet's inference, about so many images at a time (0: all)."""
    x = case.pop("x")
    images = math.gcd(images, len(x))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if optimise:
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    content = ddnet_onnx.model(case, (images, *x.shape[1:]))
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    if images == len(x):
        return lambda: session.run(None, {"x": x})[0]
    parts = [x[start : start + images] for start in range(0, len(x), images)]
    return lambda: np.concatenate([session.run(None, {"x": part})[0] for part in parts])
