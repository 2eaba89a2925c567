"""The errors of a student: what is listed, heard and seen of them."""

import io
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import DIM, HEADER, RATE, fill, make_rows, write_tone

from stages.core.errors import CacheError, ConfigurationError, InputError
from stages.core.hashing import hash_bytes
from stages.report.errors import find_errors
from stages.report.listening import (
    WIDTH,
    Clip,
    clips,
    frame_weights,
    to_mp3,
    waveform,
)
from stages.report.systems import System
from stages.student.model import AcousticLinguisticNetwork, build, save_student
from stages.student.params import Architecture

TRANSCRIPTS = pd.DataFrame({"id": ["b", "d"], "transcript": ["", "lamp of"]})


def system_of(name: str, runs: dict[int, dict[str, tuple[str, float]]]) -> System:
    """A system; `runs` has what each seed predicts of an utterance, and how surely."""
    about = {
        "a": ("valid", "on", "lamp on", "kim", "seen", "clean"),
        "b": ("test", "on", "light <it>", None, "unseen", None),
        "c": ("test", "on", "lamp on", "kim", "seen", "noise"),
        "d": ("test", "off", "lamp off", "lee", "seen", "clean"),
        "e": ("test", "off", "lamp off", "lee", "seen", "clean"),
    }
    columns = ["seed", "id", "predicted", "confidence"]
    columns += ["split", "intent", "text", "speaker", "wording", "condition"]
    rows = [
        (seed, id, *predicted, *about[id])
        for seed, run in runs.items()
        for id, predicted in run.items()
    ]
    return System(name, "aln", 0.5, pd.DataFrame(rows, columns=columns), pd.DataFrame())


def every(intent: str) -> dict[str, tuple[str, float]]:
    """The run of a system that predicts one intent only."""
    return {id: (intent, 0.6) for id in "abcde"}


def test_errors_are_listed_with_what_everybody_said():
    runs = {
        7: {"a": ("on", 0.9), "b": ("off", 0.9), "c": ("off", 0.5)}
        | {"d": ("off", 0.9), "e": ("off", 0.9)},
        # The error on valid is not listed; c and e are equally sure.
        3: {"e": ("on", 0.75), "c": ("dim", 0.75), "a": ("off", 0.99)}
        | {"d": ("off", 0.99), "b": ("off", 0.8)},
    }
    chosen = system_of("aln-0.5", runs)
    # One has the seed 3, one has not, one has a single run.
    systems = [
        system_of("baseline1_asr", {0: every("off")}),
        system_of("baseline2", {1: every("dim"), 3: every("on")}),
        chosen,
        system_of("aln-0.8", {4: every("off"), 2: every("on")}),
    ]
    found = find_errors(chosen, 3, systems, TRANSCRIPTS)
    assert [error["id"] for error in found] == ["b", "c", "e"]
    assert found[0] == {
        "id": "b",
        "text": "light <it>",
        "speaker": None,
        "condition": None,
        "wording": "unseen",
        "actual": "on",
        "predicted": "off",
        "confidence": 80.0,
        "wrong_seeds": 2,
        "seeds": 2,
        "transcript": "",
        "others": {"baseline1_asr": "off", "baseline2": "on", "aln-0.8": "on"},
    }
    assert (found[1]["predicted"], found[1]["wrong_seeds"]) == ("dim", 2)
    assert (found[1]["speaker"], found[1]["condition"]) == ("kim", "noise")
    assert (found[2]["wrong_seeds"], found[2]["transcript"]) == (1, None)
    assert [error["id"] for error in find_errors(chosen, 7, systems, TRANSCRIPTS)] == [
        "b",
        "c",
    ]


def test_a_corpus_without_conditions_has_errors_without():
    chosen = system_of("aln-0.5", {1: every("on")})
    plain = chosen.predictions.drop(columns="condition")
    chosen = replace(chosen, predictions=plain)
    found = find_errors(chosen, 1, [chosen], TRANSCRIPTS)
    assert [(one["id"], one["condition"]) for one in found] == [
        ("d", None),
        ("e", None),
    ]


# ------------------------------------------------------------------------- recordings


def test_a_waveform_has_an_impulse_where_it_is():
    wave = np.zeros(10 * WIDTH, np.float32)
    wave[734], wave[20] = -0.5, 0.1
    expected = [0] * WIDTH
    expected[73], expected[2] = 100, 20
    assert waveform(wave) == expected
    assert waveform(np.zeros(10 * WIDTH, np.float32)) == [0] * WIDTH
    assert len(waveform(wave[:7])) == WIDTH


def test_an_mp3_is_small_and_sounds_like_the_recording():
    time = np.arange(2 * RATE) / RATE
    wave = 0.8 * np.sin(2 * np.pi * 440 * time) * np.sin(np.pi * time / 2)
    wave += np.random.default_rng(0).normal(scale=0.1, size=len(wave))
    wave = wave.astype(np.float32)
    data = to_mp3(wave)
    assert data == to_mp3(wave)
    assert len(data) < 2 * 3000  # bytes a second
    sound, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == RATE
    assert len(sound) == pytest.approx(len(wave), rel=0.01)
    size = min(len(sound), len(wave))
    assert np.corrcoef(sound[:size], wave[:size])[0, 1] > 0.97
    # Clipped, not wrapped.
    assert to_mp3(4 * wave) == to_mp3(np.clip(4 * wave, -1, 1))


# -------------------------------------------------------------------------- attention


def network_of(system: str, **changes: Any) -> dict[str, Any]:
    """The arguments of a network of two slots."""
    return {
        "system": system,
        "acoustic_dim": DIM,
        "linguistic_dim": None if system == "baseline2" else 5,
        "values": [2, 3],
        "architecture": asdict(Architecture(gru_width=3, **changes)),
    }


