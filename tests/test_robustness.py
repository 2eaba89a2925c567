"""Robustness: exact noise whatever the order, nothing twice, clear errors."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import change_identity, pipeline, refused_by, write_encoder

from pipeline.layout import Layout
from pipeline.params import load_params
from stages.acoustic import encoding
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.cache.digest import read_digest
from stages.cache.store import CacheReader
from stages.core.errors import ConfigurationError, InputError
from stages.core.hashing import hash_file
from stages.core.manifest import read_manifest
from stages.core.runtime import RunOptions
from stages.robustness import degradations
from stages.robustness.degradations import Degradation, make_degradations
from stages.robustness.params import RobustnessParams
from stages.speech import effects, noise
from stages.speech.loading import load_audio
from stages.speech.noise import _crowd

LAYOUT = Layout("tiny")
AUDIO = Path("data/tiny")
DEGRADED = ["babble-0dB", "babble-10dB", "babble-20dB", "babble-5dB", "reverberation"]
SHA256 = "5" * 64


def degradations_of(**params: Any) -> dict[str, Degradation]:
    table = read_manifest(LAYOUT.corpus_files.manifest)
    made = make_degradations(RobustnessParams(**params), table, AUDIO)
    return {degradation.name: degradation for degradation in made}


def degrade(
    degradation: Degradation, wave: np.ndarray, sha256: str = SHA256
) -> np.ndarray:
    assert degradation.change is not None
    return degradation.change(wave, sha256)


def speech(samples: int = 16_000) -> np.ndarray:
    """Noise that comes and goes, (samples,) float32."""
    swell = np.sin(np.arange(samples) / 3000) ** 2
    noise = np.random.default_rng(0).normal(0, 0.1, samples)
    return (swell * noise).astype(np.float32)


def decibels(wave: np.ndarray, noise: np.ndarray) -> float:
    wave, noise = wave.astype(np.float64), noise.astype(np.float64)
    return 10 * np.log10(np.sum(wave**2) / np.sum(noise**2))


def write_noises(folder: Path) -> None:
    """A long recording with a pause of nearly all its length, and a short one."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    long = generator.normal(0, 0.2, 40_000)
    long[8000:] *= 1e-4
    soundfile.write(folder / "long.wav", long, 16_000)
    (folder / "more").mkdir()
    soundfile.write(folder / "more" / "short.flac", generator.normal(0, 0.1, 999), 8000)
    (folder / "README").write_text("no recording")


def robustness(*options: str) -> str:
    done = pipeline("robustness", *options)
    assert done.exit_code == 0, done.stderr
    return done.stdout


refused = partial(refused_by, "robustness")


def digests() -> dict[str, bytes]:
    return {p.stem: p.read_bytes() for p in LAYOUT.robustness.glob("*.digest")}


def predictions() -> pd.DataFrame:
    path = LAYOUT.robustness / "predictions.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False)


# ------------------------------------------------------------------ degradations


@pytest.mark.parametrize("noise", ["white", "pink", "speech", "babble", "noises"])
def test_the_ratio_is_exact(finished: Path, noise: str) -> None:
    write_noises(Path("noises"))
    made = degradations_of(noise=(noise,), snr=(20, 0, -5))
    for snr, samples in itertools.product((20, 0, -5), (1600, 16_000, 100_000)):
        wave = speech(samples)
        degraded = degrade(made[f"{noise}-{snr}dB"], wave)
        assert degraded.dtype == np.float32 and degraded.shape == wave.shape
        added = degraded.astype(np.float64) - wave
        assert decibels(wave, added) == pytest.approx(snr, abs=0.01)


def test_noise_is_the_recordings_own_and_the_same_at_every_ratio(
    finished: Path,
) -> None:
    made = degradations_of(snr=(10, 0))
    wave = speech()
    loud, faint = degrade(made["babble-0dB"], wave), degrade(made["babble-10dB"], wave)
    scale = np.sqrt(10)
    np.testing.assert_allclose((faint - wave) * scale, loud - wave, atol=1e-5)
    np.testing.assert_array_equal(loud, degrade(made["babble-0dB"], wave))
    assert not np.allclose(loud, degrade(made["babble-0dB"], wave, "6" * 64))


