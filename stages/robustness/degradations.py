"""Conditions: what is done to a recording, and what that depends on.

The noise of a recording is drawn by the hash of its bytes, and is the same at every
ratio, but for its strength; so is its room. Neither the order of recordings nor what
else is in a batch changes a sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import signal

from stages.core.errors import ConfigurationError, InputError, RecordingError
from stages.core.hashing import fingerprint, hash_file
from stages.robustness.params import (
    NOISES,
    REVERBERATION,
    RobustnessParams,
    noise_name,
)
from stages.speech import effects
from stages.speech.loading import Change, load_audio

REVISION = 1
"""Raised when the same parameters spoil a recording in another way."""

_TALKERS = 6
_TRACK = 10  # recordings of train, one after another, in a talker's track
_ROOMS = 64
_FRAME = 512  # samples of a mean spectrum's window

# Of so many places in a noise the first that is not much quieter than all of it is
# taken, so that a pause is not made as loud as noise.
_PLACES = 20
_LEAST_SHARE = 0.1

# What comes before the direct sound in a measured response is delay: ISO 3382-1 has it
# begin where it is within 20 dB of its peak.
_ONSET = 0.1

_SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".ogg", ".sph", ".wav")

Recordings = tuple[tuple[Path, str], ...]
"""Files and the SHA-256 of their bytes, sorted by the latter."""

Draw = Callable[[int, np.random.Generator], np.ndarray]
"""Samples and a generator -> noise, (samples,), of any power above 0."""


@dataclass(frozen=True)
class Condition:
    """Something done to every recording of the test split.

    Attributes:
        name: `babble-10dB`; of the folder with its features.
        kind: `clean`, the noise, or the reverberation, as a reader is told.
        snr: decibels; None without noise.
        identity: all that decides what a recording becomes; empty if it stays.
        change: what is done; None if nothing is.
    """

    name: str
    kind: str
    snr: float | None
    identity: dict[str, Any]
    change: Change | None


def make_conditions(
    params: RobustnessParams, table: pd.DataFrame, audio: Path
) -> list[Condition]:
    """The conditions that the parameters ask for, `clean` first.

    Args:
        params: which.
        table: the manifest, without what was set aside; train lends its speech.
        audio: the folder that its paths are relative to.

    Raises:
        ConfigurationError: a noise that is neither a kind nor a folder.
        InputError: a folder without recordings.
    """
    found = [Condition("clean", "clean", None, {}, None)]
    for noise in params.noise:
        identity: dict[str, Any] = {"revision": REVISION, "noise": noise}
        draw: Draw
        if noise == "white":
            draw = _white
        elif noise == "pink":
            draw = _pink
        elif noise in NOISES:
            speech = _train_recordings(table, audio)
            draw = partial(_speech if noise == "speech" else _babble, speech)
            identity["recordings"] = _contents(speech)
        else:
            files = _read_folder("noise", noise, f"{', '.join(NOISES)}")
            draw = partial(_excerpt, files)
            identity |= {"noise": "folder", "recordings": _contents(files)}
        name = noise_name(noise)
        for snr in params.snr:
            found.append(
                Condition(
                    f"{name}-{snr:g}dB",
                    name,
                    snr,
                    {**identity, "snr": float(snr)},
                    partial(_noisy, draw, float(snr)),
                )
            )
    if params.reverberation == "simulated":
        found.append(
            Condition(
                REVERBERATION,
                f"{REVERBERATION}, T60 {params.t60:g} s",
                None,
                {"revision": REVISION, "t60": float(params.t60)},
                partial(_reverberant, partial(_simulated, float(params.t60))),
            )
        )
    elif params.reverberation != "none":
        files = _read_folder(REVERBERATION, params.reverberation, "simulated, none")
        found.append(
            Condition(
                REVERBERATION,
                f"{REVERBERATION}, {noise_name(params.reverberation)}",
                None,
                {"revision": REVISION, "responses": _contents(files)},
                partial(_reverberant, partial(_measured, files)),
            )
        )
    return found


def _noisy(draw: Draw, snr: float, wave: np.ndarray, sha256: str) -> np.ndarray:
    """`wave` (samples,) with noise, float32; a silent one has no ratio and stays."""
    noise = draw(len(wave), _generator(sha256))
    noise = noise / np.sqrt(_power(noise))
    return effects.add_noise(wave.astype(np.float64), noise, snr).astype(np.float32)


def _reverberant(
    respond: Callable[[np.random.Generator], np.ndarray],
    wave: np.ndarray,
    sha256: str,
) -> np.ndarray:
    """`wave` (samples,) in a room, float32, of the length and power that it had."""
    wet = effects.reverberate(wave.astype(np.float64), respond(_generator(sha256)))
    gain = np.sqrt(_power(wave.astype(np.float64)) / max(_power(wet), 1e-20))
    return (wet * gain).astype(np.float32)


def _power(wave: np.ndarray) -> float:
    return float(np.mean(wave**2))


def _generator(sha256: str) -> np.random.Generator:
    return np.random.default_rng(int(sha256, 16))


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
    return _sounding(
        lambda: effects.listen(crowd, samples, generator), _power(crowd) * len(crowd)
    )


def _excerpt(
    files: Recordings, samples: int, generator: np.random.Generator
) -> np.ndarray:
    """A stretch of one of the recordings, which is repeated if it is too short."""
    path, sha256 = files[int(generator.integers(len(files)))]
    noise = _load(path, sha256, "noise")
    if len(noise) <= samples:
        noise = np.tile(noise, samples // len(noise) + 1)

    def stretch() -> np.ndarray:
        start = int(generator.integers(len(noise) - samples + 1))
        return noise[start : start + samples]

    return _sounding(stretch, _power(noise))


def _sounding(stretch: Callable[[], np.ndarray], power: float) -> np.ndarray:
    """The first stretch that is not much weaker than `power`, of so many; or the best.

    Raises:
        InputError: all are silence.
    """
    best = stretch()
    for _ in range(_PLACES):
        if _power(best) >= _LEAST_SHARE * power:
            return best
        best = max(best, stretch(), key=_power)
    if not best.any():
        raise InputError("a noise is silence nearly everywhere", fix="use another one")
    return best


def _simulated(t60: float, generator: np.random.Generator) -> np.ndarray:
    return _room(t60, int(generator.integers(_ROOMS)))


def _measured(files: Recordings, generator: np.random.Generator) -> np.ndarray:
    return _response(*files[int(generator.integers(len(files)))])


@lru_cache(maxsize=_ROOMS)
def _room(t60: float, number: int) -> np.ndarray:
    return effects.room_with_decay(t60, np.random.default_rng(number))


@lru_cache(maxsize=256)
def _response(path: Path, sha256: str) -> np.ndarray:
    """A measured response, (samples,), from its direct sound on."""
    response = _load(path, sha256, "an impulse response")
    loud = np.abs(response) >= _ONSET * np.abs(response).max()
    return response[np.flatnonzero(loud)[0] :]


@lru_cache(maxsize=1)
def _crowd(speech: Recordings) -> np.ndarray:
    """(talkers, samples): what each says, all equally loud."""
    waves = [wave / np.sqrt(_power(wave)) for wave in _spoken(speech)]
    tracks = []
    for place in range(_TALKERS):
        said = waves[place::_TALKERS] or [waves[place % len(waves)]]
        tracks.append(np.concatenate(said))
    # Beyond its end, a track begins again.
    longest = max(map(len, tracks))
    return np.stack([np.resize(track, longest) for track in tracks])


@lru_cache(maxsize=1)
def _mean_spectrum(speech: Recordings) -> np.ndarray:
    """Mean amplitudes at equally spaced frequencies, recordings weighing alike."""
    powers = []
    for wave in _spoken(speech):
        wave = np.pad(wave, (0, max(0, _FRAME - len(wave))))
        _, power = signal.welch(wave, nperseg=_FRAME, detrend=False)
        powers.append(power / power.sum())
    return np.sqrt(np.mean(powers, axis=0))


def _spoken(speech: Recordings) -> list[np.ndarray]:
    """The recordings of train that are not silent, at least one.

    Raises:
        InputError: one is missing or has changed, or all are silent.
    """
    waves = [load_audio(path, sha256).astype(np.float64) for path, sha256 in speech]
    waves = [wave for wave in waves if wave.any()]
    if not waves:
        raise InputError("train has nothing but silence", fix="use another noise")
    return waves


@lru_cache(maxsize=4)
def _load(path: Path, sha256: str, purpose: str) -> np.ndarray:
    """A recording that something is made of, (samples,) float64.

    Raises:
        InputError: it is missing, has changed, is no audio, or is silence.
    """
    try:
        wave = load_audio(path, sha256).astype(np.float64)
    except RecordingError as error:
        why: str | None = error.reason
    else:
        why = None if wave.any() else "nothing but silence"
    if why is not None:
        raise InputError(
            f"cannot be used for {purpose}",
            path=path,
            found=why,
            expected="a recording with sound in it",
            fix="mend the file or take it out of the folder; what is extracted is kept",
        )
    return wave


def _train_recordings(table: pd.DataFrame, audio: Path) -> Recordings:
    """Some recordings of train, none of the same bytes as one of test.

    Those with the lowest hashes: a sample that changes little when the corpus grows.
    """
    tested = table.loc[table["split"] == "test", "audio_sha256"]
    train = table[(table["split"] == "train") & ~table["audio_sha256"].isin(tested)]
    train = train.drop_duplicates("audio_sha256").sort_values("audio_sha256")
    chosen = train.head(_TALKERS * _TRACK)
    if chosen.empty:
        raise InputError(
            "train has no recording that test has not", fix="use another noise"
        )
    return tuple(
        (audio / path, sha256)
        for path, sha256 in zip(chosen["path"], chosen["audio_sha256"], strict=True)
    )


def _read_folder(parameter: str, name: str, known: str) -> Recordings:
    """The recordings in and below a folder that a person named."""
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigurationError(
            f"robustness.{parameter} is neither known nor a folder",
            found=repr(name),
            expected=f"{known}, or a folder of recordings",
        )
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES]
    if not paths:
        raise InputError(
            "no recordings in or below this folder",
            path=folder,
            expected=f"files that end in {', '.join(_SUFFIXES)}",
        )
    hashes = {hash_file(path): path for path in sorted(paths)}
    return tuple((hashes[sha256], sha256) for sha256 in sorted(hashes))


def _contents(recordings: Sequence[tuple[Path, str]]) -> str:
    return fingerprint({"recordings": [sha256 for _, sha256 in recordings]})