def random_network(arguments: dict[str, Any]) -> AcousticLinguisticNetwork:
    """A network with random weights and biases."""
    torch.manual_seed(5)
    model = build(arguments)
    for value in model.parameters():
        torch.nn.init.normal_(value)
    return model.eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"mapping": "none"}, {"attention": "self"}, {"scaling": False}],
    ids=str,
)
def test_attention_is_the_mean_of_what_the_layers_give(changes):
    model = random_network(network_of("aln", frame_pooling="attention", **changes))
    features = make_rows([6])[0][2]
    with torch.no_grad():
        x = torch.from_numpy(features)
        source = x if changes.get("attention") == "self" else model.transfer(x)
        source = source if model.mapping is None else model.mapping(source)
        products = (model.query(x) @ model.key(source).T).numpy()
    if changes.get("scaling", True):
        products /= np.sqrt(DIM)
    shares = np.exp(products) / np.exp(products).sum(axis=1, keepdims=True)
    found = frame_weights(model, features)
    assert found == pytest.approx(shares.mean(axis=0), rel=1e-4)
    assert sum(found) == pytest.approx(1)
    assert max(found) > 0.2  # not the same everywhere


def test_without_queries_attention_is_what_pools_the_frames():
    model = random_network(network_of("baseline2", frame_pooling="attention"))
    features = make_rows([6])[0][2]
    with torch.no_grad():
        states = model.gru(torch.from_numpy(features)[None])[0][0].numpy()
        scores = states @ model.frame_scores.weight.numpy().T  # (frames, slots)
    shares = np.exp(scores) / np.exp(scores).sum(axis=0)
    found = frame_weights(model, features)
    assert found == pytest.approx(shares.mean(axis=1), rel=1e-4)
    assert len(model.frame_scores._forward_hooks) == 0


# ------------------------------------------------------------------------------ clips

Corpus = tuple[pd.DataFrame, dict[str, Any]]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A manifest of two recordings, and the folders and the student of their clips."""
    rows, table = [], []
    for number, (id, _, frames) in enumerate(make_rows([4, 7])):
        path = tmp_path / "audio" / f"{number}.wav"
        write_tone(path, 500, 0.5 + number, number)
        key = hash_bytes(path.read_bytes())
        rows.append((id, key, frames))
        table.append({"id": id, "path": path.name, "audio_sha256": key, "seconds": 0.0})
    fill(tmp_path / "acoustic", rows)
    folders = {"audio": tmp_path / "audio", "features": tmp_path / "acoustic"}
    return pd.DataFrame(table), {**folders, "student": student_in(tmp_path, "aln")}


def student_in(folder: Path, system: str, **about: Any) -> Path:
    """Write a student of the features of `HEADER`."""
    arguments = network_of(system)
    slots = [{"slot": "a", "values": ["x", "y"]}, {"slot": "b", "values": [*"xyz"]}]
    weights = random_network(arguments).state_dict()
    path = folder / f"{system}.safetensors"
    metadata = {"network": arguments, "intents": slots}
    metadata["acoustic_fingerprint"] = HEADER.fingerprint
    arrays = {name: value.numpy() for name, value in weights.items()}
    save_student(path, arrays, {**metadata, **about})
    return path


def clips_of(corpus: Corpus, **changes: Any) -> Iterator[Clip]:
    """The clips of the recordings, the last one first."""
    return clips(corpus[0]["id"][::-1], corpus[0], **{**corpus[1], **changes})


def test_clips_come_in_the_order_of_the_errors_with_their_own_frames(corpus):
    second, first = clips_of(corpus)
    assert (second.seconds, first.seconds) == (1.5, 0.5)
    wave, _ = soundfile.read(corpus[1]["audio"] / "1.wav", dtype="float32")
    assert (second.audio, second.peaks) == (to_mp3(wave), waveform(wave))
    model = random_network(network_of("aln"))
    for clip, (_, _, frames) in zip((first, second), make_rows([4, 7]), strict=True):
        assert clip.attention == frame_weights(model, frames)
        assert clip.frame_seconds == 0.16


def test_a_student_that_does_not_attend_needs_no_features(corpus, tmp_path):
    plain = student_in(tmp_path, "baseline2")
    nowhere = tmp_path / "nowhere"
    for clip in clips_of(corpus, student=plain, features=nowhere):
        assert clip.audio and clip.attention is clip.frame_seconds is None


def test_features_of_another_encoder_are_refused(corpus, tmp_path):
    other = student_in(tmp_path, "aln", acoustic_fingerprint="ef" * 32)
    with pytest.raises(CacheError, match="no such features"):
        next(clips_of(corpus, student=other))


@pytest.mark.parametrize("what", ["cannot be read", "changed"])
def test_a_recording_that_is_missing_or_changed_is_named_with_what_helps(corpus, what):
    path = corpus[1]["audio"] / "0.wav"
    found = clips_of(corpus)
    next(found)
    path.unlink() if what == "cannot be read" else write_tone(path, 500, 0.5, 9)
    with pytest.raises(InputError) as caught:
        next(found)
    for part in (str(path), what, "--root", "report.audio=none"):
        assert part in str(caught.value)


def test_a_library_without_mp3_is_named_with_what_helps(corpus, monkeypatch):
    monkeypatch.setattr(soundfile, "check_format", lambda *format: False)
    with pytest.raises(ConfigurationError) as caught:
        next(clips_of(corpus))
    for part in (soundfile.__libsndfile_version__, "pip install", "report.audio=none"):
        assert part in str(caught.value)