def spectrum(noise: np.ndarray) -> np.ndarray:
    """Power in the octaves 125 to 250, …, 4,000 to 8,000 Hz, in decibels."""
    power = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(len(noise), 1 / 16_000)
    bands = [(hertz >= low) & (hertz < 2 * low) for low in 125 * 2 ** np.arange(6)]
    return np.array([10 * np.log10(power[band].sum()) for band in bands])


def test_noises_have_the_spectrum_of_their_name(finished: Path) -> None:
    made = degradations_of(noise=("white", "pink", "speech"), snr=(0,))
    wave = speech(160_000)
    white, pink, shaped = (
        spectrum(degrade(made[f"{name}-0dB"], wave) - wave)
        for name in ("white", "pink", "speech")
    )
    # Octave by octave: twice the width, and for pink half the power a hertz.
    np.testing.assert_allclose(np.diff(white), 3.01, atol=0.7)
    np.testing.assert_allclose(np.diff(pink), 0, atol=0.7)
    # Train has tones at 300, 900 and 2,700 Hz, equally often.
    assert min(shaped[1], shaped[2], shaped[4]) > max(shaped[[0, 5]]) + 3


def test_babble_is_of_train_and_never_of_test(finished: Path) -> None:
    table = read_manifest(LAYOUT.corpus_files.manifest)
    tested = table["split"] == "test"
    # A recording in both splits.
    one = table.index[table["split"] == "train"][0]
    table.loc[one, "audio_sha256"] = table.loc[tested, "audio_sha256"].iloc[0]
    chosen = {path for path, _ in noise.train_recordings(table, Path(), 60)}
    assert chosen == {
        Path(row.path)
        for row in table.itertuples()
        if row.split == "train" and row.Index != one
    }


def test_silence_stays_silence(finished: Path) -> None:
    made = degradations_of(noise=("white", "babble"), snr=(5,))
    for degradation in made.values():
        if degradation.change is not None:
            assert not degrade(degradation, np.zeros(3000, np.float32)).any()


@pytest.mark.parametrize("t60", [0.2, 0.5, 1.0])
def test_a_room_dies_away_in_its_time(t60: float) -> None:
    for seed in range(3):
        response = effects.room_with_decay(t60, np.random.default_rng(seed))
        # Measured another way: the level of the energy's envelope, by least squares.
        energy = np.square(response)
        window = int(0.02 * 16_000)
        level = 10 * np.log10(np.convolve(energy, np.ones(window), "valid"))
        part = slice(int(0.1 * t60 * 16_000), int(0.6 * t60 * 16_000))
        time = np.arange(len(level))[part] / 16_000
        slope = np.polyfit(time, level[part], 1)[0]
        assert -60 / slope == pytest.approx(t60, rel=0.1)
        assert np.abs(response).argmax() < 80


def test_reverberation_keeps_length_and_power(finished: Path) -> None:
    wave = speech()
    degraded = degrade(degradations_of()["reverberation"], wave)
    assert degraded.shape == wave.shape and degraded.dtype == np.float32
    assert decibels(wave, degraded) == pytest.approx(0, abs=0.01)
    assert not np.allclose(degraded, wave, atol=0.01)
    other = degrade(degradations_of(t60=1.0)["reverberation"], wave)
    assert not np.allclose(degraded, other, atol=0.001)


def test_a_measured_response_begins_with_its_direct_sound(finished: Path) -> None:
    Path("rooms").mkdir()
    response = np.zeros(4000)
    response[1000], response[1800] = 0.5, -0.25
    soundfile.write("rooms/hall.wav", response, 16_000, "FLOAT")
    made = degradations_of(reverberation="rooms")["reverberation"]
    assert made.kind == "reverberation, rooms"
    wave = speech()
    expected = wave.copy()
    expected[800:] -= wave[:-800] / 2
    expected *= np.sqrt(np.mean(wave**2) / np.mean(expected**2))
    np.testing.assert_allclose(degrade(made, wave), expected, atol=1e-6)


