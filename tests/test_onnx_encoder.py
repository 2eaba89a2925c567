"""ONNX Runtime gives what PyTorch gives, the same bits in any batch and process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.functional import resample

from stages.acoustic.checkpoint import frozen_encoder, load_checkpoint
from stages.acoustic.encoder import FRONT_ENDS, Encoder, EncoderConfiguration
from stages.acoustic.encoding import encode
from stages.acoustic.frames import frame_count
from stages.acoustic.graph import build_graph
from stages.acoustic.onnx_encoder import OnnxEncoder, encode_in_processes
from stages.core.errors import InputError
from stages.core.hashing import hash_file
from stages.speech import synthesis

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "data" / "lugosch_encoder_small.npz"


def noise(samples: int, seed: int = 0) -> np.ndarray:
    wave = np.random.default_rng((samples, seed)).normal(0, 0.1, samples)
    return wave.astype(np.float32)


def opened(folder: Path, encoder: Encoder) -> OnnxEncoder:
    (folder / "encoder.onnx").write_bytes(build_graph(encoder))
    return OnnxEncoder(folder / "encoder.onnx")


@pytest.fixture(scope="module", params=FRONT_ENDS)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Encoder, OnnxEncoder]:
    """An encoder of the paper's size and its onnx."""
    sizes = EncoderConfiguration(request.param, words=3)
    encoder = frozen_encoder(sizes, seed=0).encoder
    # As after training, where the gates are not all half open.
    for layer in (*encoder.phoneme_layers.values(), *encoder.word_layers.values()):
        if isinstance(layer, torch.nn.GRU):
            for weight in layer.parameters():
                weight.mul_(3)
    return encoder, opened(tmp_path_factory.mktemp(request.param), encoder)


lengths = st.lists(st.integers(1, 40_000), min_size=1, max_size=7)


@settings(max_examples=25, deadline=None)
@given(lengths)
def test_any_batch_gives_what_pytorch_gives_each_alone(
    both: tuple[Encoder, OnnxEncoder], lengths: list[int]
) -> None:
    encoder, onnx = both
    waves = [noise(samples) for samples in lengths]
    for wave, found in zip(waves, onnx.encode(waves), strict=True):
        with torch.inference_mode():
            alone = encoder(torch.from_numpy(wave)[None])[0].numpy()
        assert found.shape == (frame_count(len(wave)), 256)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(lengths, st.integers(1, 90_000))
def test_the_bits_do_not_depend_on_the_batch(
    both: tuple[Encoder, OnnxEncoder], lengths: list[int], longer: int
) -> None:
    onnx = both[1]
    waves = [noise(samples) for samples in lengths]
    together = onnx.encode([*waves, noise(longer, seed=1)])
    for wave, found in zip(waves, together, strict=False):
        np.testing.assert_array_equal(found, onnx.encode([wave])[0])


def test_a_crowd_of_short_waves_changes_no_bit(
    both: tuple[Encoder, OnnxEncoder],
) -> None:
    waves = [noise(1 + 37 * number) for number in range(120)]
    together = both[1].encode(waves)
    for wave, found in list(zip(waves, together, strict=True))[::9]:
        np.testing.assert_array_equal(found, both[1].encode([wave])[0])


def test_minutes_are_as_near_to_pytorch_as_seconds(
    both: tuple[Encoder, OnnxEncoder],
) -> None:
    encoder, onnx = both
    wave = np.concatenate([noise(48_000, seed) for seed in range(60)])
    (found,) = onnx.encode([wave])
    with torch.inference_mode():
        alone = encoder(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-5)


def test_the_reference_values_are_met(tmp_path: Path) -> None:
    with np.load(GOLDEN) as arrays:
        golden = dict(arrays)
    encoder = Encoder(
        EncoderConfiguration(filters=8, channels=6, hidden=8, phonemes=5, words=20)
    )
    encoder.load_state_dict(
        {
            name.removeprefix("weight/"): torch.from_numpy(array)
            for name, array in golden.items()
            if name.startswith("weight/")
        }
    )
    onnx = opened(tmp_path, encoder.eval().requires_grad_(False))
    for number in range(5):
        (found,) = onnx.encode([golden[f"wave/{number}"]])
        expected = golden[f"features/{number}"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_shipped_encoder_agrees_with_pytorch_on_speech(tmp_path: Path) -> None:
    """Rounding in the front end is magnified by the logarithm: 1e-5 of the norm."""
    checkpoint = load_checkpoint(ROOT / "data/demo/encoder.safetensors")
    onnx = opened(tmp_path, checkpoint.encoder)
    voices = [synthesis.Voice("en-us", "m3"), synthesis.Voice("en-gb", "f2")]
    waves = []
    for voice in voices:
        for one in synthesis.speak(voice, ["turn on the light", "go"], seed=1):
            samples = torch.from_numpy(one.samples / np.float32(32768))
            waves.append(resample(samples, synthesis.SAMPLE_RATE, 16_000).numpy())
    together = onnx.encode(waves)
    for wave, found in zip(waves, together, strict=True):
        (expected,) = encode(checkpoint.encoder, [wave])
        apart = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert apart < 3e-5


def test_the_same_weights_give_the_same_graph() -> None:
    sizes = EncoderConfiguration("log-cmn", 4, 21, 3, hidden=3, phonemes=3, words=4)
    graphs = [build_graph(frozen_encoder(sizes, seed).encoder) for seed in (0, 0, 1)]
    assert graphs[0] == graphs[1] != graphs[2]


def test_the_onnx_encoder_starts_without_torch() -> None:
    code = "import sys, stages.acoustic.onnx_encoder; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr


# -------------------------------------------------------------------- processes


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    sizes = EncoderConfiguration("log-cmn", 4, 21, 3, hidden=3, phonemes=3, words=4)
    path = tmp_path / "encoder.onnx"
    path.write_bytes(build_graph(frozen_encoder(sizes, seed=0).encoder))
    return path


@pytest.fixture
def batches(tmp_path: Path) -> list[list[tuple[Path, str]]]:
    """Ten batches of one to three recordings."""
    made = []
    for number in range(10):
        batch = []
        for place in range(1 + number % 3):
            path = tmp_path / f"{number}-{place}.wav"
            soundfile.write(path, noise(2000 + 700 * number + place), 16_000)
            batch.append((path, hash_file(path)))
        made.append(batch)
    return made


def test_a_bad_recording_is_named_and_what_came_before_it_is_given(
    graph: Path, batches: list[list[tuple[Path, str]]]
) -> None:
    batches[6][0][0].write_bytes(b"no audio")
    given = []
    with pytest.raises(InputError, match=r"6-0\.wav: .*changed since the manifest"):
        for features in encode_in_processes(batches, graph, 2):
            given.append(features)
    assert len(given) == 6
