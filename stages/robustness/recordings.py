"""The recordings that noise and responses are taken from."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from stages.core.errors import ConfigurationError, InputError, RecordingError
from stages.core.hashing import fingerprint, hash_file
from stages.speech.loading import load_audio

_SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".ogg", ".sph", ".wav")

Recordings = tuple[tuple[Path, str], ...]
"""Files and the SHA-256 of their bytes, sorted by the latter."""


def read_folder(parameter: str, name: str, known: str) -> Recordings:
    """The recordings in the folder `name` and below, the value of a parameter.

    Raises:
        ConfigurationError: not a folder; the message lists the `known` values.
        InputError: no recordings in it.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigurationError(
            f"robustness.{parameter} is neither a known value nor a folder",
            found=repr(name),
            expected=f"{known}, or a folder of recordings",
        )
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES]
    if not paths:
        raise InputError(
            "no recordings in this folder or below it",
            path=folder,
            expected=f"files that end in {', '.join(_SUFFIXES)}",
        )
    hashes = {hash_file(path): path for path in sorted(paths)}
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