def test_a_pause_in_a_noise_is_not_made_loud(finished: Path) -> None:
    write_noises(Path("noises"))
    shutil.rmtree("noises/more")
    degradation = degradations_of(noise=("noises",), snr=(0,))["noises-0dB"]
    wave = speech(2000)
    long = load_audio(Path("noises/long.wav")).astype(np.float64)
    for number in range(30):
        added = degrade(degradation, wave, f"{number:064x}").astype(np.float64) - wave
        match = np.correlate(long, added, "valid")
        place = int(match.argmax())
        taken = long[place : place + len(added)]
        # Some of it is before the pause, which is 80% of the recording.
        assert place < 8000
        alike = match[place] / np.linalg.norm(taken) / np.linalg.norm(added)
        assert alike == pytest.approx(1, abs=1e-3)


# ---------------------------------------------------------------- parameters, folders


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("noise: []", "robustness.noise"),
        ("noise: [white, white]", "robustness.noise"),
        ("noise: [a/street, b/street]", "robustness.noise"),
        ("noise: [here/clean]", "robustness.noise"),
        ("snr: []", "robustness.snr"),
        ("snr: [5, 5.0]", "robustness.snr"),
        ("snr: [.inf]", "robustness.snr"),
        ("snr: [loud]", "robustness.snr"),
        ("t60: 0", "robustness.t60"),
        ("t60: 9", "robustness.t60"),
        ("reverberation: ''", "robustness.reverberation"),
        ("nois: [white]", "did you mean 'noise'"),
    ],
)
def test_parameters_that_cannot_be_used(
    tmp_path: Path, section: str, named: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"robustness:\n  {section}\n")
    with pytest.raises(ConfigurationError, match=named):
        load_params(path)


def test_folders_that_cannot_be_used(finished: Path) -> None:
    error = refused("--set", "robustness.noise=[bable]")
    assert "'bable'" in error and "white, pink, speech, babble, or a folder" in error
    error = refused("--set", "robustness.reverberation=simulate")
    assert "'simulate'" in error and "simulated, none, or a folder" in error
    Path("noises").mkdir()
    use = ("--set", "robustness.noise=[noises]")
    assert "noises: no recordings" in refused(*use)
    Path("noises/a.wav").write_text("no audio")
    error = refused(*use)
    assert "noises/a.wav: cannot be used for noise" in error and "fix: repair" in error
    soundfile.write("noises/a.wav", np.zeros(9000), 16_000)
    assert "only silence" in refused(*use)
    Path("noises/a.wav").unlink()
    write_noises(Path("noises/b"))
    assert "12 extracted now" not in robustness(*use)
    assert digests().keys() >= {"noises-20dB", "noises-0dB"}


def test_a_folder_counts_by_its_contents_not_its_name(finished: Path) -> None:
    write_noises(Path("noises"))
    use = ("--set", "robustness.noise=[noises]", "--set", "robustness.snr=[5]")
    assert "6 extracted now, 6 kept" in robustness(*use)
    Path("noises/long.wav").rename("noises/renamed.wav")
    assert "up to date" in robustness(*use)
    soundfile.write("noises/new.wav", np.random.default_rng(3).normal(0, 1, 50), 16_000)
    assert "6 extracted now, 6 kept" in robustness(*use)


# -------------------------------------------------------------------------- the stage


def test_every_student_classifies_every_degradation(finished: Path) -> None:
    table = predictions()
    manifest = read_manifest(LAYOUT.corpus_files.manifest).set_index("id")
    tested = manifest[manifest["split"] == "test"]
    systems = ["baseline2"] + [
        f"{kind}-{alpha}"
        for kind in ("aln_linguistic", "aln")
        for alpha in ("0.5", "1")
    ]
    systems.append("recommended")
    marks = [("clean", ""), *(("babble", ratio) for ratio in ("20", "10", "5", "0"))]
    marks.append(("reverberation, T60 0.5 s", ""))
    groups = table.groupby(["degradation", "snr", "system", "seed"], sort=False)
    assert list(groups.groups) == [
        (*mark, system, "1") for mark in marks for system in systems
    ]
    for _, rows in groups:
        assert rows["id"].tolist() == tested.index.tolist()
        assert rows["intent"].tolist() == tested["intent"].tolist()
    names = {path.name for path in LAYOUT.robustness.iterdir() if path.is_dir()}
    assert sorted(names) == DEGRADED
    assert not list(LAYOUT.robustness.rglob("*.wav"))


