"""Recordings: the encoder gets the same sound from any file format."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from stages.core.errors import InputError, RecordingError
from stages.core.hashing import hash_file
from stages.speech.loading import (
    SAMPLE_RATE,
    decode,
    decode_audio,
    load_audio,
    resample,
)


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


def encoded(samples: np.ndarray, subtype: str, kind: str = "WAV") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, 16_000, subtype=subtype, format=kind)
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


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF, 32_000 + 36])
def test_a_size_that_the_writer_did_not_know_is_no_cut(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(440, 16_000, 1.0), 16_000, "PCM_16")
    whole = bytearray(path.read_bytes())
    place = whole.index(b"data") + 4
    whole[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(whole)
    assert len(load_audio(path)) == 16_000


def changed(content: bytes, mark: bytes, after: int, size: int, order: str) -> bytes:
    """`content` with another size of 4 bytes, `after` so many from the mark."""
    place = content.index(mark) + after
    four = size.to_bytes(4, "little" if order == "<" else "big")
    return content[:place] + four + content[place + 4 :]


@pytest.mark.parametrize(
    "kind, mark, after, order",
    [
        ("WAV", b"data", 4, "<"),
        ("RF64", b"ds64", 16, "<"),
        ("AIFF", b"SSND", 4, ">"),
        ("AU", b".snd", 8, ">"),
        ("CAF", b"data", 8, ">"),
    ],
)
def test_an_unfinished_header_is_no_recording_of_its_size(
    kind: str, mark: bytes, after: int, order: str
) -> None:
    whole = encoded(sine(440, 16_000, 1.0), "PCM_16", kind)
    plain = decode_audio(whole, "whole")
    assert len(plain) == 16_000
    for size in (0, 16_000):
        if (kind, size) in (("AIFF", 0), ("CAF", 0)):  # read on; refused as damaged
            continue
        with pytest.raises(
            RecordingError, match=r"unfinished.*ignore-length"
        ) as caught:
            decode_audio(changed(whole, mark, after, size, order), "a")
        assert re.search(r"found [\d,]+ bytes .* [\d,]+ follow", str(caught.value))
    # A size that the writer did not know.
    if kind != "CAF":
        unknown = changed(whole, mark, after, 0x7FFFFFFF, order)
        np.testing.assert_array_equal(decode_audio(unknown, "a"), plain)
    # Other chunks may follow, and zeros.
    chunk = (b"odd!", (5000).to_bytes(4, "little" if order == "<" else "big"))
    followed = whole + b"".join(chunk) + bytes(range(250)) * 20
    for content in [whole + bytes(9000), followed][: 1 if kind in ("AU", "CAF") else 2]:
        assert len(decode_audio(content, "a")) == 16_000
    with pytest.raises(RecordingError, match="cut off"):
        decode_audio(whole[: len(whole) // 2], "a")


def mp3(wave: np.ndarray, rate: int) -> tuple[bytes, bytes]:
    """A file of changing bit rate, with its header frame and without."""
    stream = io.BytesIO()
    how = {"bitrate_mode": "VARIABLE", "compression_level": 0.2}
    soundfile.write(stream, wave, rate, format="MP3", **how)
    whole = stream.getvalue()
    assert b"Xing" in whole[:64]
    # The next frame starts with the same version, layer and rate, up to padding.
    start = whole.index(whole[:2], 100)
    while whole[start + 2] & 0x0C != whole[2] & 0x0C:
        start = whole.index(whole[:2], start + 1)
    return whole, whole[start:]


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("backwards", [False, True])
def test_mp3_without_a_count_of_frames_is_read_to_the_last_sample(
    rate: int, backwards: bool
) -> None:
    noisy = np.random.default_rng(0).uniform(-0.7, 0.7, 2 * rate)
    wave = np.concatenate([noisy, sine(200, rate, 3.0)])[:: -1 if backwards else 1]
    whole, bare = mp3(wave, rate)
    expected, _ = decode(whole, "whole")
    assert len(expected) == len(wave)
    found, _ = decode(bare, "bare")
    # The decoder keeps what the encoder put before the first sample and after the last.
    delay = int(
        np.argmax(
            [
                np.array_equal(expected[:500], found[place : place + 500])
                for place in range(3000)
            ]
        )
    )
    assert 0 < delay < 3000
    np.testing.assert_array_equal(found[delay : delay + len(wave)], expected)
    # Libsndfile's estimate is wrong by much.
    with soundfile.SoundFile(io.BytesIO(bare)) as file:
        assert abs(file.frames - len(found)) > len(found) // 10
    tag = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    np.testing.assert_array_equal(decode(tag + bare, "tagged")[0], found)
    with pytest.raises(RecordingError, match="cut off"):
        decode(whole[: len(whole) // 2], "cut")
    with pytest.raises(RecordingError, match="unfinished"):
        decode(whole + whole, "of two")
    assert len(decode(whole + b"TAG" + bytes(125), "tagged")[0]) == len(wave)


@pytest.mark.parametrize("coding", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_ogg_that_was_cut_off_says_so(coding: str, share: float) -> None:
    whole = encoded(np.random.default_rng(0).uniform(-1, 1, 80_000), coding, "OGG")
    assert len(decode_audio(whole, "whole")) == 80_000
    with pytest.raises(RecordingError, match="cut off"):
        decode_audio(whole[: int(share * len(whole))], "cut")


def test_channels_of_opposite_phase_are_refused_and_silence_is_not() -> None:
    wave = sine(440, 16_000)
    for channels, good in (([1, -1], False), ([1, -0.99], False), ([1, -0.5], True)):
        content = encoded(np.outer(wave, channels), "FLOAT")
        if good:
            assert np.abs(decode_audio(content, "a")).max() > 0.1
        else:
            with pytest.raises(RecordingError, match=r"cancel.*keep one channel"):
                decode_audio(content, "a")
    assert not decode_audio(encoded(np.zeros((800, 2)), "PCM_16"), "a").any()
    # One microphone of many that was on.
    many = np.zeros((800, 1000))
    many[:, 3] = sine(440, 16_000)[:800]
    assert decode_audio(encoded(many, "FLOAT"), "a").any()


def test_shortened_sphere_is_named_with_the_tools_that_unpack_it() -> None:
    whole = encoded(sine(440, 16_000), "PCM_16", "NIST")
    for content in (
        whole[:1024] + b"ajkg\2" + bytes(range(200)),
        whole.replace(
            b"sample_coding -s3 pcm", b"sample_coding -s5 pcm,embedded-shorten"
        ),
    ):
        assert content != whole
        with pytest.raises(RecordingError, match=r"shorten-compressed.*sph2pipe"):
            decode_audio(content, "a.sph")


@pytest.mark.parametrize("rate", [1, 100, 2**31 - 1])
def test_an_absurd_rate_is_refused(rate: int) -> None:
    content = changed(encoded(sine(440, 16_000), "PCM_16"), b"fmt ", 12, rate, "<")
    with pytest.raises(RecordingError, match="not a sample rate of speech"):
        decode_audio(content, "a.wav")


def test_a_missing_recording_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(InputError, match=f"{path}: the recording cannot be read"):
            load_audio(path)


def test_a_rate_that_would_need_gigabytes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", sine(440, 44_101), 44_101)
    with pytest.raises(InputError, match=r"a\.wav: the sample rate.*44101 Hz"):
        load_audio(path)


def test_decoding_stops_at_the_longest_recording() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(600 * SAMPLE_RATE), SAMPLE_RATE, format="FLAC")
    assert len(decode_audio(buffer.getvalue(), "hours")) == 600 * SAMPLE_RATE
    some = decode_audio(buffer.getvalue(), "hours", longest=20)
    assert 20 < len(some) / SAMPLE_RATE < 100
