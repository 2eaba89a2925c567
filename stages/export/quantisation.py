"""Weights as 8-bit integers: a quarter of the size.

Each large weight is stored as int8 with one scale for each row of its matrix, and
becomes float again when ONNX Runtime loads the model. (ONNX Runtime has no GRU that
computes in integers, and most weights of the encoder are in GRUs.)
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

_LEAST = 1024  # values; smaller weights stay as they are


def quantise(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with its large weights as int8."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    convolved = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    kept, nodes = [], []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        large = (
            values.dtype == np.float32 and values.ndim >= 2 and values.size >= _LEAST
        )
        if not large:
            kept.append(weight)
            continue
        # Convolutions: a row per output channel.
        rows = len(values) if weight.name in convolved else -1
        columns = -1 if weight.name in convolved else values.shape[-1]
        matrix = values.reshape(rows, columns)
        scale = np.abs(matrix).max(axis=1) / 127
        scale[scale == 0] = 1
        integers = np.round(matrix / scale[:, None]).astype(np.int8)
        name = weight.name
        for suffix, array in (
            ("int8", integers),
            ("scale", scale.astype(np.float32)),
            ("shape", np.array(values.shape, np.int64)),
        ):
            kept.append(numpy_helper.from_array(array, f"{name}_{suffix}"))
        given = [f"{name}_int8", f"{name}_scale"]
        rough = f"{name}_matrix"
        nodes += [
            helper.make_node("DequantizeLinear", given, [rough], axis=0),
            helper.make_node("Reshape", [rough, f"{name}_shape"], [name]),
        ]
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return model
