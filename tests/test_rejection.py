"""Rejection: figures against references, nothing twice, clear errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import change_identity, pipeline, refused_by, write_encoder
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.metrics import roc_auc_score, roc_curve

from pipeline.layout import Layout
from pipeline.params import load_params
from stages.core import metrics
from stages.core.errors import CacheError, ConfigurationError
from stages.core.labels import INTENT, Labels
from stages.core.manifest import read_manifest
from stages.core.text import normalise_text
from stages.rejection import calibration
from stages.rejection.measurement import measure
from stages.rejection.others import Clip, general_sentences, make_clips
from stages.rejection.params import NOISES, RejectionParams
from stages.report.rejection import read_rejection
from stages.report.statistics import calibration_bins
from stages.report.systems import System
from stages.robustness.params import NOISES as KNOWN_NOISES
from stages.speech.loading import load_audio
from stages.speech.recording import read_sentences, read_voices
from stages.student.selection import choose_student

LAYOUT = Layout("tiny")
AUDIO = Path("data/tiny")
DEMO = Path(__file__).parents[1] / "data" / "demo"
SPEECH = ("--set", "rejection.speech=speech")
FEW = ("--set", "rejection.noises=2")
INTENTS = Labels({INTENT: list("abcd")})
SLOTS = Labels({"action": ["off", "on"], "room": ["hall", "none", "yard"]})
NAMES = ["baseline2", "aln_linguistic-0.5", "aln_linguistic-1", "aln-0.5", "aln-1"]
NAMES.append("recommended")


def outputs(seed: int, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (200, 4) float32 that are too sure of themselves, and labels (200)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=200)
    logits = generator.normal(size=(200, 4)) + 2 * np.eye(4)[labels]
    return (scale * logits).astype(np.float32), labels


# ---------------------------------------------------------------------- calibration


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_temperature_minimises_the_loss(scale: float) -> None:
    logits, labels = outputs(1, scale)

    def loss(temperature: float) -> float:
        found = log_softmax(logits.astype(float) / temperature, axis=1)
        return -found[np.arange(len(labels)), labels].mean()

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x
    found = calibration.fit_temperature(logits, labels[:, None], INTENTS)
    assert found == pytest.approx(best, rel=1e-3)


def test_a_temperature_is_never_0() -> None:
    logits, numbers = 10 * np.eye(4), np.arange(4)[:, None]
    found = calibration.fit_temperature(logits, numbers, INTENTS)
    assert found == pytest.approx(0.05)


def test_networks_together_have_the_mean_of_their_probabilities() -> None:
    first, second = outputs(1)[0], outputs(2)[0]
    logits, energy = calibration.combine([first, second], INTENTS)
    mean = (softmax(first, axis=1) + softmax(second, axis=1)) / 2
    np.testing.assert_allclose(np.exp(logits), mean, rtol=1e-5)
    energies = [logsumexp(one, axis=1) for one in (first, second)]
    np.testing.assert_allclose(energy, np.mean(energies, axis=0), rtol=1e-6)
    alone, energy = calibration.combine([first], INTENTS)
    np.testing.assert_array_equal(alone, first)
    scores = calibration.scores(alone, energy, INTENTS, 2.5)
    expected = softmax(first.astype(float) / 2.5, axis=1).max(axis=1)
    np.testing.assert_allclose(scores["max_probability"], expected)
    np.testing.assert_allclose(scores["energy"], energies[0], rtol=1e-6)


def test_slots_are_calibrated_as_all_combinations_of_their_values_would_be() -> None:
    """Independent slots are one softmax over all frames, whose logits are sums."""
    generator = np.random.default_rng(5)
    numbers = np.stack(
        [generator.integers(2, size=200), generator.integers(3, size=200)], 1
    )
    # Of two networks.
    logits = 2 * generator.normal(size=(2, 200, 5)).astype(np.float32)
    logits[:, np.arange(200)[:, None], numbers + np.array([0, 2])] += 2

    def whole(slotted: np.ndarray) -> np.ndarray:
        """(U, 5) -> (U, 6): action-major."""
        return (slotted[:, :2, None] + slotted[:, None, 2:]).reshape(len(slotted), 6)

    labels = 3 * numbers[:, 0] + numbers[:, 1]
    frames = Labels({INTENT: list("abcdef")})
    temperature = calibration.fit_temperature(logits[0], numbers, SLOTS)
    expected = calibration.fit_temperature(whole(logits[0]), labels[:, None], frames)
    assert temperature == pytest.approx(expected, rel=1e-6)
    alone, energy = calibration.combine([logits[0]], SLOTS)
    scores = calibration.scores(alone, energy, SLOTS, temperature)
    wanted = calibration.scores(
        *calibration.combine([whole(logits[0])], frames), frames, temperature
    )
    for name in calibration.SCORES:
        np.testing.assert_allclose(scores[name], wanted[name], rtol=1e-5)
    together, energies = calibration.combine(list(logits), SLOTS)
    for part in (slice(2), slice(2, 5)):
        mean = softmax(logits[:, :, part].astype(float), axis=2).mean(axis=0)
        np.testing.assert_allclose(np.exp(together[:, part]), mean, rtol=1e-6)
    each = [logsumexp(whole(one), axis=1) for one in logits]
    np.testing.assert_allclose(energies, np.mean(each, axis=0), rtol=1e-5)


def test_the_accuracy_is_that_of_whole_frames() -> None:
    generator = np.random.default_rng(6)
    numbers = np.stack(
        [generator.integers(2, size=60), generator.integers(3, size=60)], 1
    )
    logits = generator.normal(size=(60, 5))
    logits[np.arange(60)[:, None], numbers + np.array([0, 2])] += 1.5
    parts = dict.fromkeys(("valid", "test", "noise/valid", "noise/test"), logits)
    seconds = {"noise/valid": 9.0, "noise/test": 9.0}
    found = measure(
        [parts],
        SLOTS,
        {"valid": numbers, "test": numbers},
        seconds,
        {"valid": np.ones(60)},
        share=0.5,
    )
    same = np.stack([logits[:, :2].argmax(1), logits[:, 2:].argmax(1)], 1) == numbers
    right = same.all(axis=1)
    assert found["test_accuracy"] == pytest.approx(100 * right.mean())
    assert found["test_action_accuracy"] == pytest.approx(100 * same[:, 0].mean())
    assert found["valid_room_accuracy"] == pytest.approx(100 * same[:, 1].mean())
    assert found["test_accuracy_with_rejection"] < found["test_accuracy"]
    scaled = logits / found["temperature"]
    confidence = softmax(scaled[:, :2], axis=1).max(1)
    confidence *= softmax(scaled[:, 2:], axis=1).max(1)
    error = metrics.calibration_error(confidence, right.astype(float))
    assert found["test_ece_calibrated"] == pytest.approx(100 * error, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.07, 0.29, 0.5, 0.999])
@pytest.mark.parametrize("ties", [False, True])
def test_no_higher_threshold_rejects_so_few(share: float, ties: bool) -> None:
    scores = np.random.default_rng(0).normal(size=100)
    scores = scores.round(1) if ties else scores
    found = calibration.threshold(scores, share)
    assert np.sum(scores < found) <= round(share * 100, 6)
    higher = np.nextafter(found, np.inf)
    assert np.sum(scores < higher) > round(share * 100, 6)


def test_auroc_is_that_of_sklearn() -> None:
    generator = np.random.default_rng(3)
    commands = generator.normal(0.5, size=80).round(1)  # with ties
    others = generator.normal(size=50).round(1)
    labels = [1] * 80 + [0] * 50
    expected = roc_auc_score(labels, np.concatenate([commands, others]))
    assert calibration.auroc(commands, others) == pytest.approx(expected)


def test_the_curve_by_hand() -> None:
    silent = -np.inf
    commands = np.array([3.0, 1.0, silent, 2.0])
    others = np.array([2.5, 2.0, 1.0, 0.5, silent])
    curve = calibration.curve(commands, others)
    assert [share for share, _ in curve] == list(range(101))
    # One command in four has 3, two have 2 or more, three 1 or more.
    by_hand = [0] + 25 * [0] + 25 * [40] + 25 * [60] + 25 * [100]
    assert [accepts for _, accepts in curve] == by_hand


@pytest.mark.parametrize("size", [1, 7, 250])
@pytest.mark.parametrize("decimals", [1, 9])
def test_the_curve_is_the_lowest_of_the_roc(size: int, decimals: int) -> None:
    generator = np.random.default_rng(size)
    commands = generator.normal(1, size=size).round(decimals)
    others = generator.normal(size=60).round(decimals)
    curve = np.array(calibration.curve(commands, others))
    labels = [1] * size + [0] * 60
    false, true, _ = roc_curve(
        labels, np.concatenate([commands, others]), drop_intermediate=False
    )
    for share, accepts in curve[1:-1]:
        lowest = false[100 * true >= share - 1e-9].min()
        assert accepts == pytest.approx(100 * lowest, abs=1e-6)
    assert (np.diff(curve, axis=0) >= 0).all()
    assert curve[[0, -1]].tolist() == [[0, 0], [100, 100]]


def test_an_entry_is_measured_on_test_with_what_was_fitted_on_valid() -> None:
    (valid, valid_labels), (test, test_labels) = outputs(1), outputs(2)
    parts = {"valid": valid, "test": test}
    for place, part in enumerate(("speech/valid", "speech/test", "noise/valid")):
        parts[part] = np.float32(0.4) * outputs(place + 5)[0]
    parts["noise/test"] = np.full((10, 4), 50, np.float32)  # equally likely, and loud
    seconds = {part: 90.0 for part in parts if "/" in part}
    numbers = {"valid": valid_labels[:, None], "test": test_labels[:, None]}
    # Of test the first three are silent, of noise the first four.
    levels = {"valid": np.linspace(0.1, 1, len(valid)), "test": np.ones(len(test))}
    levels["test"][:3] = 0.0109  # the quietest hundredth of valid is at 0.109
    levels["noise/test"] = np.array([0.01] * 4 + [0.02] * 6)
    found = measure([parts], INTENTS, numbers, seconds, levels, share=0.1)
    assert found["quietest"] == pytest.approx(0.0109, rel=1e-3)

    def score(part: str) -> np.ndarray:
        if found["score"] == "energy":
            values = logsumexp(parts[part].astype(float), axis=1)
        else:
            values = softmax(parts[part] / found["temperature"], axis=1).max(axis=1)
        silent = {"test": 3, "noise/test": 4}.get(part, 0)
        values[:silent] = -1e9
        return values

    aurocs = found["valid_auroc"]
    assert found["score"] == max(aurocs, key=lambda name: aurocs[name])
    assert np.mean(score("valid") < found["threshold"]) == pytest.approx(0.1)
    accepted = score("test") >= found["threshold"]
    right = test.argmax(1) == test_labels
    assert found["test_accuracy"] == pytest.approx(100 * right.mean())
    assert found["test_rejected"] == pytest.approx(100 * (~accepted).mean())
    assert found["test_accuracy_with_rejection"] == pytest.approx(
        100 * (right & accepted).mean()
    )
    for name, temperature in (("ece", 1), ("ece_calibrated", found["temperature"])):
        confidence = softmax(test.astype(float) / temperature, axis=1).max(axis=1)
        expected = metrics.calibration_error(confidence, right.astype(float))
        assert found[f"test_{name}"] == pytest.approx(100 * expected, abs=1e-6)
    assert found["valid_ece_calibrated"] < found["valid_ece"]
    speech = found["others"]["speech"]
    accepts = int((score("speech/test") >= found["threshold"]).sum())
    assert speech["false_accepts"] == pytest.approx(accepts / 2)  # of 200
    assert speech["false_accepts_per_hour"] == pytest.approx(40 * accepts)
    labels_of_all = [1] * 200 + [0] * 200
    both = np.concatenate([score("test"), score("speech/test")])
    assert speech["auroc"] == pytest.approx(
        roc_auc_score(labels_of_all, both), abs=1e-6
    )
    noise = found["others"]["noise"]
    accepts = int((score("noise/test") >= found["threshold"]).sum())
    assert (noise["utterances"], noise["false_accepts"]) == (10, 10 * accepts)
    for kind, other in found["others"].items():
        curve = found["curve"][kind]
        assert curve == calibration.curve(score("test"), score(f"{kind}/test"))
        # The threshold is on it.
        share = 100 - found["test_rejected"]
        low, high = curve[int(share)][1], curve[min(int(share) + 1, 100)][1]
        assert low <= other["false_accepts"] <= high


# -------------------------------------------------------------------------- others


def clips_of(**params: object) -> list[Clip]:
    table = read_manifest(LAYOUT.corpus_files.manifest)
    return make_clips(RejectionParams(**params), table, AUDIO, DEMO)  # type: ignore[arg-type]


def test_noise_is_like_the_recordings_and_silence_is_faint(given: Path) -> None:
    assert NOISES == KNOWN_NOISES
    pipeline("prepare-corpus")
    clips = clips_of(noises=7)
    table = read_manifest(LAYOUT.corpus_files.manifest)
    assert len(clips) == len({clip.id for clip in clips}) == 2 * (4 + 2) * 7
    for clip in clips:
        wave = clip.wave()
        assert wave.dtype == np.float32
        np.testing.assert_array_equal(wave, clip.wave())
        if clip.kind == "silence":
            assert np.sqrt(np.mean(wave**2)) < 10 ** (-49 / 20)
            continue
        (like,) = table[table["audio_sha256"] == clip.identity["like"]].itertuples()
        assert like.split == clip.side
        recording = load_audio(AUDIO / like.path)
        assert wave.shape == recording.shape
        assert np.mean(wave**2) == pytest.approx(np.mean(recording**2), rel=1e-3)
    # Only six recordings: the first again, with other noise.
    first, *_, last = clips[:7]
    assert first.identity["like"] == last.identity["like"]
    assert not np.allclose(first.wave(), last.wave())
    other = clips_of(noises=7, seed=2)
    assert not {clip.key for clip in clips} & {clip.key for clip in other}


def test_general_speech_is_by_the_voices_of_each_side(given: Path) -> None:
    pipeline("prepare-corpus")
    clips = [c for c in clips_of(speech="general", sentences=2) if c.kind == "speech"]
    voices = read_voices(DEMO / "voices.csv").set_index("speaker")["split"]
    for clip in clips:
        assert voices[clip.identity["speaker"]] == clip.side
    assert len(clips) == 2 * voices.isin(["valid", "test"]).sum()
    first, second = clips[0].wave(), clips[1].wave()
    assert 16_000 < len(first) != len(second)
    assert 0.09 < np.abs(first).max() < 0.9  # -20 to -1 dB


def test_no_sentence_is_a_command() -> None:
    generator = np.random.default_rng(1)
    free = general_sentences(30, set(), generator)
    forbidden = {normalise_text(text) for text in free[::2]}
    found = general_sentences(15, forbidden, np.random.default_rng(1))
    assert found == free[1::2]
    texts = read_sentences(DEMO / "sentences.csv")["text"]
    commands = {normalise_text(text) for text in texts}
    assert not commands & set(found)


# ----------------------------------------------------------------------- the stage


def rejection(*options: str) -> str:
    done = pipeline("rejection", *options)
    assert done.exit_code == 0, done.output
    return done.stdout


refused = partial(refused_by, "rejection")


def result() -> bytes:
    return (LAYOUT.rejection / "rejection.json").read_bytes()


def write_speech(folder: Path, count: int = 5) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        wave = np.random.default_rng(number).normal(0, 0.1, 8000 + 500 * number)
        soundfile.write(folder / f"{number}.wav", wave, 16_000)


def test_every_student_has_an_entry_per_seed_and_one_of_all(finished: Path) -> None:
    found = json.loads(result())
    assert sorted(found["students"]) == sorted(NAMES) and found["share"] == 0.05
    for name, one in found["students"].items():
        scores = json.loads(
            (LAYOUT.folder / "student" / name / "metrics.json").read_text()
        )
        entry = one["seeds"]["1"]
        for split in ("valid", "test"):
            accuracy = f"{split}_accuracy"
            assert entry[accuracy] == pytest.approx(scores["seeds"][0][accuracy])
        assert one["ensemble"] == entry  # of one seed
        others = {kind: part["utterances"] for kind, part in entry["others"].items()}
        assert others == {"noise": 40, "silence": 20}
        assert entry["curve"].keys() == others.keys()
    assert not list(LAYOUT.rejection.rglob("*.wav"))


def test_a_second_run_reads_nothing_and_encodes_nothing(
    finished: Path, encoded: list[int]
) -> None:
    before = result()
    assert "0 extracted now, 120 kept" in rejection("--force")
    shutil.rmtree(AUDIO / "test")
    assert "up to date; 6 students reject" in rejection()
    assert encoded == [] and result() == before


def test_a_new_student_needs_no_new_features(
    finished: Path, encoded: list[int]
) -> None:
    change_identity(LAYOUT.folder / "student" / "aln-1")
    assert "0 extracted now, 120 kept" in rejection()
    assert encoded == [] and "up to date" in rejection()


def test_a_folder_counts_by_its_contents(finished: Path) -> None:
    write_speech(Path("speech"))
    assert "5 extracted now" in rejection(*SPEECH)
    found = json.loads(result())["students"]["aln-1"]["seeds"]["1"]["others"]
    # Three of five choose the score.
    assert found["speech"]["utterances"] == 2
    Path("speech/0.wav").rename("speech/renamed.wav")
    assert "up to date" in rejection(*SPEECH)
    Path("speech/renamed.wav").write_bytes(Path("speech/1.wav").read_bytes())
    assert "up to date" not in rejection(*SPEECH)
    before = result()
    shutil.rmtree(LAYOUT.rejection)
    rejection(*SPEECH)
    assert result() == before
    assert pipeline("cache", "verify").exit_code == 0
    assert "124 of 124" in pipeline("cache", "info").stdout


def test_folders_that_cannot_be_used(finished: Path) -> None:
    error = refused("--set", "rejection.speech=generall")
    assert "'generall'" in error and "general, none, or a folder" in error
    Path("speech").mkdir()
    assert "speech: no recordings" in refused(*SPEECH)
    write_speech(Path("speech/few"), 1)
    assert "too few recordings" in refused(*SPEECH)
    Path("speech/a.wav").write_text("no audio")
    error = refused(*SPEECH)
    assert "speech/a.wav: cannot be used for rejection" in error
    soundfile.write("speech/a.wav", np.ones(16_000 * 121), 16_000)
    assert "too long for one utterance; found 121 s" in refused(*SPEECH)
    assert refused("--set", "rejection.speech=general").startswith(
        "error: data/demo/sentences.csv: no such file"
    )


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("share: 1", "rejection.share"),
        ("share: -0.1", "rejection.share"),
        ("speech: ''", "rejection.speech"),
        ("sentences: 0", "rejection.sentences"),
        ("noises: 0", "rejection.noises"),
        ("seed: -1", "rejection.seed"),
        ("speach: none", "did you mean 'speech'"),
    ],
)
def test_parameters_that_cannot_be_used(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"rejection:\n  {line}\n")
    with pytest.raises(ConfigurationError, match=named):
        load_params(path)


def test_another_encoder_is_refused(finished: Path) -> None:
    write_encoder(Path("other.safetensors"), seed=2)
    other = ("--set", "acoustic.encoder=other.safetensors")
    assert "acoustic.digest: features of another encoder" in refused(*other)
    assert pipeline("extract-acoustic", *other).exit_code == 0
    error = refused(*other)
    assert "baseline2/model-1.safetensors: a student of another encoder's" in error


_STAGE = """
import time
from pathlib import Path
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.cache import store
from pipeline.cli import main

