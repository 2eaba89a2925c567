"""Transcribe the recordings that have no cached transcript yet."""

from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch

from stages.baseline1.params import Baseline1Params
from stages.baseline1.recogniser import Recogniser, Transcribe
from stages.baseline1.transcripts import open_transcripts
from stages.core.errors import RecordingError
from stages.core.runtime import progress, quiet_transformers
from stages.core.workers import run_in_processes
from stages.speech.loading import try_audio

# Seconds of audio from which starting processes pays off.
_PROCESSES_SECONDS = 300.0


def choose_recogniser(
    params: Baseline1Params, *, texts: Sequence[str], work: Path, workers: int
) -> Recogniser:
    """The recogniser that the parameters name; not for `given`.

    Texts, folder and threads are those of `encoder_recogniser`; others need none.

    Raises:
        ConfigurationError: a missing extra, or a model of another kind.
        InputError: nothing usable at `model`.
    """
    if params.recogniser == "encoder":
        from stages.baseline1.encoder_recogniser import encoder_recogniser

        return encoder_recogniser(params, texts, work=work, workers=workers)
    if params.recogniser == "transformers":
        from stages.baseline1.transformers_recogniser import transformers_recogniser

        return transformers_recogniser(params)
    if params.recogniser == "torchaudio":
        from stages.baseline1.torchaudio_recogniser import torchaudio_recogniser

        return torchaudio_recogniser(params)
    from stages.baseline1.pocketsphinx_recogniser import pocketsphinx_recogniser

    return pocketsphinx_recogniser()


def transcribe(
    recogniser: Recogniser,
    rows: pd.DataFrame,
    *,
    audio: Path,
    directory: Path,
    device: torch.device,
    workers: int,
) -> tuple[list[str], int]:
    """The transcript of each of the manifest's `rows`, and how many are new.

    Args:
        recogniser: transcribes those that are not in `directory`.
        rows: of the manifest.
        audio: the folder that their paths are relative to.
        directory: folder of the transcripts' cache.
        device: what the recogniser runs on.
        workers: processes that transcribe, on the CPU.

    Raises:
        CacheError: damaged transcripts, or another process is writing them.
        InputError: a recording that is missing or has changed.
    """
    distinct = rows.drop_duplicates("audio_sha256").sort_values(["seconds", "id"])
    fingerprint, name = recogniser.fingerprint, recogniser.name
    with open_transcripts(directory, fingerprint, name) as kept:
        todo = distinct[~distinct["audio_sha256"].isin(kept)]
        recordings = [(audio / row.path, row.audio_sha256) for row in todo.itertuples()]
        if recogniser.on_cpu:
            device = torch.device("cpu")
        long = todo["seconds"].sum() >= _PROCESSES_SECONDS
        processes = workers if long and device.type == "cpu" else 1
        work = partial(_transcribe_recording, recogniser, device.type)
        if processes > 1:
            texts = run_in_processes(work, recordings, processes, preload=[__name__])
        else:
            texts = (work(recording) for recording in recordings)
        bar = progress(total=len(todo), description="transcribing", unit="file")
        with bar, closing(texts):
            for row, text in zip(todo.itertuples(), texts, strict=True):
                if isinstance(text, RecordingError):
                    raise text
                kept.add(row.audio_sha256, row.id, text)
                bar.update()
        return [kept[key] for key in rows["audio_sha256"]], len(todo)


@cache
def _loaded(recogniser: Recogniser, device: str) -> Transcribe:
    with quiet_transformers():
        return recogniser.load(torch.device(device))


def _transcribe_recording(
    recogniser: Recogniser, device: str, recording: tuple[Path, str]
) -> str | RecordingError:
    """The text of a file that has this SHA-256."""
    wave = try_audio(*recording)
    if isinstance(wave, RecordingError):
        return wave
    return _loaded(recogniser, device)(wave)
