"""DDNet as an ONNX model, written from its weights: no framework exports it."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 17


def model(weights: dict[str, np.ndarray], input_shape: tuple[int, ...]) -> bytes:
    """Return the model that maps "x" of this shape to "logits"."""
    nodes: list[Any] = []
    last = "x"

    def add(kind: str, name: str, parameters: list[str], **attributes: Any) -> None:
        nonlocal last
        nodes.append(helper.make_node(kind, [last, *parameters], [name], name, **attributes))
        last = name

    for layer in ("conv1", "conv2", "conv3"):
        add("Conv", layer, [f"{layer}.weight", f"{layer}.bias"], pads=[1] * 4)
        add("Relu", f"{layer}.relu", [])
    for layer in ("deconv1", "deconv2", "deconv3"):
        both = [f"{layer}.weight", f"{layer}.bias"]
        add("ConvTranspose", layer, both, pads=[1] * 4, strides=[2, 2])
    add("Flatten", "flat", [])
    add("Gemm", "logits", ["fc.weight", "fc.bias"], transB=1)

    output_shape = (input_shape[0], len(weights["fc.bias"]))
    graph = helper.make_graph(
        nodes,
        "ddnet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    checker.check_model(made, full_check=True)
    return made.SerializeToString()
