"""The frozen encoder as an ONNX graph, for ONNX Runtime on CPUs.

Written node by node instead of traced, so that lengths are inputs, every operation is
masked as in `encoder.Encoder`, and the same weights give the same bytes. Sequences have
time first, as ONNX's GRU expects: (frames, batch, values).

    waves    (batch, samples) float32 at 16 kHz, samples a multiple of 2,560, zero
             beyond each utterance
    samples  (batch,) int64, the length of each
    e_acoust (batch, samples / 2,560, 256) float32; meaningless beyond the
             `frame_count` of each utterance
"""

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from stages.acoustic.encoder import LEAKY_SLOPE, LOG_FLOOR, Encoder
from stages.acoustic.frames import SINC_STRIDE
from stages.core.hashing import hash_array

_OPSET = 17

_FIXED_POINT = 2.0**32
"""Logarithms are within ±10: precise to 1e-9, and sums over days fit into 64 bits."""


def build_graph(encoder: Encoder) -> bytes:
    """The serialised model of a frozen encoder."""
    return _Graph(encoder).model().SerializeToString(deterministic=True)


class _Graph:
    """Builds the graph; its methods return the names of the values they add."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        phonemes, words = self.encoder.phoneme_layers, self.encoder.word_layers
        bands, frames = self.bands("waves")
        for name in ("5", "9"):
            layer = phonemes[name]
            assert isinstance(layer, nn.Conv1d)
            padding = int(layer.padding[0])
            bands = self.convolve(bands, layer.weight, layer.bias, padding)
            bands = self.masked(self.add("LeakyRelu", bands, alpha=LEAKY_SLOPE), frames)
        # (batch, channels, frames) -> (frames, batch, channels)
        sequence = self.add("Transpose", bands, perm=[2, 0, 1])
        for recurrent in (phonemes["14"], phonemes["18"], *words.values()):
            assert isinstance(recurrent, nn.GRU)
            sequence, frames = self.recur(sequence, frames, recurrent)
        self.add("Transpose", sequence, perm=[1, 0, 2], output="e_acoust")
        graph = helper.make_graph(
            self.nodes,
            "encoder",
            [
                helper.make_tensor_value_info(
                    "waves", TensorProto.FLOAT, ["batch", "samples"]
                ),
                helper.make_tensor_value_info("samples", TensorProto.INT64, ["batch"]),
            ],
            [
                helper.make_tensor_value_info(
                    "e_acoust",
                    TensorProto.FLOAT,
                    ["batch", "frames", self.encoder.dim],
                )
            ],
            initializer=list(self.constants.values()),
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=8,
            producer_name="acoustic-linguistic network",
        )

    def bands(self, waves: str) -> tuple[str, str]:
        """Front end: (batch, filters, frames at 100 a second), and (batch,) counts."""
        sinc = self.encoder.phoneme_layers["0"]
        bank = sinc.filter_bank()  # type: ignore[operator]
        wave = self.add("Unsqueeze", waves, self.integers(1))
        bands = self.convolve(wave, bank, None, bank.shape[2] // 2, SINC_STRIDE)
        count = self.halved("samples", SINC_STRIDE)
        # The values are absolute, so zeros never win the max-pooling.
        bands = self.masked(self.add("Abs", bands), count)
        bands = self.add("MaxPool", bands, kernel_shape=[2], strides=[2])
        count = self.halved(count)
        if self.encoder.configuration.front_end == "raw":
            return self.add("LeakyRelu", bands, alpha=LEAKY_SLOPE), count
        floor = self.constant(np.array(LOG_FLOOR, np.float32))
        bands = self.masked(self.add("Log", self.add("Add", bands, floor)), count)
        mean = self.mean(bands, count)
        return self.masked(self.add("Sub", bands, mean), count), count

    def mean(self, bands: str, count: str) -> str:
        """Mean of (batch, filters, frames) over each utterance's frames, (…, …, 1).

        Summed as integers, so that neither order nor padding changes a bit.
        """
        scale = self.constant(np.array(_FIXED_POINT, np.float64))
        exact = self.add("Cast", bands, to=TensorProto.DOUBLE)
        exact = self.add("Mul", exact, scale)
        exact = self.add("Cast", exact, to=TensorProto.INT64)
        total = self.add("ReduceSum", exact, self.integers(2), keepdims=1)
        total = self.add("Cast", total, to=TensorProto.DOUBLE)
        number = self.add("Cast", count, to=TensorProto.DOUBLE)
        number = self.add("Unsqueeze", number, self.integers(1, 2))
        mean = self.add("Div", total, self.add("Mul", number, scale))
        return self.add("Cast", mean, to=TensorProto.FLOAT)

    def recur(self, sequence: str, count: str, layer: nn.GRU) -> tuple[str, str]:
        """A bidirectional GRU, then the average of two frames; halves the counts."""
        hidden = layer.hidden_size
        frames = self.add(
            "GRU",
            sequence,
            *(self.constant(weight) for weight in _gru_weights(layer)),
            self.add("Cast", count, to=TensorProto.INT32),
            hidden_size=hidden,
            direction="bidirectional",
            linear_before_reset=1,
        )
        # (frames, directions, batch, hidden) -> (frames, batch, 2 · hidden); frames
        # beyond an utterance are zero.
        frames = self.add("Transpose", frames, perm=[0, 2, 1, 3])
        frames = self.add("Reshape", frames, self.integers(0, 0, 2 * hidden))
        even, odd = (
            self.add(
                "Slice",
                frames,
                self.integers(start),
                self.integers(np.iinfo(np.int64).max),
                self.integers(0),
                self.integers(2),
            )
            for start in (0, 1)
        )
        total = self.add("Add", even, odd)
        # Frames in each average: 2, at an odd end 1; 1 beyond it, where the sum is 0.
        before = self.add("Mul", self.places(total, 0), self.integers(2))
        before = self.add("Unsqueeze", before, self.integers(1))
        members = self.add("Sub", count, before)  # (frames / 2, batch)
        members = self.add("Clip", members, self.integer(1), self.integer(2))
        members = self.add("Cast", members, to=TensorProto.FLOAT)
        members = self.add("Unsqueeze", members, self.integers(2))
        return self.add("Div", total, members), self.halved(count)

    def convolve(
        self,
        value: str,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        padding: int,
        stride: int = 1,
    ) -> str:
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
        inside = self.add(
            "Less",
            self.places(value, 2),
            self.add("Unsqueeze", count, self.integers(1)),
        )
        inside = self.add("Cast", inside, to=TensorProto.FLOAT)
        return self.add("Mul", value, self.add("Unsqueeze", inside, self.integers(1)))

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
        return self.constant(np.array(value, np.int64))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def constant(self, array: np.ndarray) -> str:
        # Named after its content, so that equal constants are stored once.
        name = f"constant_{hash_array(array)[:16]}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node of `kind`; returns the name of its output."""
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


def _gru_weights(layer: nn.GRU) -> list[np.ndarray]:
    """W, R and B of ONNX's GRU: both directions, gates in the order z, r, n."""
    stacked: list[list[np.ndarray]] = [[], [], []]
    for suffix in ("_l0", "_l0_reverse"):
        parts = []
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            # PyTorch's order is r, z, n.
            reset, update, new = (
                getattr(layer, name + suffix).numpy().reshape(3, layer.hidden_size, -1)
            )
            parts.append(np.concatenate([update, reset, new]))
        stacked[0].append(parts[0])
        stacked[1].append(parts[1])
        stacked[2].append(np.concatenate([parts[2], parts[3]])[:, 0])
    return [np.stack(arrays) for arrays in stacked]
