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


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF, 32_000 + 36, 32_000 + 44])
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
        ("W64", b"data", 16, "<"),
        ("AIFF", b"SSND", 4, ">"),
        ("AU", b".snd", 8, ">"),
    ],
)
def test_an_unfinished_header_is_no_recording_of_its_size(
    kind: str, mark: bytes, after: int, order: str
) -> None:
    whole = encoded(sine(440, 16_000, 1.0), "PCM_16", kind)
    plain = decode_audio(whole, "whole")
    assert len(plain) == 16_000
    place = whole.index(mark) + after
    stated = int.from_bytes(
        whole[place : place + 4], "little" if order == "<" else "big"
    )
    for size in (0, 16_000, stated - 8):
        with pytest.raises(
            RecordingError, match=r"unfinished.*ignore-length"
        ) as caught:
            decode_audio(changed(whole, mark, after, size, order), "a")
        assert re.search(r"found [\d,]+ bytes .* [\d,]+ follow", str(caught.value))
    # A size that the writer did not know.
    unknown = changed(whole, mark, after, 0x7FFFFFFF, order)
    np.testing.assert_array_equal(decode_audio(unknown, "a"), plain)
    for cut in (len(whole) // 2, len(whole) - 2):
        with pytest.raises(RecordingError, match="cut off"):
            decode_audio(whole[:cut], "a")


def chunk(kind: str, content: bytes) -> bytes:
    """A chunk with a name, padded."""
    if kind == "W64":
        head = b"odd!" + bytes(12) + (24 + len(content)).to_bytes(8, "little")
        return head + content + bytes(-len(content) % 8)
    order = "big" if kind == "AIFF" else "little"
    return b"odd!" + len(content).to_bytes(4, order) + content + bytes(len(content) % 2)


@pytest.mark.parametrize("kind", ["WAV", "W64", "AIFF", "AU"])
@pytest.mark.parametrize("samples", [8000, 8001])
def test_what_is_before_and_after_the_samples_is_not_one_of_them(
    kind: str, samples: int
) -> None:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, samples)
    whole = encoded(wave, "PCM_16" if kind == "AIFF" else "ULAW", kind)
    plain = decode_audio(whole, "whole")
    assert len(plain) == samples
    noisy = bytes(range(1, 250)) * 20
    tag = b"APETAGEX" + noisy
    after = [
        bytes(9000),
        b" " * 3000,
        b"\xff" * 3000,
        b"ID3\3\0\0\0\0\1\0" + noisy,
        tag,
    ]
    if kind != "AU":
        after.append(chunk(kind, noisy))
    if kind in ("WAV", "AIFF"):
        # A last chunk that was cut off, in a file of the stated size.
        short = whole + chunk(kind, noisy)[:2000]
        order = "<" if kind == "WAV" else ">"
        size = changed(short, short[:4], 4, len(short) - 8, order)
        np.testing.assert_array_equal(decode_audio(size, kind), plain)
        with pytest.raises(RecordingError, match="unfinished"):
            decode_audio(short, kind)
    for content in after:
        np.testing.assert_array_equal(decode_audio(whole + content, kind), plain)
    for content in (noisy[:20], noisy):
        with pytest.raises(RecordingError, match="unfinished"):
            decode_audio(whole + content, kind)
    if kind != "AU":
        place = whole.index(b"COMM" if kind == "AIFF" else b"fact")
        before = whole[:place] + chunk(kind, b"not") + whole[place:]
        np.testing.assert_array_equal(decode_audio(before, kind), plain)
        with pytest.raises(RecordingError, match="cut off"):
            decode_audio(before[:-100], kind)


def test_an_absurd_start_of_the_samples_is_a_cut() -> None:
    whole = encoded(sine(440, 16_000), "PCM_16", "AU")
    with pytest.raises(RecordingError, match="cut off; found 0 bytes of samples"):
        decode_audio(changed(whole, b".snd", 4, 0xFFFFFF00, ">"), "a")


def test_a_damaged_header_prints_nothing(capfd: pytest.CaptureFixture) -> None:
    content = encoded(sine(440, 16_000), "PCM_16", "AIFF").replace(b"SSND", b"\0\0\0\0")
    with pytest.raises(RecordingError, match="not an audio file"):
        decode_audio(content, "a")  # libsndfile seeks to -1
    assert capfd.readouterr().err == ""


def with_count(flac: bytes, count: int) -> bytes:
    """A FLAC file that states another number of samples, of 36 bits."""
    five = (count | (flac[21] >> 4) << 36).to_bytes(5, "big")
    return flac[:21] + five + flac[26:]