@pytest.mark.parametrize("name", ["baseline2", "aln-1", "recommended"])
def test_clean_is_what_training_found(finished: Path, name: str) -> None:
    own = pd.read_csv(LAYOUT.folder / "student" / name / "predictions.csv", dtype=str)
    own = own[own["split"] == "test"].set_index("id")["predicted"]
    table = predictions()
    here = table[(table["degradation"] == "clean") & (table["system"] == name)]
    assert here.set_index("id")["predicted"].to_dict() == own.to_dict()


def unchanged(wave: np.ndarray, sha256: str) -> np.ndarray:
    return wave


@pytest.mark.parametrize("processes", [False, True])
def test_an_unchanged_recording_has_the_features_of_the_corpus(
    finished: Path, monkeypatch: pytest.MonkeyPatch, processes: bool
) -> None:
    if processes:
        monkeypatch.setattr(encoding, "_PROCESSES_SECONDS", 0)
    params = load_params(Path("params.yaml")).acoustic
    encoder = encoding.load_encoder(params)
    runtime = encoding.choose_runtime(encoder, params, RunOptions("cpu", workers=2))
    table = read_manifest(LAYOUT.corpus_files.manifest)
    test = table[table["split"] == "test"].sort_values("seconds")
    reader = CacheReader(LAYOUT.acoustic)
    found = encoding.encode_recordings(
        test, AUDIO, encoder, runtime, graphs=finished, change=unchanged
    )
    count = 0
    for row, features in found:
        np.testing.assert_array_equal(features, reader[row.audio_sha256])
        count += 1
    assert count == len(test) == 6


def test_features_are_those_of_the_degraded_recording_alone(finished: Path) -> None:
    graph = next(LAYOUT.robustness.glob("*.onnx"))
    made = degradations_of()
    table = read_manifest(LAYOUT.corpus_files.manifest).set_index("id")
    for name in ("babble-5dB", "reverberation"):
        digest = read_digest(LAYOUT.robustness / f"{name}.digest")
        assert digest.header.kind == "robustness"
        reader = CacheReader(
            LAYOUT.robustness / name, fingerprint=digest.header.fingerprint
        )
        for id, (key, _) in digest.rows.items():
            wave = load_audio(AUDIO / table.loc[id, "path"])
            (expected,) = OnnxEncoder(graph).encode([degrade(made[name], wave, key)])
            np.testing.assert_array_equal(reader[key], expected)


