"""The ONNX graph of a student on an encoder of transformers.

Its inputs and outputs are those of `graph.py`, for one utterance. The encoder is traced
by PyTorch and joined with the student's graph.

PyTorch has two exporters. The one that traces writes every supported encoder, in a
tenth of a second for tiny ones and with the student's version of ONNX. The newer one
(`dynamo=True`) writes them too, but takes seconds, needs onnxscript, and has a later
version of ONNX.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from onnx import compose
from torch import Tensor, nn
from torch.nn import functional

from stages.acoustic.pretrained import PretrainedEncoder
from stages.core.errors import ConfigurationError
from stages.export.graph import Confidence, student_graph
from stages.speech.loading import SAMPLE_RATE
from stages.student.model import AcousticLinguisticNetwork

_LARGEST = 2_000_000_000
"""Bytes of weights. A file of ONNX has at most 2 GiB, which the student shares."""

_EPSILON = 1e-7  # added to the variance; of Wav2Vec2FeatureExtractor

_FIX = "give the student's folder to --model instead"


def traced_graph(
    encoder: PretrainedEncoder,
    networks: Sequence[AcousticLinguisticNetwork],
    confidence: Confidence,
) -> onnx.ModelProto:
    """The model of an encoder and one student, or the mean of several.

    Args:
        encoder: on the CPU.
        networks: the students.
        confidence: how logits become probabilities and a score.

    Raises:
        ConfigurationError: PyTorch cannot export the encoder, or it is too large.
    """
    weights = [*encoder.model.parameters(), *encoder.model.buffers()]
    size = sum(value.nbytes for value in weights)
    if size > _LARGEST:
        raise ConfigurationError(
            f"the encoder, {encoder.description}, is too large for a file of ONNX",
            found=f"{size / 1e9:.1f} GB of weights",
            expected=f"at most {_LARGEST / 1e9:g} GB",
            fix=_FIX,
        )
    student = student_graph(networks, encoder.dim, confidence)
    model = _trace(encoder, student.opset_import[0].version)
    student = compose.add_prefix(
        student, "student/", rename_inputs=False, rename_outputs=False
    )
    # `merge_models` does the same with two more copies of the encoder.
    graph, added = model.graph, student.graph
    graph.node.extend(added.node)
    graph.initializer.extend(added.initializer)
    del graph.output[:]
    graph.output.extend(added.output)
    return model


def _trace(encoder: PretrainedEncoder, opset: int) -> onnx.ModelProto:
    """From `waveform` and `lengths` to `features` (1, frames, dim)."""
    example = torch.zeros(1, SAMPLE_RATE), torch.tensor([SAMPLE_RATE])
    # The warnings are about the exporter's age, and sizes that are the same for all.
    with TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = Path(folder) / "encoder.onnx"
        try:
            torch.onnx.export(
                _Traced(encoder).eval(),
                example,
                path,
                dynamo=False,
                input_names=["waveform", "lengths"],
                output_names=["features"],
                dynamic_axes={"waveform": {1: "samples"}, "features": {1: "frames"}},
                opset_version=opset,
            )
        # The exporter and the models raise almost any exception.
        except Exception as error:
            reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
            raise ConfigurationError(
                f"PyTorch cannot export the encoder, {encoder.description}",
                found=f"{type(error).__name__} ({reason})",
                fix=_FIX,
            ) from error
        return onnx.load(path)


class _Traced(nn.Module):
    """What `PretrainedEncoder.encode` does for one wave, with tensors alone."""

    def __init__(self, encoder: PretrainedEncoder) -> None:
        super().__init__()
        self.model = encoder.model
        self.pooling = encoder.pooling
        self.step = encoder.frame_step // encoder.pooling
        self.window: int | None = None
        if encoder.longest_seconds is None:
            self.inputs: nn.Module = _Wave(encoder)
        else:
            self.window = encoder.extractor.n_samples
            self.inputs = _LogMel(encoder.extractor)

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Features (1, frames, dim) of `waveform` (1, samples) up to `lengths` (1,)."""
        length = lengths[0]
        if self.window is not None:
            length = length.clamp(max=self.window)
        # The last hidden state is the first of what the model returns.
        hidden = self.model(self.inputs(waveform[:, :length], length))[0]
        if self.window is not None:
            # Without the frames of the padding.
            hidden = hidden[:, : (length + self.step - 1) // self.step]
        return _pooled(hidden, self.pooling)


class _Wave(nn.Module):
    """The input of all models but Whisper: the wave, normalised and long enough."""

    def __init__(self, encoder: PretrainedEncoder) -> None:
        super().__init__()
        self.least = encoder.least_samples
        self.normalise = encoder.extractor.do_normalize

    def forward(self, wave: Tensor, length: Tensor) -> Tensor:
        """(1, samples) -> (1, samples, or `least` if there are fewer)."""
        if self.normalise:
            # ONNX Runtime sums float32 in order: an error of 9e-5 after 100 s.
            exact = wave.double()
            exact = exact - exact.mean()
            wave = (exact / (exact.square().mean() + _EPSILON).sqrt()).float()
        padded = functional.pad(wave, (0, self.least))
        return padded[:, : length.clamp(min=self.least)]


class _LogMel(nn.Module):
    """The input of Whisper: the log-mel spectrogram of a window.

    In float64, which `quantise` leaves alone: sines of 8 bits put quiet bands next to
    loud ones 0.4 off, of a range of 2.
    """

    cosines: Tensor  # (n_fft, bins), as sines
    sines: Tensor
    filters: Tensor  # (bins, mel bands)

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor
        length = extractor.n_fft
        places = torch.arange(length, dtype=torch.float64)
        angles = places[:, None] * places[: length // 2 + 1] * (2 * math.pi / length)
        window = torch.hann_window(length, dtype=torch.float64)[:, None]
        self.register_buffer("cosines", window * angles.cos())
        self.register_buffer("sines", window * angles.sin())
        self.register_buffer("filters", torch.from_numpy(extractor.mel_filters))

    def forward(self, wave: Tensor, length: Tensor) -> Tensor:
        """(1, samples) -> (1, mel bands, frames of the window)."""
        given = self.extractor
        hop, frames, window = given.hop_length, given.nb_max_frames, given.n_samples
        wave = functional.pad(wave.double(), (0, window), value=given.padding_value)
        half = given.n_fft // 2
        wave = functional.pad(wave[:, :window], (half, half), mode="reflect")
        # A frame is some consecutive rows of `hop` samples.
        rows = math.ceil(given.n_fft / hop)
        parts = wave[:, : (frames + rows - 1) * hop].reshape(-1, hop)
        each = torch.cat([parts[row : row + frames] for row in range(rows)], dim=1)
        each = each[:, : given.n_fft]  # (frames, n_fft)
        power = (each @ self.cosines).square() + (each @ self.sines).square()
        bands = (power @ self.filters).clamp(min=1e-10).log10()
        bands = torch.maximum(bands, bands.max() - 8)
        return ((bands + 4) / 4).float().T[None]


def _pooled(hidden: Tensor, group: int) -> Tensor:
    """Mean of each `group` frames: (1, frames, D) -> (1, ceil(frames / group), D)."""
    frames = hidden.shape[1]
    count = (frames + group - 1) // group
    whole = functional.pad(hidden, (0, 0, 0, group - 1))[:, : count * group]
    members = (frames - group * torch.arange(count)).clamp(max=group)
    groups = whole.reshape(1, -1, group, hidden.shape[2])
    return groups.sum(2) / members[:, None]