def test_flac_is_read_to_its_end_and_its_count_compared() -> None:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 50_000)
    whole = encoded(wave, "PCM_16", "FLAC")
    plain = decode_audio(whole, "whole")
    assert with_count(whole, 50_000) == whole and len(plain) == 50_000
    id3 = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    for good in (with_count(whole, 0), whole + b"TAG" + bytes(125), id3 + whole):
        np.testing.assert_array_equal(decode_audio(good, "a"), plain)
    for count in (1, 25_000, 4096 * 6, 49_999):
        with pytest.raises(RecordingError, match=rf"unfinished.*{count:,} samples"):
            decode_audio(with_count(whole, count), "a")
    for count in (0, 50_000):
        with pytest.raises(RecordingError, match="lost sync"):
            decode_audio(with_count(whole, count)[: len(whole) // 2], "a")
    with pytest.raises(RecordingError, match=r"cut off; found 50,000.*50,001"):
        decode_audio(with_count(whole, 50_001), "a")
    for several in (whole + whole, with_count(whole, 0) + whole):
        with pytest.raises(RecordingError, match="several recordings"):
            decode_audio(several, "a")


def mp3(
    wave: np.ndarray, rate: int, bitrate: str = "VARIABLE", level: float = 0.2
) -> tuple[bytes, bytes]:
    """A file, by default of changing bit rate, with its header frame and without."""
    stream = io.BytesIO()
    how = {"bitrate_mode": bitrate, "compression_level": level}
    soundfile.write(stream, wave, rate, format="MP3", **how)
    whole = stream.getvalue()
    assert (b"Xing" if bitrate == "VARIABLE" else b"Info") in whole[:64]
    # The next frame starts with the same version, layer and rate, up to padding.
    start = whole.index(whole[:2], 100)
    while whole[start + 2] & 0x0C != whole[2] & 0x0C:
        start = whole.index(whole[:2], start + 1)
    return whole, whole[start:]


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
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
    with pytest.raises(RecordingError, match="cut off"):
        decode(whole[: len(whole) // 2], "cut")


def test_mp3_of_a_killed_recorder_is_read_to_the_last_frame() -> None:
    whole, bare = mp3(np.random.default_rng(0).uniform(-0.7, 0.7, 48_000), 16_000)
    expected = decode(bare, "bare")[0]
    place = whole.index(b"Xing") + 8
    assert int.from_bytes(whole[place : place + 4], "big") * 576 >= 48_000
    for zeros in (4, 8):  # no frames, and no bytes
        killed = whole[:place] + bytes(zeros) + whole[place + zeros :]
        np.testing.assert_array_equal(decode(killed, "killed")[0], expected)
    with pytest.raises(RecordingError, match="empty"):
        decode((whole[:place] + bytes(8) + whole[place + 8 :])[: -len(bare)], "at once")
    half = whole[:place] + (20).to_bytes(4, "big") + whole[place + 4 :]
    np.testing.assert_array_equal(decode(half, "killed")[0], expected)
    assert len(decode(bare + bare, "of two")[0]) > 2 * 48_000
    assert len(decode(whole + whole, "of two")[0]) > 2 * 48_000


def test_mp3_of_which_a_byte_is_missing_is_refused() -> None:
    whole, bare = mp3(np.random.default_rng(0).uniform(-0.7, 0.7, 48_000), 16_000)
    for cut in (whole[:-1], bare[:-1], bare[:-3], bare[: len(bare) // 2]):
        with pytest.raises(RecordingError, match="cut off; found a part of a frame"):
            decode(cut, "cut")
    for damaged in (
        bare[:-3] + bare[44:],
        bare[:9001] + bare,
        bare[:9000] + bytes(5000) + bare[14_000:],
        bare + bytes(range(200)),
        bare + b"APETAGEX" + bytes(99) + bare,
        b"\xff\xfd" + bare[2:],  # layer II
        bare[:2] + bytes([bare[2] | 0xF0]) + bare[3:],  # no bit rate
        bare[:2] + bytes([bare[2] | 0x0C]) + bare[3:],  # no sample rate
        b"\xff\xeb" + bare[2:],  # no version
    ):
        with pytest.raises(RecordingError, match="the recording is damaged"):
            decode(damaged, "damaged")


def test_the_count_that_mp3_states_is_compared_with_its_frames(
    capfd: pytest.CaptureFixture,
) -> None:
    wave = np.random.default_rng(0).uniform(-0.7, 0.7, 48_000)
    whole, bare = mp3(wave, 16_000, "CONSTANT", 0.5)
    plain = decode(whole, "whole")[0]
    assert len(plain) == 48_000
    assert len(bare) % 360 == 0 and len(whole) == len(bare) + 360  # bytes of a frame
    start, count = whole.index(b"Info"), len(bare) // 360
    head, after = whole[: start + 8], whole[start + 12 :]
    assert head + count.to_bytes(4, "big") + after == whole
    for missing in (1, 3):
        with pytest.raises(RecordingError, match=rf"cut off.*{count:,}, from the head"):
            decode(whole[: -360 * missing], "cut between frames")
    for cut in (-359, -358, -360 + 4):
        for tag in (b"", b"TAG" + b"x" * 125):
            with pytest.raises(RecordingError, match="cut off; found a part"):
                decode(bare[:cut] + tag, "cut behind a header")
    # It can count itself, state more bytes than the frames have, or no bytes.
    counted = head + (count + 1).to_bytes(4, "big") + after
    np.testing.assert_array_equal(decode(counted, "counted")[0], plain)
    more = whole[: start + 12] + (2 * len(whole)).to_bytes(4, "big") + after[4:]
    np.testing.assert_array_equal(decode(more, "more")[0], plain)
    alone = head[:-4] + b"\0\0\0\1" + count.to_bytes(4, "big") + after[108:360]
    alone = alone[:360].ljust(360, b"\0") + bare
    np.testing.assert_array_equal(decode(alone, "alone")[0], plain)
    # Frames that have a byte of padding.
    assert len(decode(mp3(wave, 44_100, "CONSTANT", 0.5)[0], "padded")[0]) == 48_000
    assert capfd.readouterr().err == ""
    stereo = mp3(np.stack([wave, wave], 1), 16_000)[1]
    for other in (mp3(wave, 24_000)[1], mp3(wave, 32_000)[1], stereo):
        with pytest.raises(RecordingError, match="the recording is damaged"):
            decode(bare + other, "of two kinds")


def test_mp3_is_read_without_its_tags_and_prints_nothing(
    capfd: pytest.CaptureFixture,
) -> None:
    files = mp3(np.random.default_rng(0).uniform(-0.7, 0.7, 48_000), 16_000)
    art = np.random.default_rng(1).bytes(500_000)
    id3 = b"ID3\4\0\0" + bytes([0, 30, 66, 32]) + art  # 7 bits in a byte
    footed = b"ID3\4\0\x10\0\0\1\0" + bytes(128) + b"3DI" + bytes(7)
    ape = b"APETAGEX" + bytes(24) + art + b"APETAGEX" + bytes(24)
    ape_1 = bytes([9, 0, 0, 0, 0, 0, 0, 0]) + b"Artist\0somebody" + ape[-32:]
    lyrics = b"LYRICSBEGININD0000200000029LYRICS200"
    tag = b"TAG" + b"\xff\xfb" + b"x" * 123
    for bare in files:
        plain = decode(bare, "plain")[0]
        for before in (b"", id3, footed, footed + id3 + bytes(3000)):
            for after in (b"", tag, ape_1, ape + tag, lyrics + tag, id3, b" " * 3000):
                found = decode(before + bare + after, "tagged")[0]
                np.testing.assert_array_equal(found, plain)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("coding", ["VORBIS", "OPUS"])
def test_ogg_of_which_a_page_is_missing_says_so(coding: str) -> None:
    whole = encoded(np.random.default_rng(0).uniform(-1, 1, 80_000), coding, "OGG")
    plain = decode_audio(whole, "whole")
    assert len(plain) == 80_000
    pages = [match.start() for match in re.finditer(b"OggS", whole)]
    for share in (0.02, 0.5, 0.95):
        with pytest.raises(RecordingError, match="cut off"):
            decode_audio(whole[: int(share * len(whole))], "cut")
    with pytest.raises(RecordingError, match="cut off"):
        decode_audio(whole[:-1], "cut")
    for page in pages[1:]:
        with pytest.raises(RecordingError, match="cut off"):
            decode_audio(whole[:page], "cut between pages")
    with pytest.raises(RecordingError, match="cut off"):
        decode_audio(whole[: pages[3]] + whole[pages[4] :], "without a page")
    for place in (pages[0] + 40, pages[-1] + 300, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 8
        with pytest.raises(RecordingError, match=r"damaged.*checksum"):
            decode_audio(bytes(flipped), "flipped")
    with pytest.raises(RecordingError, match="several recordings"):
        decode_audio(whole + whole, "of two")
    id3 = b"ID3\4\0\0\0\0\1\0" + bytes(128)
    for good in (whole + bytes(500), whole + b"TAG" + bytes(125), id3 + whole):
        np.testing.assert_array_equal(decode_audio(good, "tagged"), plain)


def test_channels_of_opposite_phase_are_refused_and_others_are_not() -> None:
    wave = sine(440, 16_000, 1.0)
    noise = np.random.default_rng(0).normal(0, 1, (len(wave), 2))
    loud = np.sqrt(np.mean(wave**2))
    opposite = np.outer(wave, [1, -1])
    for samples, coding in (
        (opposite, "FLOAT"),
        (opposite, "PCM_U8"),
        (opposite + np.array([0.2, 0.1]), "FLOAT"),
        (opposite + 10 ** (-35 / 20) * loud * noise, "PCM_16"),
        (np.outer(wave, [1, -0.9]), "FLOAT"),
    ):
        with pytest.raises(RecordingError, match=r"cancel.*keep one channel"):
            decode_audio(encoded(samples, coding), "a")
    for samples in (
        np.outer(wave, [1, -0.7]),
        opposite + 10 ** (-15 / 20) * loud * noise,
        0.1 * noise,
        np.outer(wave, [1, 0]) + np.array([0, 0.3]),
    ):
        assert np.abs(decode_audio(encoded(samples, "FLOAT"), "a")).max() > 0.05
    for silence in (np.zeros((800, 2)), np.full((800, 2), [0.1, -0.1])):
        assert not decode_audio(encoded(silence, "FLOAT"), "a").any()
    # One microphone of many that was on.
    many = np.zeros((800, 1000))
    many[:, 3] = wave[:800]
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
