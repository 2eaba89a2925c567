"""Recordings of synthetic voices: quiet, in babble, in a room, or on the telephone.

The demo's recordings are made here, and so is the speech that is none of its commands.
Each recording has a condition:

    clean      none of the following
    babble     other speakers in the background, 5 to 15 dB below
    room       a reverberant room, one per speaker
    telephone  300 to 3,400 Hz, 8-bit mu-law

All recordings start and end with silence and have a faint hiss.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import signal

from stages.core.errors import InputError
from stages.core.manifest import check_columns
from stages.speech import effects, synthesis

NOISY = ("babble", "room", "telephone")
CROWD = "crowd"
"""In the column `split`: a voice of the background babble."""

_PHRASE_COLUMNS = ("action", "object", "location", "text", "wording")
_VOICE_COLUMNS = (
    "speaker",
    "split",
    "accent",
    "variant",
    "rate",
    "pitch",
    "pitch_range",
)

# Silence before and after the words, in seconds; level of the hiss below the recording.
_MARGIN = (0.1, 0.4)
_HISS_DECIBELS = (30, 50)


def read_phrases(path: Path) -> pd.DataFrame:
    """`phrases.csv` of the demo.

    Raises:
        InputError: it is missing, or lacks a column.
    """
    return _read_table(path, _PHRASE_COLUMNS)


def read_voices(path: Path) -> pd.DataFrame:
    """`voices.csv` of the demo.

    Raises:
        InputError: it is missing, or lacks a column.
    """
    return _read_table(path, _VOICE_COLUMNS)


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise InputError("missing from the embedded corpus", path=path)
    table = pd.read_csv(path)
    check_columns(path, table, columns)
    return table


def voice_of(row: tuple) -> synthesis.Voice:
    """The voice in a row of `voices.csv`."""
    return synthesis.Voice(
        row.accent,  # type: ignore[attr-defined]
        row.variant,  # type: ignore[attr-defined]
        int(row.rate),  # type: ignore[attr-defined]
        int(row.pitch),  # type: ignore[attr-defined]
        int(row.pitch_range),  # type: ignore[attr-defined]
    )


def record(
    voice: synthesis.Voice,
    texts: Sequence[str],
    conditions: Sequence[str],
    crowd: np.ndarray,
    generator: np.random.Generator,
    *,
    seed: int,
) -> Iterator[np.ndarray]:
    """Recordings of one speaker, each (samples,) int16 at 16 kHz.

    Args:
        voice: the speaker.
        texts: what is said.
        conditions: of each recording.
        crowd: of `record_crowd`.
        generator: of everything random but the voice.
        seed: of the synthesiser.
    """
    response = effects.room_response(generator)
    spoken = synthesis.speak(voice, texts, seed=seed)
    for one, condition in zip(spoken, conditions, strict=True):
        wave = _with_margins(_resampled(one.samples), generator)
        if condition == "babble":
            decibels = generator.uniform(5, 15)
            wave = effects.add_babble(wave, crowd, decibels, generator)
        elif condition == "room":
            wave = effects.reverberate(wave, response)
        elif condition == "telephone":
            wave = effects.telephone(wave)
        decibels = generator.uniform(*_HISS_DECIBELS)
        wave = effects.add_hiss(wave, decibels, generator)
        level = 10 ** (generator.uniform(-20, -1) / 20)
        wave = wave * level / max(float(np.abs(wave).max()), 1e-9)
        yield np.round(wave * 32767).astype(np.int16)


def record_crowd(
    phrases: pd.DataFrame, voices: pd.DataFrame, *, seed: int
) -> np.ndarray:
    """The background speech, (voices, samples): about 30 seconds per voice."""
    texts = list(phrases.loc[phrases["wording"] == "heard", "text"])
    tracks = []
    for number, row in enumerate(voices.itertuples(index=False)):
        if row.split == CROWD:
            generator = np.random.default_rng((seed, number))
            said = [texts[i] for i in generator.permutation(len(texts))[:20]]
            spoken = synthesis.speak(voice_of(row), said, seed=seed + number)
            tracks.append(np.concatenate([_resampled(one.samples) for one in spoken]))
    shortest = min(len(track) for track in tracks)
    return np.stack([track[:shortest] / np.std(track) for track in tracks])


def _with_margins(wave: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    before, after = generator.uniform(*_MARGIN, 2) * effects.SAMPLE_RATE
    return np.pad(wave, (int(before), int(after)))


def _resampled(samples: np.ndarray) -> np.ndarray:
    """int16 at espeak-ng's 22,050 Hz -> float64 at 16 kHz."""
    # 16,000 / 22,050 = 320 / 441.
    return signal.resample_poly(samples / 32768, 320, 441)
