"""Recordings of a corpus and of folders: what prepare accepts, extraction can use."""

import io
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.core.errors import InputError, RecordingError
from stages.core.hashing import hash_file
from stages.corpus import recordings
from stages.corpus.recordings import Recording, inspect_recordings
from stages.speech.loading import decode, load_audio
from stages.speech.noise import read_folder

Inspect = Callable[..., list[Recording]]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    root.mkdir()
    for seed, name in enumerate(("a.wav", "c.wav", "d.wav")):
        soundfile.write(root / name, noise(800 + seed, seed), 16_000)
    return root


@pytest.fixture
def inspect(root: Path, tmp_path: Path) -> Inspect:
    def inspected(paths: list[str], on_error: str = "stop") -> list[Recording]:
        notes = tmp_path / "notes.json"
        return inspect_recordings(root, paths, notes, workers=1, on_error=on_error)

    return inspected


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the decoded files."""
    names: list[str] = []

    def counted(data: bytes, path: Path) -> tuple[np.ndarray, int]:
        names.append(path.name)
        return decode(data, path)

    monkeypatch.setattr(recordings, "decode", counted)
    return names


def test_unchanged_files_are_not_read_again(
    tmp_path: Path, inspect: Inspect, decoded: list[str]
) -> None:
    first = inspect(["a.wav", "c.wav"])
    assert inspect(["c.wav", "a.wav"]) == first[::-1]
    inspect(["a.wav", "c.wav", "d.wav"])
    assert decoded == ["a.wav", "c.wav", "d.wav"]
    assert inspect(["a.wav"]) == first[:1]
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert list(notes["recordings"]) == ["a.wav"]  # not the removed ones


def test_a_damaged_cache_is_not_believed(
    tmp_path: Path, inspect: Inspect, decoded: list[str]
) -> None:
    found = inspect(["a.wav", "c.wav"])
    notes = tmp_path / "notes.json"
    sound = notes.read_bytes()
    digit = found[0].sha256[5]
    other = found[0].sha256[:5] + ("1" if digit == "0" else "0") + found[0].sha256[6:]
    for damage in (
        sound.replace(found[0].sha256.encode(), other.encode()),
        sound.replace(b'"seconds": 0.05', b'"seconds": 0.07'),
        sound[: len(sound) // 2],
        b"[" * 100_000,
        b"[]",
        b'{"recordings": {}}',
        b"\xff",
        b"",
    ):
        assert damage != sound
        notes.write_bytes(damage)
        decoded.clear()
        assert inspect(["a.wav", "c.wav"]) == found
        assert decoded == ["a.wav", "c.wav"]
        assert notes.read_bytes() == sound


@pytest.mark.parametrize("change", ["content", "content, not its time", "time only"])
def test_a_changed_file_is_read_again(
    root: Path, inspect: Inspect, decoded: list[str], change: str
) -> None:
    before = inspect(["a.wav", "c.wav"])
    decoded.clear()
    path, state = root / "c.wav", (root / "c.wav").stat()
    if change == "content":
        soundfile.write(path, noise(3000), 16_000)
    elif change == "time only":
        path.write_bytes(path.read_bytes())
    else:  # as after `cp -p`
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    after = inspect(["a.wav", "c.wav"])
    assert decoded == ["c.wav"]
    assert after[0] == before[0]
    assert after[1].sha256 == hash_file(path)
    assert after[1].seconds == soundfile.info(path).duration
    assert (after[1] == before[1]) == (change == "time only")


def test_files_read_before_an_error_are_not_read_again(
    root: Path, inspect: Inspect, decoded: list[str]
) -> None:
    content = (root / "d.wav").read_bytes()
    (root / "d.wav").unlink()
    with pytest.raises(InputError, match=r"d\.wav: no such audio file"):
        inspect(["a.wav", "c.wav", "d.wav"])
    (root / "d.wav").write_bytes(content)
    decoded.clear()
    inspect(["a.wav", "c.wav", "d.wav"])
    assert decoded == ["d.wav"]


def test_what_extraction_would_refuse_is_refused(root: Path, inspect: Inspect) -> None:
    soundfile.write(root / "nan.wav", [0.1, np.nan], 16_000, "FLOAT")
    soundfile.write(root / "rate.wav", noise(800), 44_101)
    soundfile.write(root / "phase.wav", np.outer(noise(800), [1, -1]), 16_000)
    whole = (root / "a.wav").read_bytes()
    (root / "cut.wav").write_bytes(whole[:200])
    for name in ("nan.wav", "rate.wav", "phase.wav", "cut.wav"):
        with pytest.raises(RecordingError) as caught:
            load_audio(root / name)
        with pytest.raises(RecordingError) as also:
            inspect([name])
        assert str(also.value) == str(caught.value)
        assert inspect([name], on_error="quarantine")[0].seconds == 0


def test_the_duration_is_that_of_the_samples_not_of_the_header(
    root: Path, inspect: Inspect
) -> None:
    soundfile.write(root / "a.flac", noise(5000), 16_000)
    stream = bytearray((root / "a.flac").read_bytes())
    for count in (0, 2**36 - 1):  # unknown, as from a pipe; and absurd
        stream[21] = stream[21] & 0xF0 | count >> 32
        stream[22:26] = (count & 0xFFFFFFFF).to_bytes(4, "big")
        (root / "a.flac").write_bytes(stream)
        assert inspect(["a.flac"])[0].seconds == 5000 / 16_000
        assert len(load_audio(root / "a.flac")) == 5000


def test_the_bytes_count_not_the_suffix(root: Path, inspect: Inspect) -> None:
    (root / "a.wav").rename(root / "a.raw")
    assert inspect(["a.raw"])[0].seconds == 0.05


def test_what_is_no_file_is_named_and_not_waited_for(
    root: Path, inspect: Inspect
) -> None:
    (root / "folder.wav").mkdir()
    shutil.copy(root / "a.wav", root / "folder.wav")
    assert len(read_folder("noise", str(root), "")) == 3  # two have the same bytes
    os.mkfifo(root / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "socket.wav"))  # of at most 107 letters
        for name in ("folder.wav", "pipe.wav", "socket.wav"):
            complaint = rf"{name}: the recording cannot be read; found a "
            with pytest.raises(InputError, match=complaint):
                inspect([name])
            with pytest.raises(InputError, match=complaint):
                load_audio(root / name)
            if name != "folder.wav":
                with pytest.raises(InputError, match="cannot be read; found a pipe"):
                    read_folder("noise", str(root), "")
                (root / name).unlink()


def test_any_coding_that_libsndfile_opens_is_read_to_its_end(
    root: Path, inspect: Inspect
) -> None:
    for kind, coding in (
        ("WAV", "G721_32"),
        ("WAV", "NMS_ADPCM_16"),
        ("WAV", "GSM610"),
        ("AU", "G723_24"),
        ("AIFF", "DWVW_16"),
    ):
        stream = io.BytesIO()
        soundfile.write(stream, noise(16_000), 16_000, coding, format=kind)
        (root / "a.wav").write_bytes(stream.getvalue())
        wave = load_audio(root / "a.wav")
        assert 16_000 <= len(wave) < 16_200, coding  # a last block can be padded
        assert inspect(["a.wav"])[0].seconds == len(wave) / 16_000
