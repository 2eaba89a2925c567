"""The frozen encoder as an ONNX graph, for ONNX Runtime on CPUs.

Every operation is masked as in `encoder.Encoder`.

    waves    (batch, samples) float32 at 16 kHz, samples a multiple of 2,560, zero
             beyond each utterance
    samples  (batch,) int64, the length of each
    e_acoust (batch, samples / 2,560, 256) float32; meaningless beyond the
             `frame_count` of each utterance
"""

import numpy as np
from onnx import TensorProto
from torch import nn

from stages.acoustic.encoder import LEAKY_SLOPE, LOG_FLOOR, Encoder
from stages.acoustic.frames import SINC_STRIDE
from stages.acoustic.graph_builder import GraphBuilder

_FIXED_POINT = 2.0**32
"""Logarithms are within ±10: precise to 1e-9, and sums over days fit into 64 bits."""


def build_graph(encoder: Encoder) -> bytes:
    """The serialised model of a frozen encoder."""
    graph = EncoderGraph(encoder)
    sequence, _ = graph.encode("waves", "samples")
    graph.add("Transpose", sequence, perm=[1, 0, 2], output="e_acoust")
    model = graph.model(
        "encoder",
        [
            ("waves", TensorProto.FLOAT, ["batch", "samples"]),
            ("samples", TensorProto.INT64, ["batch"]),
        ],
        [("e_acoust", TensorProto.FLOAT, ["batch", "frames", encoder.dim])],
    )
    return model.SerializeToString(deterministic=True)


class EncoderGraph(GraphBuilder):
    """A graph with the nodes of a frozen encoder."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def encode(self, waves: str, samples: str) -> tuple[str, str]:
        """Waves to e_acoust, (frames, batch, 256), and (batch,) counts of frames."""
        phonemes, words = self.encoder.phoneme_layers, self.encoder.word_layers
        bands, frames = self.bands(waves, samples)
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
        return sequence, frames

    def bands(self, waves: str, samples: str) -> tuple[str, str]:
        """Front end: (batch, filters, frames at 100 a second), and (batch,) counts."""
        sinc = self.encoder.phoneme_layers["0"]
        bank = sinc.filter_bank()  # type: ignore[operator]
        wave = self.add("Unsqueeze", waves, self.integers(1))
        bands = self.convolve(wave, bank, None, bank.shape[2] // 2, SINC_STRIDE)
        count = self.halved(samples, SINC_STRIDE)
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
        frames = self.gru(sequence, count, layer)
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
