"""A graph with an encoder of transformers gives what PyTorch gives."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import PRETRAINED
from torch import Tensor, nn

from stages.acoustic.pretrained import PretrainedEncoder, load_pretrained
from stages.core.errors import ConfigurationError
from stages.export import traced
from stages.export.graph import Confidence
from stages.export.quantisation import quantise
from stages.export.traced import traced_graph
from stages.inference.classifier import OnnxSession, Outputs
from stages.student.model import AcousticLinguisticNetwork, build

CONFIDENCE = Confidence(1.7, "energy")
# One frame or padded to one, two frames, and Whisper's window at the end.
LENGTHS = (1, 399, 400, 719, 720, 8_001, 15_999, 16_000)


@pytest.fixture(scope="module")
def student() -> AcousticLinguisticNetwork:
    torch.manual_seed(0)
    network = build(
        {
            "system": "aln",
            "acoustic_dim": 12,
            "linguistic_dim": 8,
            "values": [5],
            # Else a rounding error moves a maximum, and attention, to another frame.
            "architecture": {"gru_width": 7, "frame_pooling": "mean"},
        }
    )
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return network.eval().requires_grad_(False)


def noise(samples: int) -> np.ndarray:
    """A wave with an offset, which normalisation takes away."""
    wave = np.random.default_rng(samples).normal(0.05, 0.1, samples)
    return wave.astype(np.float32)


Run = Callable[..., Outputs]


def opened(model: onnx.ModelProto) -> Run:
    """A function that runs the model on a wave, or on its first `length` samples."""
    session = OnnxSession(model.SerializeToString())

    def run(wave: np.ndarray, length: int | None = None) -> Outputs:
        lengths = np.array([length or len(wave)], np.int64)
        return session.run({"waveform": wave[None], "lengths": lengths})

    return run


def assert_alike(
    encoder: PretrainedEncoder,
    student: AcousticLinguisticNetwork,
    lengths: Sequence[int] = LENGTHS,
) -> None:
    """The exported model and PyTorch give the same for noise of these lengths."""
    model = traced_graph(encoder, [student], CONFIDENCE)
    onnx.checker.check_model(model, full_check=True)
    run, answers = opened(model), []
    for samples in lengths:
        wave = noise(samples)
        features = torch.from_numpy(encoder.encode([wave])[0])[None]
        logits = student(features, torch.tensor([features.shape[1]])).logits[0]
        found = run(wave)
        answers.append(found.probabilities[0])
        expected = (logits / CONFIDENCE.temperature).softmax(0)
        np.testing.assert_allclose(answers[-1], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.scores, [logits.logsumexp(0)], rtol=1e-5)
        source = student.mapping(student.transfer(features))  # type: ignore[misc]
        scores = student.query(features) @ student.key(source).mT / student.scale
        attention = scores.softmax(-1).mean(1)
        np.testing.assert_allclose(found.attention, attention, rtol=0, atol=1e-5)
    # Else the comparisons above would say little.
    assert np.ptp(answers, axis=0).max() > 1e-3


@pytest.mark.parametrize("pooling", [1, 3])
@pytest.mark.parametrize("kind", PRETRAINED)
def test_every_kind_of_encoder_is_exported(
    pretrained: Callable[[str], Path],
    student: AcousticLinguisticNetwork,
    kind: str,
    pooling: int,
) -> None:
    layer = -1 if pooling == 1 else 1
    encoder = load_pretrained(str(pretrained(kind)), layer=layer, pooling=pooling)
    # Beyond the length that is traced.
    lengths = LENGTHS if kind == "whisper" else (*LENGTHS, 47_123)
    assert_alike(encoder, student, lengths)


@pytest.mark.parametrize("kind", ["hubert", "whisper"])
def test_what_is_beyond_the_length_is_ignored(
    pretrained: Callable[[str], Path], student: AcousticLinguisticNetwork, kind: str
) -> None:
    encoder = load_pretrained(str(pretrained(kind)))
    run = opened(traced_graph(encoder, [student], CONFIDENCE))
    wave = noise(16_000)
    for samples in (1, 5_001):
        found, cut = run(wave, samples), run(wave[:samples])
        np.testing.assert_array_equal(found.probabilities, cut.probabilities)
        np.testing.assert_array_equal(found.attention, cut.attention)


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("wav2vec2 stable", {"do_normalize": False}),
        ("whisper", {"n_fft": 512, "padding_value": 0.1}),
        ("whisper", {"chunk_length": 2, "hop_length": 320}),
    ],
)
def test_the_feature_extractor_is_followed(
    pretrained: Callable[[str], Path],
    student: AcousticLinguisticNetwork,
    kind: str,
    settings: dict[str, Any],
) -> None:
    encoder = load_pretrained(str(pretrained(kind)), pooling=2)
    made = type(encoder.extractor)(**{**encoder.extractor.to_dict(), **settings})
    assert_alike(dataclasses.replace(encoder, extractor=made), student)


def test_quiet_bands_are_exact_with_int8_weights_too(
    pretrained: Callable[[str], Path], student: AcousticLinguisticNetwork
) -> None:
    """Whisper's spectrogram has the logarithm of what rounding leaves there."""
    encoder = load_pretrained(str(pretrained("whisper")), layer=0)
    model = traced_graph(encoder, [student], CONFIDENCE)
    tone = np.sin(2 * np.pi * 300 / 16_000 * np.arange(12_000))
    wave = (tone * np.geomspace(1, 1e-5, 12_000)).astype(np.float32)
    features = torch.from_numpy(encoder.encode([wave])[0])[None]
    logits = student(features, torch.tensor([features.shape[1]])).logits
    for one in (model, quantise(model)):
        found = opened(one)(wave).scores
        np.testing.assert_allclose(found, logits.logsumexp(1), rtol=1e-5)


def test_the_same_encoder_gives_the_same_bytes_in_silence(
    pretrained: Callable[[str], Path],
    student: AcousticLinguisticNetwork,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    encoder = load_pretrained(str(pretrained("wavlm")))
    before = encoder.encode([noise(4_000)])
    capfd.readouterr()
    graphs = [
        traced_graph(encoder, [student], CONFIDENCE).SerializeToString(
            deterministic=True
        )
        for _ in range(2)
    ]
    assert graphs[0] == graphs[1]
    # PyTorch can add where each node comes from.
    assert b".py" not in graphs[0]
    assert capfd.readouterr() == ("", "") and not recwarn.list
    # The encoder can still be compared with.
    np.testing.assert_array_equal(encoder.encode([noise(4_000)]), before)


class Unknown(nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, values: Tensor) -> Tensor:
        return torch.special.i1(values)


def test_an_encoder_that_pytorch_cannot_export_is_named_with_the_reason(
    pretrained: Callable[[str], Path], student: AcousticLinguisticNetwork
) -> None:
    encoder = load_pretrained(str(pretrained("hubert")), layer=2)
    encoder.model.encoder.layer_norm = Unknown()
    message = (
        r"cannot export the encoder, hubert layer 2 of 3; found UnsupportedOperator"
        r".*i1.*; fix: give the student's folder to --model"
    )
    with pytest.raises(ConfigurationError, match=message):
        traced_graph(encoder, [student], CONFIDENCE)


def test_weights_beyond_a_file_of_onnx_are_refused(
    pretrained: Callable[[str], Path],
    student: AcousticLinguisticNetwork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = load_pretrained(str(pretrained("hubert")))
    monkeypatch.setattr(traced, "_LARGEST", 10_000)
    with pytest.raises(ConfigurationError, match="hubert layer 3 of 3, is too large"):
        traced_graph(encoder, [student], CONFIDENCE)