def test_order_batches_and_processes_change_no_bit(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, spoken = digests(), predictions()
    shutil.rmtree(LAYOUT.robustness)
    monkeypatch.setitem(encoding._BATCH_SECONDS, "cpu", 1e-6)
    monkeypatch.setattr(encoding, "_PROCESSES_SECONDS", 0)
    # Processes take their time to start: two degradations are enough.
    options = ("--workers", "2", "--set", "robustness.snr=[5]")
    assert "12 extracted now, 0 kept" in robustness(*options)
    names = ("babble-5dB", "reverberation")
    assert digests() == {name: before[name] for name in names}
    spoken = spoken[~spoken["snr"].isin(["20", "10", "0"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(predictions(), spoken)


def test_a_second_run_reads_nothing_and_extracts_nothing(
    finished: Path, encoded: list[int]
) -> None:
    before = digests()
    shutil.rmtree(AUDIO / "test")
    line = "6 students on 6 recordings, clean and under 5 degradations"
    assert f"up to date; {line}\n" in robustness()
    assert f"{line}, 0 extracted now, 30 kept" in robustness("--force")
    assert encoded == [] and digests() == before


@pytest.mark.parametrize("changed", ["predictions", "digest", "student"])
def test_predictions_are_made_again_when_they_are_not_those_of_the_inputs(
    finished: Path, encoded: list[int], changed: str
) -> None:
    path = LAYOUT.robustness / "predictions.csv"
    found = predictions()
    if changed == "digest":
        (LAYOUT.robustness / "reverberation.digest").unlink()
    elif changed == "student":
        change_identity(LAYOUT.folder / "student" / "aln-1")
    else:
        path.write_text(path.read_text() + "\n")
    assert "0 extracted now, 30 kept" in robustness()
    assert encoded == [] and "up to date" in robustness()
    pd.testing.assert_frame_equal(predictions(), found)


def test_only_what_is_new_is_extracted(
    finished: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "6 extracted now, 30 kept" in robustness(
        "--set", "robustness.snr=[20, 10, 5, 0, -5]"
    )
    assert sum(encoded) == 6
    # Another room changes no noise.
    assert "6 extracted now, 24 kept" in robustness("--set", "robustness.t60=0.4")
    monkeypatch.setattr(degradations, "REVISION", degradations.REVISION + 1)
    assert "30 extracted now, 0 kept" in robustness()


def test_one_new_recording_costs_one(finished: Path, encoded: list[int]) -> None:
    path = AUDIO / "test" / "play-0.wav"
    wave, rate = soundfile.read(path)
    soundfile.write(path, 0.9 * wave, rate)
    before = {
        name: read_digest(LAYOUT.robustness / f"{name}.digest") for name in DEGRADED
    }
    pipeline("prepare-corpus")
    pipeline("extract-acoustic")
    encoded.clear()
    assert "5 extracted now, 25 kept" in robustness()
    assert sum(encoded) == 5
    for name, digest in before.items():
        now = read_digest(LAYOUT.robustness / f"{name}.digest")
        changed = {id for id in now.rows if now.rows[id] != digest.rows[id]}
        assert changed == {"tiny/test/play-0"}


_STAGE = """
import time
from pathlib import Path
from stages.acoustic import encoding
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.cache import store
from pipeline.cli import main

encoding._BATCH_SECONDS = {"cpu": 1e-6}
store.PART_FRAMES = {"robustness": 1}
encode, calls = OnnxEncoder.encode, []

def slow(session, waves):
    calls.append(len(waves))
    if len(calls) == 9:
        Path("reached").touch()
        time.sleep(600)
    return encode(session, waves)

OnnxEncoder.encode = slow
main(["robustness"])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_resumes(
    finished: Path, encoded: list[int], how: signal.Signals
) -> None:
    whole, spoken = digests(), predictions()
    shutil.rmtree(LAYOUT.robustness)
    root = str(Path(__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, "-c", _STAGE],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
    )
    try:
        deadline = time.monotonic() + 120
        while not Path("reached").exists():
            assert child.poll() is None, child.stderr and child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert f"process {child.pid} is writing" in refused()
        encoded.clear()
        child.send_signal(how)
        assert child.wait(60) == (130 if how == signal.SIGINT else -how)
    finally:
        child.kill()
        child.communicate()
    assert list(digests()) == ["babble-20dB"]  # the one that was finished
    assert not (LAYOUT.robustness / "predictions.csv").exists()
    # Six of the first degradation and two of the second are there.
    assert "22 extracted now, 8 kept" in robustness()
    assert sum(encoded) == 22
    assert digests() == whole
    pd.testing.assert_frame_equal(predictions(), spoken)


def test_a_degradation_that_is_not_asked_for_is_kept_without_a_digest(
    finished: Path,
) -> None:
    before = digests()
    assert "0 extracted now, 12 kept" in robustness("--set", "robustness.snr=[5]")
    assert sorted(digests()) == ["babble-5dB", "reverberation"]
    assert set(predictions()["snr"]) == {"", "5"}
    table = pipeline("cache", "info").stdout.splitlines()
    (line,) = (line for line in table if "/babble-20dB " in line)
    assert "no usable digest" in line
    verified = pipeline("cache", "verify")
    assert verified.exit_code == 0 and "babble-20dB" not in verified.stdout
    assert pipeline("cache", "gc").exit_code == 0
    assert "0 extracted now, 30 kept" in robustness()
    assert digests() == before


# ----------------------------------------------------------------------------- errors


def test_a_missing_student_is_named_before_anything_is_extracted(
    finished: Path, encoded: list[int]
) -> None:
    shutil.rmtree(LAYOUT.robustness)
    model = LAYOUT.folder / "student" / "aln-1" / "model-1.safetensors"
    model.unlink()
    error = refused()
    assert str(model.parent) in error and "train-student" in error
    shutil.rmtree(model.parent)
    error = refused()
    assert "cache/tiny/student/aln-1: no finished result here" in error
    assert encoded == [] and not LAYOUT.robustness.exists()


def test_students_of_another_encoder_are_refused(finished: Path) -> None:
    write_encoder(Path("other.safetensors"), seed=2)
    other = ("--set", "acoustic.encoder=other.safetensors")
    error = refused(*other)
    assert "acoustic.digest: features of another encoder" in error
    assert "fix: run `aln-pipeline extract-acoustic`" in error
    assert pipeline("extract-acoustic", *other).exit_code == 0
    error = refused(*other)
    assert "baseline2/model-1.safetensors: a student of another encoder's" in error
    assert re.search("found lugosch log-cmn [0-9a-f]{12}; expected lugosch log-", error)


def test_a_missing_recording_is_named_and_nothing_is_lost(
    finished: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(LAYOUT.robustness)
    monkeypatch.setitem(encoding._BATCH_SECONDS, "cpu", 1e-6)
    path = AUDIO / "test" / "play-1.wav"
    path.rename("away.wav")
    error = refused()
    assert str(path) in error and "restore the file" in error
    done = sum(encoded)
    assert done == 5  # it is one of the longest, which come last
    Path("away.wav").rename(path)
    assert "25 extracted now, 5 kept" in robustness()


def test_silent_train_recordings_are_left_out_of_babble(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(900), 16_000)
    soundfile.write(tmp_path / "spoken.wav", speech(900), 16_000)
    both = [(path, hash_file(path)) for path in sorted(tmp_path.iterdir())]
    assert _crowd(tuple(both)).shape == (6, 900)
    with pytest.raises(InputError, match="only silent recordings"):
        _crowd(tuple(both[:1]))


# --------------------------------------------------------------------- the caches


def test_cache_commands_include_degraded_features(finished: Path) -> None:
    table = pipeline("cache", "info").stdout.splitlines()
    for name in DEGRADED:
        (line,) = (line for line in table if f"/{name} " in line)
        assert "6 of 6" in line
    assert pipeline("cache", "verify").exit_code == 0
    before = digests()
    # Features of another room, which nothing needs now.
    robustness("--set", "robustness.t60=0.4")
    robustness()
    done = pipeline("cache", "gc")
    assert "robustness/reverberation: 6 utterances of another" in done.stdout
    assert digests() == before
    assert "up to date" in robustness()


def test_a_copy_of_the_repository_uses_the_features(
    finished: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = finished.parent / "copy"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "cache" / "tiny" / "robustness")
    monkeypatch.setenv("ALN_CACHE_DIR", str(finished / "cache"))
    monkeypatch.chdir(copy)
    assert "0 extracted now, 30 kept" in robustness()
    assert encoded == []
    assert (LAYOUT.robustness / "reverberation").is_symlink()
    done = pipeline("cache", "gc", "--kind", "robustness")
    assert "belongs to another repository" in done.stderr


def test_the_report_shows_the_degradations(finished: Path) -> None:
    results = json.loads(Path("report/results.json").read_text())
    shown = [(one["degradation"], one["snr"]) for one in results["robustness"]]
    assert shown[:2] == [("clean", None), ("babble", 20)]
    for name, row in results["robustness"][0]["systems"].items():
        assert row["accuracy"] == results["systems"][name]["test_accuracy"]
        assert row["macro_f1"] == results["systems"][name]["test_macro_f1"]
    page = Path("report/results.md").read_text()
    assert "| system | clean | babble, 20 dB |" in page
    assert Path("report/robustness.png").is_file()
    (LAYOUT.robustness / "predictions.csv").unlink()
    assert pipeline("report").exit_code == 0
    assert not Path("report/robustness.png").exists()
    assert "babble" not in Path("report/results.md").read_text()
