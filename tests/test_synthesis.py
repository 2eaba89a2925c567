"""The synthesiser: equal bytes every time, honest alignments, no silent fallback."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.errors import ConfigurationError, PipelineError
from stages.speech.synthesis import ACCENTS, SAMPLE_RATE, Spoken, Voice, speak

ROOT = Path(__file__).parent.parent

# Whispering draws noise from the synthesiser's own generator.
VOICE = Voice("en-us", "whisper", rate=190, pitch=40, pitch_range=60)
TEXTS = ["turn on the lights", "set an alarm for seven in the morning"]

Child = Callable[[str, float], None]


@pytest.fixture(scope="module")
def spoken() -> list[Spoken]:
    return speak(VOICE, TEXTS, seed=5)


def assert_equal(one: list[Spoken], other: list[Spoken]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.samples, b.samples)
        assert (a.phonemes, a.words) == (b.phonemes, b.words)


def test_equal_arguments_give_equal_bytes(spoken: list[Spoken]) -> None:
    assert_equal(speak(VOICE, TEXTS, seed=5), spoken)


def test_another_seed_gives_other_noise(spoken: list[Spoken]) -> None:
    other = speak(VOICE, TEXTS[:1], seed=6)[0]
    assert not np.array_equal(other.samples, spoken[0].samples)


@pytest.mark.parametrize(
    "change",
    [
        {"accent": "en-gb-scotland"},
        {"variant": "f1"},
        {"rate": 120},
        {"pitch": 80},
        {"pitch_range": 5},
    ],
)
def test_every_attribute_of_a_voice_is_heard(change: dict[str, Any]) -> None:
    voice = Voice("en-us", "m1", 190, 40, 60)
    one, other = (
        speak(one, TEXTS[:1], seed=5)[0].samples
        for one in (voice, replace(voice, **change))
    )
    assert not np.array_equal(one, other)


def test_speech_is_of_a_plausible_length_and_loud_enough(spoken: list[Spoken]) -> None:
    for text, one in zip(TEXTS, spoken, strict=True):
        assert one.samples.dtype == np.int16 and one.samples.ndim == 1
        words_a_minute = 60 * len(text.split()) / (len(one.samples) / SAMPLE_RATE)
        assert 80 < words_a_minute < 300
        assert np.abs(one.samples.astype(int)).max() > 1000


def test_events_ascend_and_lie_within_the_audio(spoken: list[Spoken]) -> None:
    for one in spoken:
        for places in ([at for _, at in one.phonemes], [at for *_, at in one.words]):
            assert places == sorted(places)
            assert places[0] >= 0 and places[-1] <= len(one.samples)
        # Sound: each phoneme lasts a quarter of a second at most.
        assert len(one.phonemes) > len(one.samples) / SAMPLE_RATE * 4


def test_word_events_point_at_the_words(spoken: list[Spoken]) -> None:
    for text, one in zip(TEXTS, spoken, strict=True):
        starts = [0, *(i + 1 for i, letter in enumerate(text) if letter == " ")]
        offsets = [offset for offset, _, _ in one.words]
        assert offsets == sorted(set(offsets))
        # All of them, but for those that were run together with another.
        assert set(offsets) <= set(starts)
        assert len(offsets) >= len(starts) - 2
        for offset, length, _ in one.words:
            assert f" {text[offset : offset + length]} " in f" {text} "


def test_an_unknown_accent_or_variant_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"variant.*'Nobody'.*Andy.*whisper"):
        speak(replace(VOICE, variant="Nobody"), TEXTS, seed=1)
    with pytest.raises(ConfigurationError, match=r"accent.*'en-xx'.*en-gb-scotland"):
        speak(replace(VOICE, accent="en-xx"), TEXTS, seed=1)


def test_every_accent_is_one_that_espeak_has() -> None:
    # All in one child, for speed: an unknown one raises there.
    script = (
        "from stages.speech import synthesis\n"
        "for accent in synthesis.ACCENTS:\n"
        "    voice = synthesis.Voice(accent, 'm1')\n"
        "    engine = synthesis._Engine(voice, 1, synthesis._data_folder())\n"
        "    assert len(engine.speak('hello').samples) > 2000\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    assert len(ACCENTS) == 8


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    """Put this script in the synthesiser's place, with at most so many seconds."""

    def replaced(script: str, seconds: float) -> None:
        start = subprocess.run

        def run(command: list[str], *, timeout: float, **how: Any) -> Any:
            assert command[1:] == ["-m", "stages.speech.synthesis"]
            command = [sys.executable, "-c", script]
            return start(command, timeout=min(timeout, seconds), **how)

        monkeypatch.setattr(subprocess, "run", run)

    return replaced


def test_a_synthesiser_that_hangs_is_an_error(child: Child) -> None:
    child("import time; time.sleep(100)", 0.3)
    began = time.monotonic()
    with pytest.raises(PipelineError, match=r"hung while speaking as Voice.*whisper"):
        speak(VOICE, TEXTS, seed=1)
    assert time.monotonic() - began < 60


def test_a_synthesiser_that_dies_is_an_error_with_its_last_words(child: Child) -> None:
    child("raise SystemExit('no such phoneme')", 60)
    with pytest.raises(PipelineError, match=r"failed while .*found no such phoneme"):
        speak(VOICE, TEXTS, seed=1)
