"""Reading recordings: any rate and channel count to 16 kHz mono float32."""

import io
import math
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from stages.core.errors import InputError, RecordingError
from stages.core.hashing import hash_bytes
from stages.speech.mp3 import after_tags, is_mp3, with_frame_count
from stages.speech.sizes import (
    CUT_OFF,
    FIX,
    check_size,
    flac_count,
    unfinished,
    without_size,
)
from stages.speech.sphere import compressed_sphere, sphere_compression

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

_LARGEST_SAMPLE = 40_000
"""Accepts files whose floats are in the range of 16-bit integers."""

_SPHERE_COUNT = re.compile(rb"^sample_count -i (\d+)", re.M)

_LONGEST_SECONDS = 24 * 3600
"""A header that states more is not believed."""

_RATES = range(1000, 10_000_001)
"""Hertz; below there is no speech, and a second would become many times as long."""

_BLOCK = 2**20
"""Samples of all channels that are decoded at once."""

_MORE = 2**14
"""The same beyond the number that the header states. There is usually nothing."""

_CANCELLED = 0.1
"""Of the level that the average of unrelated channels has. Two equally loud ones are
below with a correlation of -0.99: they differ by noise of -20 dB or less."""

_LARGEST_KERNEL = 50_000_000
"""Taps of all phases; a rate with few common factors would need gigabytes."""


def load_audio(path: Path, sha256: str | None = None) -> np.ndarray:
    """The recording as (samples,) float32 in -1..1 at 16 kHz, channels averaged.

    Args:
        path: WAV, FLAC, OGG, MP3 or NIST SPHERE.
        sha256: expected hash of the file's bytes; None for any.

    Raises:
        InputError: the file is missing or has other bytes.
        RecordingError: not audio, cut off (if that can be seen), empty, with NaN or far
            too large values, with channels that cancel, or with a rate that cannot be
            resampled.
    """
    data = read_recording(path)
    if sha256 is not None and hash_bytes(data) != sha256:
        raise InputError(
            "the recording changed since the manifest was written",
            path=path,
            fix="run `aln-pipeline prepare-corpus`, then this command again; if that "
            "changes nothing, the file is damaged: restore it",
        )
    return decode_audio(data, path)


def decode_audio(
    data: bytes, path: Path | str, longest: float | None = None
) -> np.ndarray:
    """As `load_audio`, from the bytes of a file.

    Args:
        data: the file.
        path: for messages.
        longest: after so many seconds decoding may stop; the result is then longer
            than that. A small file can be hours of silence.
    """
    return resample(*decode(data, path, longest))


