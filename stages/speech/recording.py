"""Recordings of synthetic voices: quiet, in babble, in a room, or on the telephone.

The recordings of sentences are made here, and so is the speech that is none of the
demo's commands. Each recording has a condition:

    clean      none of the following
    babble     other speakers in the background, 5 to 15 dB below
    room       a reverberant room
    telephone  300 to 3,400 Hz, 8-bit mu-law

All recordings start and end with silence and have a faint hiss.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import InputError
from stages.core.manifest import SPLITS, check_columns
from stages.core.table import read_columns
from stages.speech import effects
from stages.speech.engines import ENGINES, speak
from stages.speech.synthesis import Voice

NOISY = ("babble", "room", "telephone")
CONDITIONS = ("clean", *NOISY)
CROWD = "crowd"
"""In the column `split`: a voice of the background babble."""

_NUMBERS = {"rate": (80, 450), "pitch": (0, 99), "pitch_range": (0, 99)}
_VOICE_COLUMNS = ("speaker", "split", "accent", "variant", *_NUMBERS)

SILENCE = 0.4
"""The longest silence before and after the words of the demo, in seconds."""
SHORTEST_SILENCE = 0.1
# Level of the hiss below the recording.
_HISS_DECIBELS = (30, 50)


def read_sentences(path: Path) -> pd.DataFrame:
    """`sentences.csv`: a column `text`, labels, and maybe a `split`, all texts.

    A sentence with a split is in that split only, one without in all.

    Raises:
        InputError: it is missing or has no text; names the row.
    """
    if not path.is_file():
        raise InputError("no such file", path=path)
    table = pd.DataFrame(read_columns(path), dtype=str)
    if "text" not in table:
        raise InputError(
            "no column text", path=path, found=", ".join(table), expected="text"
        )
    return table if "split" in table else table.assign(split="")


def read_voices(path: Path) -> pd.DataFrame:
    """`voices.csv`: the speakers of each split, and those of the babble.

    Raises:
        InputError: it is missing, lacks a column, or a row cannot be used.
    """
    if not path.is_file():
        raise InputError("no such file", path=path)
    table = pd.DataFrame(read_columns(path), dtype=str)
    check_columns(path, table.drop(columns="engine", errors="ignore"), _VOICE_COLUMNS)
    if "engine" not in table:
        table["engine"] = ENGINES[0]

    def check(good: pd.Series, column: str, expected: str) -> None:
        for place in table.index[~good]:
            raise InputError(
                f"row {place + 2} has a {column} that cannot be used",
                path=path,
                found=repr(table[column][place]),
                expected=expected,
            )

    names = table["speaker"]
    # They are names of folders.
    named = names.str.fullmatch(r"\w[\w.-]*") & ~names.duplicated()
    check(named, "speaker", "different names of letters, digits, '_', '-' and '.'")
    splits = (*SPLITS, CROWD)
    check(table["split"].isin(splits), "split", ", ".join(splits))
    check(table["engine"].isin(ENGINES), "engine", ", ".join(ENGINES))
    for column, (low, high) in _NUMBERS.items():
        whole = table[column].where(table[column].str.fullmatch(r"\d{1,3}"), "-1")
        table[column + " "] = whole.astype(int)
        good = table[column + " "].between(low, high)
        check(good, column, f"a whole number, {low} to {high}")
        table[column] = table.pop(column + " ")
    return table


def voice_of(row: tuple) -> Voice:
    """The voice in a row of `voices.csv`."""
    names = ("accent", "variant", *_NUMBERS, "engine")
    return Voice(**{name: getattr(row, name) for name in names})


def record(
    waves: Sequence[np.ndarray],
    conditions: Sequence[str],
    crowd: np.ndarray,
    generator: np.random.Generator,
    *,
    silence: float = SILENCE,
) -> Iterator[np.ndarray]:
    """Recordings of speech in one room, each (samples,) int16 at 16 kHz.

    Args:
        waves: the speech, each (samples,) at 16 kHz.
        conditions: of each recording.
        crowd: of `record_crowd`; only babble needs it.
        generator: of everything random.
        silence: the longest before and after the words, in seconds.
    """
    response = effects.room_response(generator)
    for one, condition in zip(waves, conditions, strict=True):
        wave = _with_margins(one, generator, silence)
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
    texts: Sequence[str], voices: Sequence[tuple[int, Voice]], *, seed: int, folder: str
) -> np.ndarray:
    """The background speech, (voices, samples): about 30 seconds per voice.

    Args:
        texts: what they say, 20 of them each.
        voices: each with a number, a seed of its own.
        seed: of all.
        folder: of piper's voices.
    """
    tracks = []
    for number, voice in voices:
        generator = np.random.default_rng((seed, number))
        said = [texts[i] for i in generator.permutation(len(texts))[:20]]
        spoken = speak(voice, said, seed=seed + number, folder=folder)
        tracks.append(np.concatenate(spoken))
    shortest = min(len(track) for track in tracks)
    return np.stack([track[:shortest] / np.std(track) for track in tracks])


def crowd_of(voices: pd.DataFrame) -> list[tuple[int, Voice]]:
    """The voices of the babble in `voices.csv`, with the numbers of their rows."""
    rows = enumerate(voices.itertuples(index=False))
    return [(number, voice_of(row)) for number, row in rows if row.split == CROWD]


def _with_margins(
    wave: np.ndarray, generator: np.random.Generator, longest: float
) -> np.ndarray:
    margins = generator.uniform(SHORTEST_SILENCE, longest, 2)
    before, after = margins * effects.SAMPLE_RATE
    return np.pad(wave, (int(before), int(after)))
