"""Degradations: what is done to a recording, and what that depends on.

The noise of a recording is drawn by the hash of its bytes, and is the same at every
ratio except for its level; so is its room. The order of recordings and the other
recordings of a batch change no sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.robustness.params import (
    REVERBERATION,
    REVISION,
    RobustnessParams,
    noise_name,
)
from stages.speech import effects
from stages.speech.loading import Change
from stages.speech.noise import (
    Draw,
    Recordings,
    choose_noise,
    hash_contents,
    load_sound,
    power,
    read_folder,
)

_ROOMS = 64

# Before the direct sound of a measured response there is delay. ISO 3382-1: the direct
# sound begins where the level is within 20 dB of the peak.
_ONSET = 0.1


@dataclass(frozen=True)
class Degradation:
    """What is done to every recording of the test split.

    Attributes:
        name: `babble-10dB`; also of the folder with its features.
        kind: `clean`, the noise, or the reverberation, for the report.
        snr: decibels; None without noise.
        identity: all that decides what a recording becomes; empty for `clean`.
        change: what is done; None for `clean`.
    """

    name: str
    kind: str
    snr: float | None
    identity: dict[str, Any]
    change: Change | None


def make_degradations(
    params: RobustnessParams, table: pd.DataFrame, audio: Path
) -> list[Degradation]:
    """The degradations that the parameters ask for, `clean` first.

    Speech of train in `table`, the manifest without quarantined rows, becomes noise.

    Raises:
        ConfigurationError: a noise that is neither a kind nor a folder.
        InputError: a folder without recordings.
    """
    found = [Degradation("clean", "clean", None, {}, None)]
    for noise in params.noise:
        draw, identity = choose_noise(noise, table, audio)
        name = noise_name(noise)
        for snr in map(float, params.snr):
            identity = {**identity, "revision": REVISION, "snr": snr}
            change = partial(_add_noise, draw, snr)
            found.append(Degradation(f"{name}-{snr:g}dB", name, snr, identity, change))
    if params.reverberation != "none":
        found.append(_reverberation(params))
    return found


def _reverberation(params: RobustnessParams) -> Degradation:
    respond: Callable[[np.random.Generator], np.ndarray]
    identity: dict[str, Any] = {"revision": REVISION}
    if params.reverberation == "simulated":
        detail = f"T60 {params.t60:g} s"
        identity["t60"] = float(params.t60)
        respond = partial(_simulated, float(params.t60))
    else:
        detail = noise_name(params.reverberation)
        files = read_folder(
            f"robustness.{REVERBERATION}", params.reverberation, "simulated, none"
        )
        identity["responses"] = hash_contents(files)
        respond = partial(_measured, files)
    return Degradation(
        REVERBERATION,
        f"{REVERBERATION}, {detail}",
        None,
        identity,
        partial(_reverberate, respond),
    )


def _add_noise(draw: Draw, snr: float, wave: np.ndarray, sha256: str) -> np.ndarray:
    """`wave` (samples,) with noise, float32; a silent one stays silent."""
    noise = draw(len(wave), _generator(sha256))
    noise = noise / np.sqrt(power(noise))
    return effects.add_noise(wave.astype(np.float64), noise, snr).astype(np.float32)


def _reverberate(
    respond: Callable[[np.random.Generator], np.ndarray],
    wave: np.ndarray,
    sha256: str,
) -> np.ndarray:
    """`wave` (samples,) in a room, float32, of unchanged length and power."""
    wet = effects.reverberate(wave.astype(np.float64), respond(_generator(sha256)))
    gain = np.sqrt(power(wave.astype(np.float64)) / max(power(wet), 1e-20))
    return (wet * gain).astype(np.float32)


def _generator(sha256: str) -> np.random.Generator:
    return np.random.default_rng(int(sha256, 16))


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
    response = load_sound(path, sha256, "an impulse response")
    loud = np.abs(response) >= _ONSET * np.abs(response).max()
    return response[np.flatnonzero(loud)[0] :]
