"""Extraction: each recording is encoded once, also after interruptions."""

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from click.testing import CliRunner

from pipeline.cache.verification import verify_cache
from pipeline.cli import main
from stages.acoustic import encoding
from stages.acoustic.checkpoint import frozen_encoder, load_checkpoint, save_checkpoint
from stages.acoustic.encoder import Encoder, EncoderConfiguration
from stages.acoustic.encoding import encode, feature_header
from stages.acoustic.frames import frame_count
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.acoustic.params import REVISION, AcousticParams
from stages.acoustic.run import Summary, run
from stages.cache.digest import digest_path, read_digest
from stages.cache.format import PART_FRAMES
from stages.cache.store import CacheReader
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import (
    CacheError,
    ConfigurationError,
    InputError,
    RecordingError,
)
from stages.core.hashing import hash_file
from stages.core.manifest import COLUMNS, read_manifest, read_quarantine, write_manifest
from stages.core.runtime import RunOptions
from stages.speech.loading import load_audio

SIZES = EncoderConfiguration("log-cmn", 4, 21, 3, hidden=3, phonemes=3, words=4)
LENGTHS = (1, 900, 2560, 2561, 2561, 4000, 7000, 9000, 12_345, 16_000)


def duration(path: Path) -> float:
    try:
        return soundfile.info(path).duration
    except soundfile.LibsndfileError:
        return 0.0