store.PART_FRAMES = {"rejection": 1}
encode, calls = OnnxEncoder.encode, []

def slow(session, waves):
    calls.append(len(waves))
    if len(calls) == 9:
        Path("reached").touch()
        time.sleep(600)
    return encode(session, waves)

OnnxEncoder.encode = slow
main(["rejection", "--set", "rejection.noises=2"])
"""


def test_a_killed_run_resumes(finished: Path, encoded: list[int]) -> None:
    rejection(*FEW)
    whole = result()
    shutil.rmtree(LAYOUT.rejection)
    encoded.clear()
    root = str(Path(__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, "-c", _STAGE],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
    )
    try:
        deadline = time.monotonic() + 120
        while not Path("reached").exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        assert f"process {child.pid} is writing" in refused(*FEW)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    finally:
        child.kill()
        child.wait()
    assert not (LAYOUT.rejection / "rejection.json").exists()
    assert "16 extracted now, 8 kept" in rejection(*FEW)
    assert sum(encoded) == 16 and result() == whole


# ----------------------------------------------------------------------- selection


def write_scores(folder: Path, *valid: float) -> Path:
    folder.mkdir()
    seeds = [{"seed": seed, "valid_accuracy": one} for seed, one in enumerate(valid, 1)]
    scores = {"seeds": seeds[::-1], "valid_accuracy": sum(valid) / len(valid)}
    (folder / "metrics.json").write_text(json.dumps(scores))
    return folder


def test_the_best_student_on_valid_is_chosen(tmp_path: Path) -> None:
    students = {
        "baseline2": write_scores(tmp_path / "a", 99, 80, 80),
        "aln-0.8": write_scores(tmp_path / "b", 88, 90, 90),
        "aln-0.5": write_scores(tmp_path / "c", 88, 90, 90),
    }
    assert choose_student(students) == ("aln-0.8", 2)
    (tmp_path / "c" / "metrics.json").unlink()
    with pytest.raises(CacheError, match="train-student"):
        choose_student(students)


# ----------------------------------------------------------------------- the report


def test_curves_are_means_over_seeds_at_the_same_share(finished: Path) -> None:
    path = LAYOUT.rejection / "rejection.json"
    found = json.loads(path.read_text())
    (first,) = found["students"]["aln-1"]["seeds"].values()
    second = {**first, "curve": {kind: [[0, 4], [9, 8]] for kind in first["curve"]}}
    first["curve"] = {kind: [[0, 0], [9, 5]] for kind in first["curve"]}
    found["students"]["aln-1"]["seeds"] = {"1": first, "2": second}
    path.write_text(json.dumps(found))
    empty = pd.DataFrame()
    read = read_rejection(path, [System("aln-1", "aln", 1, empty, empty)], ("aln-1", 2))
    mean = [[0, 2], [9, 6.5]]
    assert read.curves == {"aln-1": {"noise": mean, "silence": mean}}


def test_the_bins_are_those_of_the_calibration_error() -> None:
    generator = np.random.default_rng(4)
    confidence = generator.uniform(0.3, 1, 400)
    bounds = np.linspace(0, 1, metrics.BINS + 1)
    confidence[:3] = bounds[[15, 12, 8]]
    rows = pd.DataFrame({"seed": np.repeat([1, 2], 200), "split": "test"})
    rows["intent"] = "on"
    rows["predicted"] = np.where(generator.random(400) < confidence**2, "on", "off")
    rows["confidence"] = confidence
    for seeds in ([1], [2], [1, 2]):
        own = rows[rows["seed"].isin(seeds)]
        system = System("aln-1", "aln", 1, own, pd.DataFrame())
        bins = calibration_bins(system)
        assert [one["low"] for one in bins[1:]] == [one["high"] for one in bins[:-1]]
        full = [one for one in bins if one["utterances"]]
        assert 0 < len(full) < len(bins) == metrics.BINS
        found = own["confidence"].to_numpy()
        for one, low, high in zip(bins, bounds[:-1], bounds[1:], strict=True):
            count = ((low < found) & (found <= high)).sum()
            assert one["utterances"] == count / len(seeds)
        gaps = [
            one["utterances"] * abs(one["confidence"] - one["accuracy"]) for one in full
        ]
        right = (own["intent"] == own["predicted"]).to_numpy(float)
        error = metrics.calibration_error(found, right)
        assert sum(gaps) / 200 == pytest.approx(100 * error, abs=1e-3)
        for one in bins:
            if one not in full:
                assert one["confidence"] is one["accuracy"] is None
