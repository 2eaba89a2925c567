"""Noise: white, pink, with the spectrum of speech, babble, or from recordings."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import signal

from stages.core.errors import InputError
from stages.robustness.params import NOISES
from stages.robustness.recordings import (
    Recordings,
    hash_contents,
    load_sound,
    load_speech,
    read_folder,
    train_recordings,
)
from stages.speech import effects

_TALKERS = 6
_TRACK = 10  # recordings of train, one after another, in a talker's track
_FRAME = 512  # samples of a mean spectrum's window

# The first of so many stretches of a noise is used that is not much quieter than the
# whole, so a pause is not amplified to the level of noise.
_STRETCHES = 20
_LEAST_SHARE = 0.1

Draw = Callable[[int, np.random.Generator], np.ndarray]
"""Samples and a generator -> noise, (samples,), of any power above 0."""


def choose_noise(
    noise: str, table: pd.DataFrame, audio: Path
) -> tuple[Draw, dict[str, Any]]:
    """A noise, and all that decides it: the kind and the recordings.

    Args:
        noise: one of `NOISES`, or a folder of recordings.
        table: the manifest; recordings of train make `speech` and `babble`.
        audio: the folder that its paths are relative to.
    """
    plain: dict[str, Draw] = {"white": _white, "pink": _pink}
    if noise in plain:
        return plain[noise], {"noise": noise}
    made: dict[str, Callable[..., np.ndarray]] = {"speech": _speech, "babble": _babble}
    if noise in made:
        recordings = train_recordings(table, audio, _TALKERS * _TRACK)
        draw, kind = partial(made[noise], recordings), noise
    else:
        recordings = read_folder("noise", noise, ", ".join(NOISES))
        draw, kind = partial(_excerpt, recordings), "folder"
    return draw, {"noise": kind, "recordings": hash_contents(recordings)}


def power(wave: np.ndarray) -> float:
    """Mean square."""
    return float(np.mean(wave**2))


def _white(samples: int, generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal(samples)


def _pink(samples: int, generator: np.random.Generator) -> np.ndarray:
    hertz = np.linspace(0, effects.SAMPLE_RATE / 2, 4097)
    # Flat below 50 Hz, where its power would grow without bound.
    return effects.shaped_noise(samples, np.maximum(hertz, 50) ** -0.5, generator)


def _speech(
    speech: Recordings, samples: int, generator: np.random.Generator
) -> np.ndarray:
    return effects.shaped_noise(samples, _mean_spectrum(speech), generator)


def _babble(
    speech: Recordings, samples: int, generator: np.random.Generator
) -> np.ndarray:
    crowd = _crowd(speech)
    if samples >= crowd.shape[1]:
        crowd = np.tile(crowd, (1, samples // crowd.shape[1] + 1))
    return _audible(
        lambda: effects.listen(crowd, samples, generator), power(crowd) * len(crowd)
    )


def _excerpt(
    files: Recordings, samples: int, generator: np.random.Generator
) -> np.ndarray:
    """A stretch of one of the recordings, repeated if it is too short."""
    path, sha256 = files[int(generator.integers(len(files)))]
    noise = load_sound(path, sha256, "noise")
    if len(noise) <= samples:
        noise = np.tile(noise, samples // len(noise) + 1)

    def stretch() -> np.ndarray:
        start = int(generator.integers(len(noise) - samples + 1))
        return noise[start : start + samples]

    return _audible(stretch, power(noise))


def _audible(stretch: Callable[[], np.ndarray], level: float) -> np.ndarray:
    """The first stretch that is not much weaker than `level`; or the loudest of all.

    Raises:
        InputError: all are silent.
    """
    best = stretch()
    for _ in range(_STRETCHES):
        if power(best) >= _LEAST_SHARE * level:
            return best
        best = max(best, stretch(), key=power)
    if not best.any():
        raise InputError("a noise is silent nearly everywhere", fix="use another one")
    return best


@lru_cache(maxsize=1)
def _crowd(speech: Recordings) -> np.ndarray:
    """The speech of each talker, all equally loud, (talkers, samples)."""
    waves = [wave / np.sqrt(power(wave)) for wave in load_speech(speech)]
    tracks = []
    for place in range(_TALKERS):
        said = waves[place::_TALKERS] or [waves[place % len(waves)]]
        tracks.append(np.concatenate(said))
    # A track repeats after its end.
    longest = max(map(len, tracks))
    return np.stack([np.resize(track, longest) for track in tracks])


@lru_cache(maxsize=1)
def _mean_spectrum(speech: Recordings) -> np.ndarray:
    """Amplitudes at equally spaced frequencies, recordings with equal weights."""
    densities = []
    for wave in load_speech(speech):
        wave = np.pad(wave, (0, max(0, _FRAME - len(wave))))
        _, density = signal.welch(wave, nperseg=_FRAME, detrend=False)
        densities.append(density / density.sum())
    return np.sqrt(np.mean(densities, axis=0))