class Corpus:
    """A small corpus, its encoder and its cache in one folder."""

    def __init__(self, folder: Path) -> None:
        self.files = CorpusFiles(folder)
        self.audio = folder / "audio"
        self.manifest, self.quarantine = self.files.manifest, self.files.quarantine
        self.cache = folder / "acoustic"
        self.params = AcousticParams(encoder=str(folder / "encoder.safetensors"))
        self.new_encoder(seed=0)
        self.audio.mkdir()
        for number, samples in enumerate(LENGTHS):
            self.record(f"{number:02d}.wav", samples, seed=number)
        self.describe()

    @property
    def digest(self) -> Path:
        return digest_path(self.cache)

    def new_encoder(self, seed: int, sizes: EncoderConfiguration = SIZES) -> None:
        encoder = frozen_encoder(sizes, seed).encoder
        save_checkpoint(Path(self.params.encoder), encoder, (), ())

    def record(self, name: str, samples: int, seed: int) -> None:
        wave = np.random.default_rng(seed).normal(0, 0.1, samples)
        soundfile.write(self.audio / name, wave, 16_000)

    def copy(self, name: str, other: str) -> None:
        shutil.copy(self.audio / name, self.audio / other)

    def describe(self) -> None:
        """Write the manifest of the recordings that are there."""
        paths = sorted(self.audio.iterdir())
        rows = [
            (
                f"tiny/{path.stem}",
                path.name,
                ("train", "valid", "test")[number % 3],
                "",
                "hello",
                "greet",
                duration(path),
                hash_file(path),
            )
            for number, path in enumerate(paths)
        ]
        write_manifest(self.manifest, pd.DataFrame(rows, columns=list(COLUMNS)))

    def extract(
        self,
        params: AcousticParams | None = None,
        backend: str = "auto",
        on_error: str = "stop",
        longest_seconds: float = 120.0,
    ) -> Summary:
        return run(
            params or self.params,
            self.files,
            audio=self.audio,
            cache=self.cache,
            on_error=on_error,
            longest_seconds=longest_seconds,
            options=RunOptions("cpu", workers=2, backend=backend),
        )

    def features(self) -> dict[str, np.ndarray]:
        """Features by path, through the digest and the cache."""
        digest = read_digest(self.digest)
        reader = CacheReader(self.cache, fingerprint=digest.header.fingerprint)
        paths = read_manifest(self.manifest).set_index("id")["path"]
        return {paths[id]: reader[key] for id, (key, _) in digest.rows.items()}

    def expected(self) -> dict[str, np.ndarray]:
        """Features by path, each recording by itself."""
        encoder = load_checkpoint(Path(self.params.encoder)).encoder
        return {
            path.name: encoder(torch.from_numpy(load_audio(path))[None])[0].numpy()
            for path in sorted(self.audio.iterdir())
        }


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many utterances each call of the encoder was given."""
    calls: list[int] = []
    encode = OnnxEncoder.encode

    def counted(self, waves):
        calls.append(len(waves))
        return encode(self, waves)

    monkeypatch.setattr(OnnxEncoder, "encode", counted)
    return calls


def assert_alike(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], atol: float = 1e-5
) -> None:
    assert found.keys() == expected.keys()
    for name, features in expected.items():
        np.testing.assert_allclose(found[name], features, rtol=0, atol=atol)


def test_cached_features_equal_those_of_each_recording_alone(corpus: Corpus) -> None:
    summary = corpus.extract()
    frames = sum(map(frame_count, LENGTHS))
    count = len(LENGTHS)
    assert summary == Summary(
        corpus.cache, count, count, 0, frames, 0, corpus.quarantine
    )
    assert f"{len(LENGTHS)} extracted now ({frames} frames), 0 kept" in str(summary)
    found = corpus.features()
    assert [len(found[f"{n:02d}.wav"]) for n in range(len(LENGTHS))] == [
        frame_count(samples) for samples in LENGTHS
    ]
    assert all(features.dtype == np.float32 for features in found.values())
    assert_alike(found, corpus.expected())
    assert np.ptp(np.concatenate(list(found.values()))) > 0.1


def test_a_second_run_does_not_call_the_encoder(
    corpus: Corpus, encoded: list[int]
) -> None:
    corpus.extract()
    assert sum(encoded) == len(LENGTHS)
    before = {p.name: p.read_bytes() for p in corpus.cache.glob("*.h5")}
    digest = corpus.digest.read_bytes()
    encoded.clear()
    summary = corpus.extract()
    assert encoded == []
    assert (summary.extracted, summary.frames) == (0, 0)
    assert {p.name: p.read_bytes() for p in corpus.cache.glob("*.h5")} == before
    assert corpus.digest.read_bytes() == digest


@pytest.mark.parametrize(
    "change, cost",
    [
        (lambda corpus: corpus.record("more.wav", 5000, seed=99), 1),
        (lambda corpus: corpus.record("04.wav", 3000, seed=77), 1),
        (lambda corpus: (corpus.audio / "03.wav").unlink(), 0),
        (lambda corpus: corpus.copy("03.wav", "copy.wav"), 0),
        (lambda corpus: (corpus.audio / "05.wav").rename(corpus.audio / "a b.wav"), 0),
    ],
    ids=["added", "changed", "removed", "copied", "renamed"],
)
def test_after_a_change_of_the_corpus_only_new_bytes_are_encoded(
    corpus: Corpus, encoded: list[int], change: Callable[[Corpus], Any], cost: int
) -> None:
    corpus.extract()
    change(corpus)
    corpus.describe()
    encoded.clear()
    assert corpus.extract().extracted == sum(encoded) == cost
    # The digest names the recordings that are there, no others.
    assert_alike(corpus.features(), corpus.expected())


@pytest.mark.parametrize(
    "seed, sizes", [(1, SIZES), (0, replace(SIZES, front_end="raw"))]
)
def test_another_encoder_or_front_end_extracts_everything_again(
    corpus: Corpus,
    encoded: list[int],
    caplog: pytest.LogCaptureFixture,
    seed: int,
    sizes: EncoderConfiguration,
) -> None:
    corpus.extract()
    before = read_digest(corpus.digest)
    corpus.new_encoder(seed, sizes)
    encoded.clear()
    with caplog.at_level(logging.WARNING):
        corpus.extract()
    assert sum(encoded) == len(LENGTHS)
    assert f"{len(LENGTHS)} cached utterances are not used" in caplog.text
    after = read_digest(corpus.digest)
    assert after.header.fingerprint != before.header.fingerprint
    assert all(after.rows[id][1] != before.rows[id][1] for id in before.rows)
    assert_alike(corpus.features(), corpus.expected())


def test_float16_is_another_cache_within_its_rounding(
    corpus: Corpus, encoded: list[int]
) -> None:
    corpus.extract()
    full = read_digest(corpus.digest).header
    half = replace(corpus.params, dtype="float16")
    encoded.clear()
    corpus.extract(half)
    assert sum(encoded) == len(LENGTHS)
    header = read_digest(corpus.digest).header
    assert (full.dtype, header.dtype) == ("float32", "float16")
    assert header.fingerprint != full.fingerprint
    found = corpus.features()
    assert all(features.dtype == np.float16 for features in found.values())
    # Features are within -1 and 1, where half precision rounds by 2^-12 at most.
    assert_alike(found, corpus.expected(), atol=2**-12 + 1e-5)


@pytest.mark.parametrize("processes", [False, True])
def test_processes_and_batches_change_no_bit(
    corpus: Corpus,
    tmp_path: Path,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    processes: bool,
) -> None:
    corpus.extract()
    assert len(encoded) == 1
    parts = {path.name for path in corpus.cache.glob("*.h5")}
    digest = corpus.digest.read_bytes()
    if processes:
        monkeypatch.setattr(encoding, "_PROCESSES_SECONDS", 0)
    monkeypatch.setattr(encoding, "_BATCH_SECONDS", {"cpu": 4.0})
    encoded.clear()
    corpus.cache = tmp_path / "other"
    corpus.extract()
    # Another process counts for itself.
    assert encoded == [] if processes else 1 < len(encoded) < len(LENGTHS)
    assert {path.name for path in corpus.cache.glob("*.h5")} == parts
    assert corpus.digest.read_bytes() == digest


def test_backends_agree_and_share_a_cache(
    corpus: Corpus, tmp_path: Path, encoded: list[int]
) -> None:
    corpus.extract(backend="torch")
    assert encoded == []
    found, header = corpus.features(), read_digest(corpus.digest).header
    assert_alike(found, corpus.expected())
    assert corpus.extract(backend="onnx").extracted == 0
    corpus.cache = tmp_path / "other"
    corpus.extract(backend="onnx")
    assert sum(encoded) == len(LENGTHS)
    assert read_digest(corpus.digest).header == header
    assert_alike(corpus.features(), found)


def test_an_unknown_backend_is_named_with_the_known_ones(corpus: Corpus) -> None:
    with pytest.raises(ConfigurationError, match=r"'cuda'.*auto, onnx, torch"):
        corpus.extract(backend="cuda")


def test_the_graph_is_written_once_beside_the_parts(corpus: Corpus) -> None:
    corpus.extract()
    (graph,) = corpus.cache.glob("*.onnx")
    fingerprint = load_checkpoint(Path(corpus.params.encoder)).fingerprint
    assert graph.name == f"encoder-{fingerprint[:32]}.onnx"
    before = graph.stat().st_mtime_ns
    corpus.record("more.wav", 5000, seed=99)
    corpus.describe()
    corpus.extract()
    assert graph.stat().st_mtime_ns == before
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    corpus.record("again.wav", 5000, seed=98)
    corpus.describe()
    corpus.extract()
    assert_alike(corpus.features(), corpus.expected())
    corpus.new_encoder(seed=1)
    corpus.extract()
    (other,) = corpus.cache.glob("*.onnx")
    assert other.name != graph.name


def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_BATCH_SECONDS", {"cpu": 1e-6})
    monkeypatch.setitem(PART_FRAMES, "acoustic", 5)


@pytest.mark.parametrize(
    "harm, complaint",
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(b"no audio"), "changed since the manifest"),
    ],
)
def test_a_bad_recording_stops_by_name_and_what_was_computed_is_kept(
    corpus: Corpus,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], Any],
    complaint: str,
) -> None:
    one_at_a_time(monkeypatch)
    bad = corpus.audio / "08.wav"
    content = bad.read_bytes()
    harm(bad)
    with pytest.raises(InputError, match=rf"08\.wav: .*{complaint}"):
        corpus.extract()
    assert not corpus.digest.exists()
    kept = sum(encoded)
    assert kept >= 7
    bad.write_bytes(content)
    encoded.clear()
    corpus.extract()
    assert sum(encoded) == len(LENGTHS) - kept
    assert_alike(corpus.features(), corpus.expected())


@pytest.fixture
def harmed(corpus: Corpus) -> Corpus:
    """Also recordings that are not audio (twice), empty, and long."""
    for name in ("bad.wav", "worse.wav"):
        (corpus.audio / name).write_bytes(b"no audio")
    corpus.record("empty.wav", 0, seed=0)
    corpus.record("long.wav", 20_000, seed=1)
    corpus.describe()
    return corpus


@pytest.mark.parametrize("backend, processes", [("onnx", 0), ("onnx", 1), ("torch", 0)])
def test_bad_recordings_are_set_aside_by_name_and_the_others_extracted(
    harmed: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    backend: str,
    processes: int,
) -> None:
    if processes:
        monkeypatch.setattr(encoding, "_PROCESSES_SECONDS", 0)
    how = {"backend": backend, "on_error": "quarantine", "longest_seconds": 1.1}
    with caplog.at_level(logging.WARNING):
        summary = harmed.extract(**how)
    assert (summary.utterances, summary.extracted) == (len(LENGTHS), len(LENGTHS))
    assert str(summary).endswith(f"; 4 set aside, listed in {harmed.quarantine}")
    assert caplog.text.count("set aside ") == 3  # of equal bytes one
    listed = read_quarantine(harmed.quarantine).set_index("id")["reason"].to_dict()
    assert list(listed) == ["tiny/bad", "tiny/empty", "tiny/long", "tiny/worse"]
    assert "not an audio file" in listed["tiny/bad"] == listed["tiny/worse"]
    assert listed["tiny/empty"] == "the recording is empty"
    assert listed["tiny/long"] == "the recording is too long: 1.2 seconds"
    assert str(harmed.audio) not in harmed.quarantine.read_text()
    assert harmed.extract(**how).extracted == 0
    for name in ("bad.wav", "worse.wav", "empty.wav", "long.wav"):
        (harmed.audio / name).unlink()
    assert_alike(harmed.features(), harmed.expected())


@pytest.mark.parametrize("name", ["bad", "empty", "long"])
def test_by_default_a_bad_recording_stops_the_run(harmed: Corpus, name: str) -> None:
    for path in harmed.audio.glob("*[a-z].wav"):
        if path.stem != name:
            path.unlink()
    harmed.describe()
    with pytest.raises(RecordingError, match=rf"{name}\.wav: .*--on-error quarantine"):
        harmed.extract(longest_seconds=1.1)
    assert not harmed.digest.exists()
    assert not harmed.quarantine.exists()


def test_a_fixed_recording_is_used_again(harmed: Corpus) -> None:
    harmed.extract(on_error="quarantine")
    for seed, name in enumerate(("bad.wav", "worse.wav", "empty.wav"), 50):
        harmed.record(name, 4000, seed)
    harmed.describe()
    assert harmed.extract().extracted == 3
    assert read_quarantine(harmed.quarantine).empty
    assert_alike(harmed.features(), harmed.expected())


def test_a_cached_recording_that_is_now_too_long_is_left_out(corpus: Corpus) -> None:
    corpus.extract()
    summary = corpus.extract(on_error="quarantine", longest_seconds=0.9)
    assert (summary.utterances, summary.set_aside) == (len(LENGTHS) - 1, 1)
    assert "tiny/09" not in read_digest(corpus.digest).rows


def test_a_corpus_of_bad_recordings_only_is_an_error(corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"none of .* can be used"):
        corpus.extract(on_error="quarantine", longest_seconds=1e-6)
    assert len(read_quarantine(corpus.quarantine)) == len(LENGTHS)


def test_no_room_for_the_graph_is_one_line(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoding, "atomic_path", full)
    with pytest.raises(CacheError, match=r"\.onnx: cannot be written .*No space"):
        corpus.extract()


def test_temporary_files_of_a_killed_run_are_removed(corpus: Corpus) -> None:
    corpus.cache.mkdir()
    begun = [corpus.cache / f".{name}.999.tmp" for name in ("a.h5", "encoder-x.onnx")]
    for path in begun:
        path.write_bytes(b"half")
    corpus.extract()
    assert not any(path.exists() for path in begun)


def test_batches_are_limited_in_seconds_with_padding(
    corpus: Corpus, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_BATCH_SECONDS", {"cpu": 4.0})
    for number in range(30):
        corpus.record(f"short-{number}.wav", 2 + number, seed=number)
    corpus.describe()
    corpus.extract()
    # Each is padded to 1.28 s.
    assert max(encoded) == 3
    # A recording longer than a batch is a batch of its own.
    monkeypatch.setattr(encoding, "_BATCH_SECONDS", {"cpu": 1e-6})
    encoded.clear()
    corpus.new_encoder(seed=1)
    corpus.extract()
    assert encoded == [1] * (len(LENGTHS) + 30)


def test_the_shipped_encoders_fingerprint() -> None:
    """If it changes, every cache of its features is computed again: bump REVISION."""
    path = Path(__file__).parents[1] / "data" / "demo" / "encoder.safetensors"
    header = feature_header(load_checkpoint(path), AcousticParams())
    assert (header.kind, header.dim, header.frame_step) == ("acoustic", 256, 2560)
    assert header.encoder == "lugosch log-cmn"
    assert header.fingerprint.startswith("2dc4e6aec29f10e91eaf")


@pytest.mark.parametrize("lengths", [(700,), (2560, 2560), (5000, 1, 2561)])
def test_encode_gives_each_wave_what_it_gives_it_alone(lengths: tuple[int]) -> None:
    encoder = frozen_encoder(SIZES, seed=0).encoder
    generator = np.random.default_rng(0)
    waves = [generator.normal(0, 0.1, n).astype(np.float32) for n in lengths]
    found = encode(encoder, waves)
    for wave, features in zip(waves, found, strict=True):
        alone = encoder(torch.from_numpy(wave)[None])[0].numpy()
        np.testing.assert_allclose(features, alone, rtol=0, atol=1e-5)


def test_encode_never_runs_in_reduced_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allowed: list[bool] = []
    forward = Encoder.forward

    def observed(self, waves, samples=None):
        allowed.append(torch.backends.cudnn.allow_tf32)
        return forward(self, waves, samples)

    monkeypatch.setattr(Encoder, "forward", observed)
    before = torch.backends.cudnn.allow_tf32
    encode(frozen_encoder(SIZES, seed=0).encoder, [np.zeros(3000, np.float32)])
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32 == before


# The stage in its own process, after a test's code.
_STAGE = """
import sys, time
from pathlib import Path
from stages.acoustic import encoding
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.acoustic.params import AcousticParams
from stages.acoustic.run import run
from stages.cache.format import PART_FRAMES
from stages.core.corpus_files import CorpusFiles
from stages.core.runtime import RunOptions

