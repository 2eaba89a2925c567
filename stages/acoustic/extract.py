"""Extraction: every recording of the manifest through the frozen encoder, once.

Reads the manifest, the recordings that are not cached yet, and the checkpoint. Writes
parts of the feature cache and its digest. A recording is known by the hash of its
bytes and the encoder by the fingerprint of its weights, front end and resampling; what
is cached for that pair is never computed again. An interrupted run keeps its finished
parts, and the next one goes on from there.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stages.acoustic.audio import RESAMPLING, load_audio
from stages.acoustic.checkpoint import Checkpoint, load_checkpoint
from stages.acoustic.encoder import Encoder
from stages.acoustic.frames import (
    FRAME_STEP,
    LEAST_SECONDS,
    SAMPLE_RATE,
    frame_count,
)
from stages.acoustic.params import AcousticParams
from stages.atomic import atomic_path
from stages.cache import CacheWriter, Header, unwritable, write_digest
from stages.errors import ConfigurationError
from stages.manifest import read_manifest
from stages.provenance import fingerprint
from stages.runtime import choose_device, one_thread, progress

# About 20 minutes of speech, 8 MB: what a killed run loses at most.
_PART_FRAMES = 8192

# Seconds of audio encoded at once; utterances of one batch are of similar length.
_BATCH_SECONDS = {"cpu": 15.0, "cuda": 1200.0}

# Seconds of audio that are worth the start of processes.
_PROCESSES_SECONDS = 900.0

BACKENDS = ("auto", "onnx", "torch")

Features = Generator[tuple[Any, np.ndarray], None, None]
"""Rows of the manifest, each with its features (frames, D)."""


@dataclass(frozen=True)
class Summary:
    """What the stage wrote."""

    cache: Path
    utterances: int
    extracted: int
    frames: int

    def __str__(self) -> str:
        return (
            f"{self.cache}: {self.utterances} utterances, {self.extracted} extracted "
            f"now ({self.frames} frames), {self.utterances - self.extracted} kept"
        )


def run(
    params: AcousticParams,
    *,
    manifest: Path,
    audio: Path,
    cache: Path,
    digest: Path,
    device: str = "auto",
    workers: int = 2,
    backend: str = "auto",
) -> Summary:
    """Bring the cache up to the manifest, then write the digest.

    Args:
        params: encoder and storage.
        manifest: the utterance table.
        audio: the folder that its paths are relative to.
        cache: folder of the part files.
        digest: file that later stages depend on.
        device: auto, cpu or cuda.
        workers: processes that read, resample and encode; on CUDA, threads that read
            and resample while the device encodes.
        backend: onnx (ONNX Runtime, on the CPU), torch, or auto: torch on CUDA, else
            onnx. None of the three changes a feature by more than rounding.

    Raises:
        ConfigurationError: an unknown backend, or onnx on CUDA.
        InputError: no manifest, a bad checkpoint, or a recording that is missing,
            changed, or not audio; what was computed before it is kept.
        CacheError: a damaged part, or another run is writing.
    """
    table = read_manifest(manifest)
    checkpoint = load_checkpoint(Path(params.encoder))
    header = feature_header(checkpoint, params)
    target = choose_device(device)
    runtime = _choose_backend(backend, target)
    with CacheWriter(cache, header, part_frames=_PART_FRAMES) as writer:
        absent = set(writer.missing(table["audio_sha256"]))
        todo = table[table["audio_sha256"].isin(absent)]
        # Of recordings with the same bytes, one is enough.
        todo = todo.drop_duplicates("audio_sha256").sort_values(["seconds", "id"])
        frames = 0
        if runtime == "onnx":
            features = _by_onnx(todo, audio, cache, checkpoint, workers)
        else:
            features = _by_torch(todo, audio, checkpoint.encoder.to(target), workers)
        bar = progress(total=len(todo), description="extracting", unit="file")
        # Closed at once if a feature is refused: processes may be at work for it.
        with bar, closing(features):
            for row, one in features:
                writer.add(row.id, row.audio_sha256, one.astype(params.dtype))
                frames += len(one)
                bar.update()
        writer.flush()
        # Under the lock, since `cache gc` removes what the digest does not name.
        pairs = zip(table["id"], table["audio_sha256"], strict=True)
        write_digest(digest, cache, header.fingerprint, pairs)
    return Summary(cache, len(table), len(todo), frames)


def feature_header(checkpoint: Checkpoint, params: AcousticParams) -> Header:
    """What the cache says of these features; its fingerprint is their identity."""
    configuration = asdict(checkpoint.encoder.configuration)
    identity = {
        "encoder": checkpoint.fingerprint,
        "resampling": RESAMPLING,
        "sample_rate": SAMPLE_RATE,
        "dtype": params.dtype,
    }
    return Header(
        kind="acoustic",
        encoder=f"lugosch {checkpoint.encoder.configuration.front_end}",
        fingerprint=fingerprint(identity),
        parameters={**identity, "configuration": configuration},
        dim=checkpoint.encoder.dim,
        dtype=params.dtype,
        frame_step=FRAME_STEP,
    )


@torch.inference_mode()
def encode(encoder: Encoder, waves: list[np.ndarray]) -> list[np.ndarray]:
    """e_acoust of each wave, (frames, 256) float32, as if it were alone.

    Args:
        encoder: frozen, on any device.
        waves: each (samples,) float32 at 16 kHz.
    """
    assert not encoder.training
    device = next(encoder.parameters()).device
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in enumerate(waves):
        batch[row, : len(wave)] = torch.from_numpy(wave)
    alike = bool((lengths == lengths[0]).all())
    counts = None if alike else lengths.to(device)
    # By default cuDNN rounds to TF32, whose error is a thousand times float32's.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        features = encoder(batch.to(device), counts).cpu().numpy()
    return [
        features[row, : frame_count(len(wave))].copy() for row, wave in enumerate(waves)
    ]


def _choose_backend(name: str, device: torch.device) -> str:
    if name not in BACKENDS:
        raise ConfigurationError(
            "unknown backend",
            found=repr(name),
            expected=f"one of {', '.join(BACKENDS)}",
        )
    if name == "onnx" and device.type != "cpu":
        raise ConfigurationError(
            "the onnx backend runs on the CPU alone",
            found=f"device {device.type}",
            fix="use --backend torch, or --device cpu",
        )
    if name == "auto":
        name = "onnx" if device.type == "cpu" else "torch"
    return name


def _graph(cache: Path, checkpoint: Checkpoint) -> Path:
    """The encoder's ONNX graph, beside the parts in place of another's."""
    from stages.acoustic.graph import build_graph

    path = cache / f"encoder-{checkpoint.fingerprint[:32]}.onnx"
    graph = build_graph(checkpoint.encoder)
    # Built anew in hundredths of a second, since a damaged file would give features
    # that nobody could tell from right ones.
    if not path.is_file() or path.read_bytes() != graph:
        try:
            for other in cache.glob("encoder-*.onnx"):
                other.unlink()
            with atomic_path(path) as beside:
                beside.write_bytes(graph)
        except OSError as error:
            raise unwritable(path, error) from error
    return path


def _by_onnx(
    todo: pd.DataFrame, audio: Path, cache: Path, checkpoint: Checkpoint, workers: int
) -> Features:
    from stages.acoustic.session import Session, encode_in_processes

    if todo.empty:
        return
    graph = _graph(cache, checkpoint)
    batches = _batches(todo, _BATCH_SECONDS["cpu"])
    if workers == 1 or todo["seconds"].sum() < _PROCESSES_SECONDS:
        yield from _encode_here(batches, audio, Session(graph).encode, 1)
        return
    recordings = (
        [(audio / row.path, row.audio_sha256) for row in batch] for batch in batches
    )
    encoded = encode_in_processes(recordings, graph, workers)
    with closing(encoded):
        for batch, features in zip(batches, encoded, strict=True):
            yield from zip(batch, features, strict=True)


def _by_torch(
    todo: pd.DataFrame, audio: Path, encoder: Encoder, workers: int
) -> Features:
    device = next(encoder.parameters()).device.type
    batches = _batches(todo, _BATCH_SECONDS[device])

    with one_thread():
        yield from _encode_here(batches, audio, partial(encode, encoder), workers)


def _batches(todo: pd.DataFrame, seconds: float) -> list[list[Any]]:
    """Rows, by rising length, in batches of about so many seconds with padding."""
    batches: list[list[Any]] = [[]]
    for row in todo.itertuples(index=False):
        longest = max(row.seconds, LEAST_SECONDS)
        if batches[-1] and (len(batches[-1]) + 1) * longest > seconds:
            batches.append([])
        batches[-1].append(row)
    return batches if batches[-1] else []


def _encode_here(
    batches: Sequence[list[Any]],
    audio: Path,
    encode: Callable[[list[np.ndarray]], list[np.ndarray]],
    threads: int,
) -> Features:
    """Encode in this process, while threads read the batch after."""
    with ThreadPoolExecutor(threads) as pool:

        def start(batch: list[Any]) -> list[Any]:
            return [
                pool.submit(load_audio, audio / row.path, row.audio_sha256)
                for row in batch
            ]

        ahead = start(batches[0]) if batches else []
        try:
            for batch, after in pairwise([*batches, []]):
                waves = [future.result() for future in ahead]
                ahead = start(after)
                yield from zip(batch, encode(waves), strict=True)
        finally:
            for future in ahead:
                future.cancel()
