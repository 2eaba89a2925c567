"""Reading recordings: any rate and channel count to 16 kHz mono float32."""

import io
import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from stages.core.errors import InputError, RecordingError
from stages.core.hashing import hash_bytes

SAMPLE_RATE = 16_000
"""Of every wave that an encoder gets, hertz."""

SUFFIXES = (
    ".aif",
    ".aifc",
    ".aiff",
    ".au",
    ".flac",
    ".mp3",
    ".oga",
    ".ogg",
    ".opus",
    ".sph",
    ".w64",
    ".wav",
)
"""Of the recordings in a folder."""

RESAMPLING = "torchaudio sinc_interp_hann, width 6, rolloff 0.99"
"""The resampling kernel; part of the features' fingerprint."""

_ZEROS = 6  # zero crossings on each side of the kernel
_ROLLOFF = 0.99  # cut-off, as a share of the lower Nyquist frequency

_FIX = "restore the file; in a corpus, drop its row or use --on-error quarantine"

_LARGEST_SAMPLE = 40_000
"""Accepts files whose floats are in the range of 16-bit integers."""

# libsndfile's log line about a size that it corrected (WAV, AU, AIFF), and the number
# of samples in a SPHERE header.
_FIXED = re.compile(r"^\s*(?:data|Data Size|SSND)\s*: (\d+) \(should be (\d+)\)", re.M)
_SPHERE_COUNT = re.compile(rb"^sample_count -i (\d+)", re.M)

_UNKNOWN_SIZE = 0x7FFF0000
"""Programs that do not know the size when they write the header write at least this."""

_SLACK = 1024
"""Bytes or frames that can be missing; plus a fiftieth of the frames, since the length
of an MP3 file can be an estimate."""

_LARGEST_KERNEL = 50_000_000
"""Taps of all phases; a rate with few common factors would need gigabytes."""


def load_audio(path: Path, sha256: str | None = None) -> np.ndarray:
    """The recording as (samples,) float32 in -1..1 at 16 kHz, channels averaged.

    Args:
        path: WAV, FLAC, OGG, MP3 or NIST SPHERE.
        sha256: expected hash of the file's bytes; None for any.

    Raises:
        InputError: the file is missing or has other bytes.
        RecordingError: not audio, cut off (if the header has a size; OGG has none),
            empty, with NaN or far too large values, or with a rate that cannot be
            resampled.
    """
    return decode_audio(_read(path, sha256), path)


def decode_audio(data: bytes, path: Path | str) -> np.ndarray:
    """As `load_audio`, from the bytes of a file; `path` is for messages."""
    samples, rate = _decode(path, data)
    return resample(samples.mean(axis=1), rate)


