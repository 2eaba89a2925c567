"""Noise: white, pink, with the spectrum of speech, babble, or from recordings."""

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import signal

from stages.core.errors import ConfigurationError, InputError, RecordingError
from stages.core.hashing import fingerprint, hash_bytes
from stages.speech import effects
from stages.speech.loading import SUFFIXES, load_audio, read_recording

_TALKERS = 6
_TRACK = 10  # recordings of train, one after another, in a talker's track
_FRAME = 512  # samples of a mean spectrum's window

# The first of so many stretches of a noise is used that is not much quieter than the
# whole, so a pause is not amplified to the level of noise.
_STRETCHES = 20
_LEAST_SHARE = 0.1

Recordings = tuple[tuple[Path, str], ...]
"""Files and the SHA-256 of their bytes, sorted by the latter."""

Draw = Callable[[int, np.random.Generator], np.ndarray]
"""Samples and a generator -> noise, (samples,), of any power above 0."""


def choose_noise(
    noise: str, table: pd.DataFrame, audio: Path
) -> tuple[Draw, dict[str, Any]]:
    """A noise, and all that decides it: the kind and the recordings."""
    plain: dict[str, Draw] = {"white": _white, "pink": _pink}
    if noise in plain:
        return plain[noise], {"noise": noise}
    made: dict[str, Callable[..., np.ndarray]] = {"speech": _speech, "babble": _babble}
    if noise in made:
        recordings = train_recordings(table, audio, _TALKERS * _TRACK)
        draw, kind = partial(made[noise], recordings), noise
    else:
        known = ", ".join([*plain, *made])
        recordings = read_folder("robustness.noise", noise, known)
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


def read_folder(parameter: str, name: str, known: str) -> Recordings:
    """The recordings in the folder `name` and below, the value of a parameter.

    Raises:
        ConfigurationError: not a folder; the message lists the `known` values.
        InputError: no recordings in it, or one cannot be read.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigurationError(
            f"{parameter} is neither a known value nor a folder",
            found=repr(name),
            expected=f"{known}, or a folder of recordings",
        )
    paths = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.is_dir()
    ]
    if not paths:
        raise InputError(
            "no recordings in this folder or below it",
            path=folder,
            expected=f"files that end in {', '.join(SUFFIXES)}",
        )
    hashes = {hash_bytes(read_recording(path)): path for path in sorted(paths)}
    return tuple((hashes[sha256], sha256) for sha256 in sorted(hashes))


def train_recordings(table: pd.DataFrame, audio: Path, most: int) -> Recordings:
    """At most `most` recordings of train, none with the bytes of one of test.

    Those with the lowest hashes, which change little when the corpus grows.
    """
    tested = table.loc[table["split"] == "test", "audio_sha256"]
    train = table[(table["split"] == "train") & ~table["audio_sha256"].isin(tested)]
    train = train.drop_duplicates("audio_sha256").sort_values("audio_sha256")
    chosen = train.head(most)
    if chosen.empty:
        raise InputError(
            "every recording of train is also in test", fix="use another noise"
        )
    return tuple(
        (audio / path, sha256)
        for path, sha256 in zip(chosen["path"], chosen["audio_sha256"], strict=True)
    )


@lru_cache(maxsize=4)
def load_sound(path: Path, sha256: str, purpose: str) -> np.ndarray:
    """A recording with sound in it, (samples,) float64.

    Raises:
        InputError: it is missing, has changed, is not audio, or is silent.
    """
    try:
        wave = load_audio(path, sha256).astype(np.float64)
    except RecordingError as error:
        found: str | None = error.reason
    else:
        found = None if wave.any() else "only silence"
    if found is not None:
        raise InputError(
            f"cannot be used for {purpose}",
            path=path,
            found=found,
            expected="a recording with sound in it",
            fix="repair the file or remove it from the folder; finished extraction is "
            "kept",
        )
    return wave


def load_speech(speech: Recordings) -> list[np.ndarray]:
    """The recordings that are not silent, each (samples,) float64, at least one.

    Raises:
        InputError: one is missing or has changed, or all are silent.
    """
    waves = [load_audio(path, sha256).astype(np.float64) for path, sha256 in speech]
    waves = [wave for wave in waves if wave.any()]
    if not waves:
        raise InputError("train has only silent recordings", fix="use another noise")
    return waves


def hash_contents(recordings: Recordings) -> str:
    """A hash of the recordings, whatever their names."""
    return fingerprint({"recordings": [sha256 for _, sha256 in recordings]})
