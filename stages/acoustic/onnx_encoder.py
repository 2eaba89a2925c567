"""The encoder in ONNX Runtime, and worker processes that read recordings and run it.

An utterance's features have the same bits in any batch (see `frames.LEAST_FRAMES`) and
any process. Does not import torch, so processes start fast.
"""

from collections.abc import Generator, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from stages.acoustic.frames import FRAME_STEP, LEAST_FRAMES, frame_count
from stages.core.errors import RecordingError
from stages.core.runtime import open_onnx
from stages.core.workers import run_in_processes
from stages.speech.loading import Change, encode_good, try_audio


class OnnxEncoder:
    """Runs a graph of `graph.build_graph`.

    Args:
        path: the graph's file.
    """

    def __init__(self, path: Path) -> None:
        self._session = open_onnx(path)

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """e_acoust of each wave, (frames, 256) float32, as if it were encoded alone.

        Args:
            waves: each (samples,) float32 at 16 kHz, not empty. Similar lengths need
                little padding.
        """
        counts = [frame_count(len(wave)) for wave in waves]
        frames = max(LEAST_FRAMES, *counts)
        batch = np.zeros((len(waves), frames * FRAME_STEP), np.float32)
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = wave
        samples = np.array([len(wave) for wave in waves], np.int64)
        (features,) = self._session.run(None, {"waves": batch, "samples": samples})
        return [one[:count].copy() for one, count in zip(features, counts, strict=True)]


Recording = tuple[Path, str]
"""A file and the SHA-256 of its bytes."""

Outcomes = list[np.ndarray | RecordingError]
"""Features (frames, D) of each recording, or its error."""


def encode_in_processes(
    batches: Iterable[Sequence[Recording]],
    graph: Path,
    processes: int,
    change: Change | None = None,
) -> Generator[Outcomes, None, None]:
    """Encode batches of recordings in worker processes; yields them in order.

    Args:
        batches: recordings of similar length.
        graph: the graph's file.
        processes: number of workers.
        change: applied to each recording first; must be picklable.

    Raises:
        InputError: a recording is missing or has changed.
        PipelineError: a process died.
    """
    return run_in_processes(
        partial(_encode_recordings, graph),
        batches,
        processes,
        preload=[__name__],
        begin=partial(_begin, change),
    )


# Set once in each worker, since it can be megabytes.
_change: Change | None = None


def _begin(change: Change | None) -> None:
    global _change
    _change = change


@cache
def _encoder(graph: Path) -> OnnxEncoder:
    return OnnxEncoder(graph)


def _encode_recordings(graph: Path, batch: Sequence[Recording]) -> Outcomes:
    # Not loaded when the worker starts, where an error would only be reported as a dead
    # worker.
    encoder = _encoder(graph)
    waves = [try_audio(path, sha256, _change) for path, sha256 in batch]
    return encode_good(encoder.encode, waves)
