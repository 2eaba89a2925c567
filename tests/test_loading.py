"""Recordings: the encoder gets the same sound from any file format."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from stages.core.errors import InputError, RecordingError
from stages.core.hashing import hash_file
from stages.speech.loading import load_audio, resample


def sine(hertz: float, rate: int, seconds: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def write(path: Path, samples: np.ndarray, rate: int = 16_000, **how: str) -> Path:
    soundfile.write(path, samples, rate, **how)
    return path


def pitch(wave: np.ndarray) -> float:
    """The strongest frequency, within a hertz or two."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 16_000))
    return float(spectrum.argmax())


def test_a_16_khz_recording_comes_as_it_is(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32767, 1000).astype(np.int16)
    wave = load_audio(write(tmp_path / "a.wav", samples))
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(wave, samples / 32768)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = sine(440, 16_000), 0.5 * sine(1000, 16_000)
    path = write(tmp_path / "a.wav", np.stack([left, right], 1), subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_keep_duration_frequency_and_level(
    tmp_path: Path, rate: int
) -> None:
    samples = sine(1000, rate)
    wave = load_audio(write(tmp_path / "a.wav", samples, rate, subtype="FLOAT"))
    assert wave.dtype == np.float32
    assert len(wave) == -(-len(samples) * 16_000 // rate)
    assert pitch(wave) == pytest.approx(1000, abs=2)
    middle = wave[2000:6000]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 15_876])
@pytest.mark.parametrize("samples", [1, 2, 440, 441, 20_000])
def test_resampling_is_that_of_torchaudio(rate: int, samples: int) -> None:
    wave = np.random.default_rng(rate).uniform(-1, 1, samples).astype(np.float32)
    resampled = torchaudio.transforms.Resample(rate, 16_000)(torch.from_numpy(wave))
    found = resample(wave, rate)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, resampled.numpy(), rtol=0, atol=2e-6)


def test_what_16_khz_cannot_hold_does_not_come_back_as_something_else(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.wav", sine(13_000, 48_000), 48_000, subtype="FLOAT")
    assert np.abs(load_audio(path)[1000:-1000]).max() < 0.01


def test_lossless_formats_equal_wav_exactly(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-9999, 9999, (4410, 2), np.int16)
    expected = load_audio(write(tmp_path / "a.wav", samples, 44_100))
    for name, how in (("a.flac", {}), ("a.aiff", {}), ("a.sph", {"format": "NIST"})):
        wave = load_audio(write(tmp_path / name, samples, 44_100, **how))
        np.testing.assert_array_equal(wave, expected)


@pytest.mark.parametrize(
    "name, how",
    [
        ("a.wav", {"subtype": "PCM_24"}),
        ("a.wav", {"subtype": "ULAW"}),
        ("a.wav", {"subtype": "GSM610"}),  # libsndfile cannot seek in it
        ("a.ogg", {}),
        ("a.mp3", {}),
        ("a.sph", {"format": "NIST"}),
    ],
)
def test_formats_that_libsndfile_reads(tmp_path: Path, name: str, how: dict) -> None:
    wave = load_audio(write(tmp_path / name, sine(440, 16_000), **how))
    assert pitch(wave) == pytest.approx(440, abs=2)
    assert np.sqrt(2 * np.mean(wave[2000:6000] ** 2)) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_single_sample_is_a_recording(tmp_path: Path, rate: int) -> None:
    wave = load_audio(write(tmp_path / "a.wav", np.full(1, 0.25), rate))
    assert len(wave) == -(-16_000 // rate)


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", sine(440, 16_000))
    sha256 = hash_file(path)
    assert len(load_audio(path, sha256)) == 8000
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.wav: the recording changed.*prepare"):
        load_audio(path, sha256)


def encoded(samples: np.ndarray, subtype: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, 16_000, subtype=subtype, format="WAV")
    return stream.getvalue()


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "not an audio file"),
        (b"RIFF", "not an audio file"),
        (b"path,split,text\n" * 100, "not an audio file"),
        (encoded(np.zeros(0), "PCM_16"), "empty"),
        (encoded(np.array([0.0, np.nan, 0.0]), "FLOAT"), "not samples"),
        (encoded(np.array([0.0, -np.inf, 0.0]), "FLOAT"), "not samples"),
        (encoded(np.array([0.0, 3e37]), "FLOAT"), "not samples; found a largest"),
    ],
)
def test_what_is_no_recording_is_refused_by_name(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "bad one.wav"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_audio(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and complaint in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["a.wav", "a.sph", "a.flac", "a.mp3", "a.aiff"])
def test_a_recording_that_was_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = {"sph": "NIST", "aiff": "AIFF"}.get(path.suffix[1:])
    soundfile.write(path, sine(440, 16_000, 1.0), 16_000, format=kind)
    whole = path.read_bytes()
    assert len(load_audio(path)) == 16_000
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"cut off|lost sync"):
        load_audio(path)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF, 32_000 + 36])
def test_a_size_that_the_writer_did_not_know_is_no_cut(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(440, 16_000, 1.0), 16_000, "PCM_16")
    whole = bytearray(path.read_bytes())
    place = whole.index(b"data") + 4
    whole[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(whole)
    if size:
        assert len(load_audio(path)) == 16_000
    else:
        with pytest.raises(RecordingError, match="empty"):
            load_audio(path)


def test_a_missing_recording_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(InputError, match=f"{path}: the recording cannot be read"):
            load_audio(path)


def test_a_rate_that_would_need_gigabytes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", sine(440, 44_101), 44_101)
    with pytest.raises(InputError, match=r"a\.wav: the sample rate.*44101 Hz"):
        load_audio(path)