folder = Path(sys.argv[1])
PART_FRAMES["acoustic"] = 5
{}
run(
    AcousticParams(encoder=str(folder / "encoder.safetensors")),
    CorpusFiles(folder),
    audio=folder / "audio",
    cache=folder / "acoustic",
    options=RunOptions("cpu", workers=2),
)
"""


# One recording at a time; hangs before the seventh.
_STOPS = """
encoding._BATCH_SECONDS = {"cpu": 1e-6}
encode, calls = OnnxEncoder.encode, []

def slow(session, waves):
    calls.append(len(waves))
    if len(calls) == 7:
        (folder / "reached").touch()
        time.sleep(600)
    return encode(session, waves)

OnnxEncoder.encode = slow
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_resumes_from_its_finished_parts(
    corpus: Corpus,
    tmp_path: Path,
    encoded: list[int],
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _STAGE.replace("{}", _STOPS), str(tmp_path)],
        cwd=Path(__file__).parent.parent,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "reached").exists():
            assert child.poll() is None, child.stderr and child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(CacheError, match=f"process {child.pid} is writing"):
            corpus.extract()
        child.send_signal(how)
        assert child.wait(60) != 0
    finally:
        child.kill()
        child.communicate()
    assert not corpus.digest.exists()

    one_at_a_time(monkeypatch)
    encoded.clear()
    corpus.extract()
    # 1, 1, 1, 2, 2, 2 frames were computed: a killed run loses the part in hand.
    kept = 6 if how == signal.SIGINT else 4
    assert sum(encoded) == len(LENGTHS) - kept
    assert_alike(corpus.features(), corpus.expected())
    resumed = corpus.digest.read_bytes()
    corpus.cache = tmp_path / "unbroken"
    corpus.extract()
    assert corpus.digest.read_bytes() == resumed