def read_recording(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: it is missing, unreadable or not a file.
    """
    try:
        # A named pipe would be waited for.
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind == stat.S_IFREG:
            return path.read_bytes()
        found = "a folder" if kind == stat.S_IFDIR else "a pipe, socket or device"
    except (OSError, ValueError) as error:  # as for a null character in the path
        found = getattr(error, "strerror", None) or str(error)
    raise InputError(
        "the recording cannot be read",
        path=path,
        found=found,
        expected="a file",
        fix="correct the path or restore the file; the demo's are written by "
        "`aln-pipeline prepare-corpus`",
    )


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


def decode(
    data: bytes, path: Path | str, longest: float | None = None
) -> tuple[np.ndarray, int]:
    """The samples (samples,) float32 of a file, channels averaged, and their rate.

    Arguments are those of `decode_audio`.

    Raises:
        RecordingError: as `load_audio`.
    """
    if compression := sphere_compression(data):
        raise compressed_sphere(path, compression)
    data = data[after_tags(data) :]
    sound = data.lstrip(b"\0")
    try:
        if is_mp3(sound):
            sound = with_frame_count(sound, path)
            samples, rate, frames = _decoded(sound, longest)
        else:
            check_size(data, path)
            samples, rate, frames = _decoded(data, longest)
    except soundfile.LibsndfileError as error:
        raise RecordingError(
            "not an audio file that libsndfile reads",
            path=path,
            found=error.error_string,
            expected="WAV, FLAC, OGG, MP3 or NIST SPHERE",
            fix=FIX,
        ) from None
    most = math.inf if longest is None else longest * rate
    if len(samples) < min(frames, most) and frames <= _LONGEST_SECONDS * rate:
        raise RecordingError(
            CUT_OFF,
            path=path,
            found=f"{len(samples):,} samples",
            expected=f"{frames:,}, from the header",
            fix=FIX,
        )
    if 0 < flac_count(data) < len(samples):
        raise unfinished(path, f"{frames:,} samples stated, but more")
    if len(samples) == 0:
        raise RecordingError("the recording is empty", path=path, fix=FIX)
    check_samples(samples, rate, path)
    return average(samples, path), rate


def _decoded(data: bytes, longest: float | None) -> tuple[np.ndarray, int, int]:
    """All samples (samples, channels) float32, their rate, and the number stated."""
    with _Forwards(_Bytes(without_size(data))) as file:
        stated = flac_count(data) or file.frames
        if data.startswith(b"NIST_1A") and (count := _SPHERE_COUNT.search(data[:4096])):
            stated = int(count[1])
        most = math.inf if longest is None else longest * file.samplerate
        return _read(file, stated, most), file.samplerate, stated


class _Bytes(io.BytesIO):
    """A file in memory; a place that it cannot have is not moved to."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As `io.BytesIO.seek`. An error would be printed, not raised, by cffi."""
        with suppress(ValueError, OverflowError):
            return super().seek(offset, whence)
        return self.tell()


class _Forwards(soundfile.SoundFile):
    """An audio file that is only read forwards, as some codings require."""

    def seekable(self) -> bool:
        """No: soundfile would seek before and after it reads."""
        return False


def _read(file: soundfile.SoundFile, stated: int, most: float) -> np.ndarray:
    """All samples of a file, (samples, channels), whatever its header states.

    Those of a longer file than `most` end somewhere after that.
    """
    size = max(1, _BLOCK // file.channels)
    more = min(size, _MORE)
    blocks = [np.zeros((0, file.channels), np.float32)]
    there = 0
    while there <= most:
        left = stated - there
        try:
            block = file.read(
                min(size, left) if left > 0 else more, "float32", always_2d=True
            )
        except soundfile.LibsndfileError:
            if left > 0:
                raise
            break  # what follows the last sample, such as a tag
        if not len(block):
            break
        blocks.append(block)
        there += len(block)
    return np.concatenate(blocks)


def average(samples: np.ndarray, path: Path | str) -> np.ndarray:
    """The mean (samples,) float32 of channels, (samples, channels).

    Raises:
        RecordingError: they cancel, as do two of opposite phase.
    """
    samples = samples.astype(np.float32, copy=False)
    channels = samples.shape[1]
    if channels == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1)
    # Without each channel's mean: an offset is not heard.
    power = samples.var(axis=0, dtype=np.float64).mean()
    left = mean.var(dtype=np.float64) * channels
    if left < _CANCELLED**2 * power:
        raise RecordingError(
            "the channels cancel each other when they are averaged",
            path=path,
            found=f"{channels} channels, probably of opposite phase",
            fix="keep one channel, e.g. `sox IN.wav OUT.wav remix 1`",
        )
    return mean


def check_samples(samples: np.ndarray, rate: int, path: Path | str) -> None:
    """Check what can be checked of samples (samples, channels) at `rate` hertz.

    Raises:
        RecordingError: a rate that cannot be resampled, or values that are no samples.
    """
    if rate not in _RATES:
        raise RecordingError(
            "not a sample rate of speech",
            path=path,
            found=f"{rate} Hz",
            expected=f"{_RATES[0]:,} to {_RATES[-1]:,}",
            fix=FIX,
        )
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
            fix=FIX,
        )


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