def kernel_taps(rate: int) -> int:
    """About the size of the kernel that resamples from `rate` hertz, in taps."""
    common = math.gcd(rate, SAMPLE_RATE)
    return (rate // common) * (SAMPLE_RATE // common)


def level(wave: np.ndarray) -> float:
    """Root mean square of a wave, (samples,); 1 at full scale."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def resample(wave: np.ndarray, rate: int) -> np.ndarray:
    """(samples,) float32 at `rate` hertz -> (ceil(16,000 · samples / rate),) at 16 kHz.

    Band-limited interpolation with a Hann-windowed sinc (Smith, «Digital Audio
    Resampling», 2002), with the kernel of torchaudio's `resample`.
    """
    if rate == SAMPLE_RATE:
        return wave
    common = math.gcd(rate, SAMPLE_RATE)
    step, phases = rate // common, SAMPLE_RATE // common
    kernel, reach = _kernel(step, phases)  # (taps, phases)
    # Each block of `step` samples gives `phases` samples.
    blocks = len(wave) // step + 1
    after = (blocks - 1) * step + len(kernel) - reach - len(wave)
    padded = np.pad(wave, (reach, max(after, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel))
    found = windows[: blocks * step : step] @ kernel
    return found.reshape(-1)[: -(-len(wave) * phases // step)]


@lru_cache
def _kernel(step: int, phases: int) -> tuple[np.ndarray, int]:
    """The kernel of each output phase, (taps, phases) float32, and its reach in taps.

    Args:
        step: samples of the input in a block.
        phases: samples of the output in a block.
    """
    cutoff = _ROLLOFF * min(step, phases)  # per block
    reach = math.ceil(_ZEROS * step / cutoff)
    taps = np.arange(-reach, reach + step)[:, None] / step
    # Rounded to single precision, as in torchaudio.
    phase = np.arange(phases, dtype=np.float32) / np.float32(phases)
    time = (taps - phase) * cutoff
    time = np.clip(time, -_ZEROS, _ZEROS)
    window = np.cos(np.pi * time / _ZEROS / 2) ** 2
    kernel = np.sinc(time) * window * cutoff / step
    return kernel.astype(np.float32), reach


def _read(path: Path, sha256: str | None) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            "the recording cannot be read",
            path=path,
            found=error.strerror,
            fix="correct the path or restore the file; the demo's are written by "
            "`aln-pipeline prepare-corpus`",
        ) from None
    if sha256 is not None and hash_bytes(data) != sha256:
        raise InputError(
            "the recording changed since the manifest was written",
            path=path,
            fix="run `aln-pipeline prepare-corpus`, then this command again",
        )
    return data


def not_audio(
    path: Path | str, error: soundfile.LibsndfileError, fix: str
) -> RecordingError:
    """An error for a file that libsndfile does not read."""
    return RecordingError(
        "not an audio file that libsndfile reads",
        path=path,
        found=error.error_string,
        expected="WAV, FLAC, OGG, MP3 or NIST SPHERE",
        fix=fix,
    )


def _decode(path: Path | str, data: bytes) -> tuple[np.ndarray, int]:
    """The samples (samples, channels) of an audio file, checked, and their rate."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            # Named, since some codings cannot be sought in.
            samples = file.read(file.frames, dtype="float32", always_2d=True)
            rate, frames, log = file.samplerate, file.frames, file.extra_info
    except soundfile.LibsndfileError as error:
        raise not_audio(path, error, _FIX) from None
    if _missing_samples(data, len(samples), frames, log) > _SLACK:
        raise RecordingError("the recording is cut off", path=path, fix=_FIX)
    if len(samples) == 0:
        raise RecordingError("the recording is empty", path=path, fix=_FIX)
    check_samples(samples, rate, path)
    return samples, rate


def check_samples(samples: np.ndarray, rate: int, path: Path | str) -> None:
    """Check what can be checked of samples (samples, channels) at `rate` hertz.

    Raises:
        RecordingError: a rate that cannot be resampled, or values that are no samples.
    """
    if kernel_taps(rate) > _LARGEST_KERNEL:
        raise RecordingError(
            "the sample rate has too small a common factor with 16 kHz",
            path=path,
            found=f"{rate} Hz",
            fix="convert the recording to 16 kHz",
        )
    # Also true for NaN. Values far beyond full scale would overflow later.
    if not (np.abs(samples) <= _LARGEST_SAMPLE).all():
        raise RecordingError(
            "the recording has values that are not samples",
            path=path,
            found=f"a largest magnitude of {np.abs(samples).max():g}",
            expected="numbers, with full scale at 1",
            fix=_FIX,
        )


def _missing_samples(data: bytes, read: int, frames: int, log: str) -> int:
    """How many samples or bytes the header promises beyond those in the file.

    Args:
        data: the file.
        read: frames that could be read.
        frames: frames that libsndfile expected.
        log: of libsndfile, which corrects the size of a file that was cut off.
    """
    missing = frames - read - frames // 50
    if found := _FIXED.search(log):
        promised, there = map(int, found.groups())
        if promised < _UNKNOWN_SIZE:
            missing = promised - there
    if data.startswith(b"NIST_1A") and (count := _SPHERE_COUNT.search(data[:4096])):
        missing = int(count[1]) - read
    return missing


Change = Callable[[np.ndarray, str], np.ndarray]
"""Changes a wave, (samples,); its second argument is the hash of the file's bytes."""


def try_audio(
    path: Path, sha256: str, change: Change | None = None
) -> np.ndarray | RecordingError:
    """As `load_audio`, then `change`; returns the error of an unusable recording."""
    try:
        wave = load_audio(path, sha256)
    except RecordingError as error:
        return error
    return wave if change is None else change(wave, sha256)


def encode_good(
    encode: Callable[[list[np.ndarray]], list[np.ndarray]],
    loaded: Sequence[np.ndarray | RecordingError],
) -> list[np.ndarray | RecordingError]:
    """`encode` what `try_audio` loaded; errors stay in their places."""
    waves = [one for one in loaded if not isinstance(one, RecordingError)]
    features = iter(encode(waves) if waves else [])
    return [
        one if isinstance(one, RecordingError) else next(features) for one in loaded
    ]