# Small batches, in processes.
_BEGINS = """
encoding._BATCH_SECONDS = {"cpu": 1.2}
encoding._PROCESSES_SECONDS = 0
print("begun", flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_a_run_loses_no_part_and_no_bit(
    corpus: Corpus, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    for number in range(60):
        samples = int(generator.integers(1, 20_000))
        corpus.record(f"more-{number}.wav", samples, seed=1000 + number)
    corpus.describe()
    directory = corpus.cache
    corpus.cache = tmp_path / "unbroken"
    corpus.extract()
    expected = corpus.digest.read_bytes()
    corpus.cache = directory

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", _STAGE.replace("{}", _BEGINS), str(tmp_path)],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        return child

    def parts() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in directory.glob("[!.]*.h5")}

    child = start()
    began = time.monotonic()
    assert child.wait() == 0
    lasted = time.monotonic() - began
    shutil.rmtree(directory)
    corpus.digest.unlink()
    before: dict[str, bytes] = {}
    killed = 0
    while killed < 12:
        child = start()
        time.sleep(generator.uniform(0, lasted))
        child.kill()
        killed += child.wait() == -signal.SIGKILL
        child.communicate()
        found = parts()
        # Finished parts are unchanged and every part is whole.
        assert before.items() <= found.items()
        if found:
            assert verify_cache(directory) == []
        before = found
        if corpus.digest.exists():
            assert corpus.digest.read_bytes() == expected
            shutil.rmtree(directory)
            corpus.digest.unlink()
            before = {}
    assert start().wait() == 0
    assert corpus.digest.read_bytes() == expected


def test_a_damaged_feature_never_becomes_the_digests(corpus: Corpus) -> None:
    corpus.extract()
    digest = corpus.digest.read_text()
    (path,) = corpus.cache.glob("*.h5")
    content = bytearray(path.read_bytes())
    place = content.index(corpus.features()["03.wav"].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=rf"{path.name}: damaged.*checksum of frames"):
        corpus.extract()
    assert corpus.digest.read_text() == digest
    path.unlink()
    corpus.extract()
    assert corpus.digest.read_text() == digest


def test_recordings_of_the_same_bytes_are_counted_as_such(corpus: Corpus) -> None:
    corpus.copy("03.wav", "copy.wav")
    corpus.describe()
    count = len(LENGTHS)
    assert str(corpus.extract()).endswith(
        f"{count + 1} utterances, {count} extracted now (28 frames), 0 kept, 1 with "
        "the same bytes as another"
    )
    assert f"0 extracted now (0 frames), {count} kept, 1 with" in str(corpus.extract())


def test_a_value_too_large_for_float16_is_an_error(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loud(batches: list[list[Any]], *_: object) -> Iterator[tuple[Any, np.ndarray]]:
        for batch in batches:
            yield from ((row, np.full((2, 6), 7e4, np.float32)) for row in batch)

    monkeypatch.setattr(encoding, "_encode_here", loud)
    params = replace(corpus.params, dtype="float16")
    with pytest.raises(CacheError, match=r"infinite values.*65,504 in float16"):
        corpus.extract(params)


@pytest.mark.parametrize("full", ["manifest", "quarantine"])
def test_a_full_disk_is_one_line(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    replace_file = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).stem == full:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", refuse)

    @main.command("full")
    def full_disk() -> None:
        corpus.extract()
        corpus.describe()

    try:
        result = CliRunner().invoke(main, ["full"])
    finally:
        del main.commands["full"]
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "free disk space" in result.stderr


def test_a_change_of_the_front_end_would_be_noticed() -> None:
    """If you change these values, bump `REVISION` in acoustic/params.py."""
    encoder = frozen_encoder(SIZES, seed=0).encoder
    with torch.no_grad():
        for number, weight in enumerate(encoder.parameters()):
            places = torch.arange(weight.numel(), dtype=torch.float64)
            values = torch.cos(1.7 * places + number).reshape(weight.shape)
            weight.copy_(0.05 + 0.02 * values if number < 2 else values)
    time = torch.arange(9000.0)
    wave = torch.cos(0.01 * time**1.5) * torch.cos(time / 1500)
    (features,) = encode(encoder, [wave.numpy()])
    # A floor of 0.021 instead of 0.020 moves them by 1e-4.
    expected = [0.748935, 0.473564, -0.882331, -0.363847, -0.756804, 0.512834]
    assert (REVISION, features[1].tolist()) == (2, pytest.approx(expected, abs=2e-5))
