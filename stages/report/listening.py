"""What is heard and seen of a recording: an MP3, its waveform, the attention."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from torch import Tensor

from stages.cache.store import CacheReader
from stages.core.errors import ConfigurationError, InputError
from stages.core.runtime import one_thread
from stages.speech.loading import SAMPLE_RATE, load_audio
from stages.student.model import AcousticLinguisticNetwork, load_student

WIDTH = 100
"""Columns of a waveform."""
_WITHOUT = "set report.audio=none for a report without recordings"


@dataclass(frozen=True)
class Clip:
    """A recording, as the page shows it.

    Attributes:
        audio: MP3, mono, 16 kHz.
        seconds: its duration.
        peaks: the waveform: the largest magnitude in each of `WIDTH` columns, in
            percent of the recording's own.
        attention: the weight of each frame, 1 in all; None if the student has none.
        frame_seconds: from one of these frames to the next; None likewise.
    """

    audio: bytes
    seconds: float
    peaks: list[int]
    attention: list[float] | None = None
    frame_seconds: float | None = None


def clips(
    ids: Sequence[str],
    manifest: pd.DataFrame,
    *,
    audio: Path,
    features: Path,
    student: Path,
) -> Iterator[Clip]:
    """The clip of each utterance, in order; only one recording is in memory.

    Args:
        ids: of usable utterances.
        manifest: columns id, path and audio_sha256.
        audio: the folder that the manifest's paths are relative to.
        features: the cache of acoustic features; read only if the student attends.
        student: `model-<seed>.safetensors`.

    Raises:
        CacheError: the student or its features are missing or damaged.
        ConfigurationError: libsndfile cannot write MP3.
        InputError: a recording is missing or has changed.
    """
    if not soundfile.check_format("MP3", "MPEG_LAYER_III"):
        raise ConfigurationError(
            "libsndfile cannot write MP3",
            found=f"version {soundfile.__libsndfile_version__}",
            expected="1.1 or later with MP3, as in the wheels of soundfile",
            fix=f"pip install --force-reinstall soundfile, or {_WITHOUT}",
        )
    model, about = load_student(student)
    reader = None
    if attends(model) or pools_by_attention(model):
        reader = CacheReader(features, fingerprint=about["acoustic_fingerprint"])
    table = manifest.set_index("id").loc[list(ids), ["path", "audio_sha256"]]
    for path, key in table.itertuples(index=False):
        wave = _load(audio / path, key)
        sound = to_mp3(wave), len(wave) / SAMPLE_RATE, waveform(wave)
        if reader is None:
            yield Clip(*sound)
        else:
            weights = frame_weights(model, np.array(reader[key], np.float32))
            yield Clip(*sound, weights, reader.header.frame_step / SAMPLE_RATE)


def _load(path: Path, sha256: str) -> np.ndarray:
    """The recording, (samples,).

    Raises:
        InputError: it is missing or has changed.
    """
    try:
        return load_audio(path, sha256)
    except InputError as error:
        raise InputError(
            error.reason,
            path=path,
            fix="restore the recording, name the folder of the recordings with --root, "
            f"or {_WITHOUT}",
        ) from None


def to_mp3(wave: np.ndarray) -> bytes:
    """A wave (samples,) as the smallest MP3 of its sample rate, about 22 kbit/s.

    Every browser plays MP3. Opus has random serial numbers; these bytes are the same
    each time.
    """
    file = io.BytesIO()
    soundfile.write(
        file,
        wave.clip(-1, 1),
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.99,
    )
    return file.getvalue()


def waveform(wave: np.ndarray) -> list[int]:
    """The largest magnitude in each of `WIDTH` parts of a wave, in percent of all."""
    starts = np.arange(WIDTH) * len(wave) // WIDTH
    peaks = np.maximum.reduceat(np.abs(wave), starts)
    found: list[int] = np.rint(100 * peaks / (peaks.max() or 1)).astype(int).tolist()
    return found


def attends(model: AcousticLinguisticNetwork) -> bool:
    """Whether a network has the attention of eq. 2."""
    return model.system == "aln" and model.attention != "none"


def pools_by_attention(model: AcousticLinguisticNetwork) -> bool:
    """Whether a network weights the frames that it pools."""
    return model.frame_pooling == "attention"


@torch.inference_mode()
def frame_weights(
    model: AcousticLinguisticNetwork, features: np.ndarray
) -> list[float]:
    """How much a network attends to each frame, 1 in all.

    The mean over the queries of eq. 2; without these the mean over the slots' weights
    of the frames that are pooled.

    Args:
        model: one that attends or pools by attention, in `eval()`.
        features: e_acoust of one utterance (frames, D) float32.
    """
    batch = torch.from_numpy(features)[None]
    lengths = torch.tensor([len(features)])
    with one_thread():
        if attends(model):
            weights = model.folded_scores(batch, lengths).softmax(1).mean(0)
        else:
            weights = _pooling_scores(model, batch, lengths).softmax(0).mean(1)
    found: list[float] = weights.tolist()
    return found


def _pooling_scores(
    model: AcousticLinguisticNetwork, batch: Tensor, lengths: Tensor
) -> Tensor:
    """The scores of the frames of one utterance, (frames, slots)."""
    scores: list[Tensor] = []
    hook = model.frame_scores.register_forward_hook(
        lambda layer, given, found: scores.append(found)
    )
    model(batch, lengths)
    hook.remove()
    return scores[0][0]
