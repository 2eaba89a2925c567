"""Building ONNX graphs node by node.

Written so that lengths are inputs, every operation is masked, and the same weights give
the same bytes. Sequences have time first, as ONNX's GRU expects: (frames, batch,
values).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from stages.core.hashing import hash_array

_OPSET = 17
_IR_VERSION = 8

Value = tuple[str, int, Sequence[str | int]]
"""Name, element type and dimensions of an input or output."""


class GraphBuilder:
    """Collects nodes; its methods return the names of the values they add."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def model(
        self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]
    ) -> onnx.ModelProto:
        """The model of all nodes."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            initializer=list(self.constants.values()),
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="acoustic-linguistic network",
        )

    def gru(
        self,
        sequence: str,
        count: str,
        layer: nn.GRU,
        inputs: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> str:
        """One layer of GRU over each utterance's frames, zero beyond them.

        Args:
            sequence: (frames, batch, values).
            count: (batch,) frames of each utterance.
            layer: the layer.
            inputs: each direction's input weight and bias, instead of the layer's.

        Returns:
            (frames, batch, directions · hidden).
        """
        hidden, directions = layer.hidden_size, 1 + layer.bidirectional
        frames = self.add(
            "GRU",
            sequence,
            *(self.constant(weight) for weight in _gru_weights(layer, inputs)),
            self.add("Cast", count, to=TensorProto.INT32),
            hidden_size=hidden,
            direction="bidirectional" if layer.bidirectional else "forward",
            linear_before_reset=1,
        )
        # (frames, directions, batch, hidden)
        frames = self.add("Transpose", frames, perm=[0, 2, 1, 3])
        return self.add("Reshape", frames, self.integers(0, 0, directions * hidden))

    def convolve(
        self,
        value: str,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        padding: int,
        stride: int = 1,
    ) -> str:
        """Convolve (batch, channels, frames) with weight (out, in, kernel)."""
        arrays = [weight] if bias is None else [weight, bias]
        return self.add(
            "Conv",
            value,
            *(self.constant(array.numpy()) for array in arrays),
            kernel_shape=[weight.shape[2]],
            pads=[padding, padding],
            strides=[stride],
        )

    def masked(self, value: str, count: str) -> str:
        """Zero (batch, channels, frames) beyond each utterance's count."""
        inside = self.inside(value, count)
        inside = self.add("Cast", inside, to=TensorProto.FLOAT)
        return self.add("Mul", value, self.add("Unsqueeze", inside, self.integers(1)))

    def inside(self, value: str, count: str) -> str:
        """Whether each frame of (batch, channels, frames) is one of the utterance's.

        Returns:
            bool (batch, frames).
        """
        return self.add(
            "Less",
            self.places(value, 2),
            self.add("Unsqueeze", count, self.integers(1)),
        )

    def places(self, value: str, axis: int) -> str:
        """0, 1, … along an axis of `value`, int64."""
        size = self.add("Gather", self.add("Shape", value), self.integer(axis))
        return self.add("Range", self.integer(0), size, self.integer(1))

    def halved(self, count: str, by: int = 2) -> str:
        """Counts over `by`, rounded up."""
        return self.add(
            "Div", self.add("Add", count, self.integer(by - 1)), self.integer(by)
        )

    def integer(self, value: int) -> str:
        """A scalar constant, int64."""
        return self.constant(np.array(value, np.int64))

    def integers(self, *values: int) -> str:
        """A constant (n,), int64."""
        return self.constant(np.array(values, np.int64))

    def constant(self, array: np.ndarray) -> str:
        """A constant; equal ones are stored once."""
        name = f"constant_{hash_array(array)[:16]}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node of `kind`; returns the name of its output."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _gru_weights(
    layer: nn.GRU, inputs: Sequence[tuple[Tensor, Tensor]] | None
) -> list[np.ndarray]:
    """W, R and B of ONNX's GRU: a row per direction, gates in the order z, r, n."""
    stacked: list[list[np.ndarray]] = [[], [], []]
    for number, suffix in enumerate(("_l0", "_l0_reverse")[: 1 + layer.bidirectional]):
        given = inputs[number] if inputs else _parameters(layer, "ih", suffix)
        parts = []
        for values in (*given, *_parameters(layer, "hh", suffix)):
            # PyTorch's order is r, z, n.
            gates = values.detach().float().numpy().reshape(3, layer.hidden_size, -1)
            reset, update, new = gates
            parts.append(np.concatenate([update, reset, new]))
        weight, bias, recurrent, recurrent_bias = parts
        stacked[0].append(weight)
        stacked[1].append(recurrent)
        stacked[2].append(np.concatenate([bias, recurrent_bias])[:, 0])
    return [np.stack(arrays) for arrays in stacked]


def _parameters(layer: nn.GRU, kind: str, suffix: str) -> tuple[Tensor, Tensor]:
    """A weight and its bias; kind is `ih` or `hh`."""
    weight = getattr(layer, f"weight_{kind}{suffix}")
    return weight, getattr(layer, f"bias_{kind}{suffix}")
