"""Reading recordings: any rate and channel count to 16 kHz mono float32."""

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from stages.core.errors import InputError, RecordingError
from stages.core.hashing import hash_bytes

if TYPE_CHECKING:
    import torchaudio

SAMPLE_RATE = 16_000
"""Of every wave that an encoder reads, hertz."""

RESAMPLING = "torchaudio sinc_interp_hann, width 6, rolloff 0.99"
"""The resampling kernel; a part of what features depend on."""

_FIX = "restore the file, drop its row, or use --on-error quarantine"

_LARGEST_SAMPLE = 40_000
"""Leaves room for files whose floats are 16-bit integers."""

# Where libsndfile's log tells that it mended the size of the samples (WAV, AU, AIFF),
# and where a SPHERE header has their number.
_MENDED = re.compile(r"^\s*(?:data|Data Size|SSND)\s*: (\d+) \(should be (\d+)\)", re.M)
_SPHERE_COUNT = re.compile(rb"^sample_count -i (\d+)", re.M)

_UNKNOWN_SIZE = 0x7FFF0000
"""Programs that do not know the size yet write this much or more."""

_SLACK = 1024
"""Bytes or frames that a header may promise too many without a loss to speak of; and a
fiftieth, since the length of an MP3 file may be an estimate."""

_LARGEST_KERNEL = 50_000_000
"""Taps of all phases; a rate with few common factors would need gigabytes."""


def load_audio(path: Path, sha256: str | None = None) -> np.ndarray:
    """The recording as (samples,) float32 in -1..1 at 16 kHz, channels averaged.

    Args:
        path: WAV, FLAC, OGG, MP3 or NIST SPHERE.
        sha256: what the file's bytes must hash to; None if anything will do.

    Raises:
        InputError: missing, or of other bytes.
        RecordingError: not audio, cut off (as far as its header tells; OGG has none),
            empty, with values that are no numbers, or of a rate that cannot be
            resampled.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            "the recording cannot be read",
            path=path,
            found=error.strerror,
            fix="restore the file; for the demo run `aln-pipeline prepare-corpus`",
        ) from None
    if sha256 is not None and hash_bytes(data) != sha256:
        raise InputError(
            "the recording changed since the manifest was written",
            path=path,
            fix="run `aln-pipeline prepare-corpus`, then this again",
        )
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            samples = file.read(dtype="float32", always_2d=True)
            rate, frames, log = file.samplerate, file.frames, file.extra_info
    except soundfile.LibsndfileError as error:
        raise RecordingError(
            "not an audio file that libsndfile reads",
            path=path,
            found=error.error_string,
            expected="WAV, FLAC, OGG, MP3 or NIST SPHERE",
            fix=_FIX,
        ) from None
    _check_whole(path, data, len(samples), frames, log)
    common = math.gcd(rate, SAMPLE_RATE)
    if (rate // common) * (SAMPLE_RATE // common) > _LARGEST_KERNEL:
        raise RecordingError(
            "the sample rate has too little in common with 16 kHz",
            path=path,
            found=f"{rate} Hz",
            fix="convert the recording to 16 kHz",
        )
    if len(samples) == 0:
        raise RecordingError("the recording is empty", path=path, fix=_FIX)
    # NaN fails this comparison too. Far beyond full scale, arithmetic would overflow.
    if not (np.abs(samples) <= _LARGEST_SAMPLE).all():
        raise RecordingError(
            "the recording holds values that are no samples",
            path=path,
            found=f"a largest magnitude of {np.abs(samples).max():g}",
            expected="numbers, with full scale at 1",
            fix=_FIX,
        )
    mono = samples.mean(axis=1)
    if rate == SAMPLE_RATE:
        return mono
    # Not above: a corpus at 16 kHz needs neither, and they take seconds to import.
    import torch

    return _resampler(rate)(torch.from_numpy(mono)).numpy()


def _check_whole(path: Path, data: bytes, read: int, frames: int, log: str) -> None:
    """Hold what was read against what the header says.

    Args:
        path: for the error.
        data: the file.
        read: frames that could be read.
        frames: that libsndfile expected.
        log: of libsndfile, which mends the size of a file that was cut off.

    Raises:
        RecordingError: the file ends before its samples do.
    """
    missing = frames - read - frames // 50
    if found := _MENDED.search(log):
        said, there = map(int, found.groups())
        if said < _UNKNOWN_SIZE:
            missing = said - there
    if data.startswith(b"NIST_1A") and (count := _SPHERE_COUNT.search(data[:4096])):
        missing = int(count[1]) - read
    if missing > _SLACK:
        raise RecordingError("the recording is cut off", path=path, fix=_FIX)


Change = Callable[[np.ndarray, str], np.ndarray]
"""What is done to a wave, (samples,), known by the hash of its file's bytes."""


def try_audio(
    path: Path, sha256: str, change: Change | None = None
) -> np.ndarray | RecordingError:
    """As `load_audio`, changed; a recording that is bad in itself gives its error."""
    try:
        wave = load_audio(path, sha256)
    except RecordingError as error:
        return error
    return wave if change is None else change(wave, sha256)


def encode_good(
    encode: Callable[[list[np.ndarray]], list[np.ndarray]],
    loaded: Sequence[np.ndarray | RecordingError],
) -> list[np.ndarray | RecordingError]:
    """`encode` what `try_audio` loaded; an error stays in its place."""
    waves = [one for one in loaded if not isinstance(one, RecordingError)]
    features = iter(encode(waves) if waves else [])
    return [
        one if isinstance(one, RecordingError) else next(features) for one in loaded
    ]


@lru_cache
def _resampler(rate: int) -> "torchaudio.transforms.Resample":
    import torchaudio

    return torchaudio.transforms.Resample(
        rate,
        SAMPLE_RATE,
        resampling_method="sinc_interp_hann",
        lowpass_filter_width=6,
        rolloff=0.99,
    )
