"""Extraction: every recording of the manifest through the frozen encoder, once.

Reads the manifest, the recordings that are not cached yet, and the checkpoint. Writes
parts of the feature cache and its digest. A recording is known by the hash of its
bytes and the encoder by the fingerprint of its weights, front end and resampling; what
is cached for that pair is never computed again. An interrupted run keeps its finished
parts, and the next one goes on from there.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stages.acoustic.audio import RESAMPLING, load_audio
from stages.acoustic.checkpoint import Checkpoint, load_checkpoint
from stages.acoustic.encoder import FRAME_STEP, SAMPLE_RATE, Encoder, frame_count
from stages.acoustic.params import AcousticParams
from stages.cache import CacheWriter, Header, write_digest
from stages.manifest import read_manifest
from stages.provenance import fingerprint
from stages.runtime import choose_device, one_thread, progress

log = logging.getLogger(__name__)

# About 20 minutes of speech, 8 MB: what a killed run loses at most.
_PART_FRAMES = 8192

# Seconds of audio encoded at once; utterances of one batch are of similar length.
_BATCH_SECONDS = {"cpu": 60.0, "cuda": 1200.0}


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
) -> Summary:
    """Bring the cache up to the manifest, then write the digest.

    Args:
        params: encoder and storage.
        manifest: the utterance table.
        audio: the folder that its paths are relative to.
        cache: folder of the part files.
        digest: file that later stages depend on.
        device: auto, cpu or cuda.
        workers: threads that read and resample while the encoder works.

    Raises:
        InputError: no manifest, a bad checkpoint, or a recording that is missing,
            changed, or not audio; what was computed before it is kept.
        CacheError: a damaged part, or another run is writing.
    """
    table = read_manifest(manifest)
    checkpoint = load_checkpoint(Path(params.encoder))
    header = feature_header(checkpoint, params)
    target = choose_device(device)
    with CacheWriter(cache, header, part_frames=_PART_FRAMES) as writer:
        absent = set(writer.missing(table["audio_sha256"]))
        todo = table[table["audio_sha256"].isin(absent)]
        # Of recordings with the same bytes, one is enough.
        todo = todo.drop_duplicates("audio_sha256").sort_values(["seconds", "id"])
        frames = 0
        encoder = checkpoint.encoder.to(target)
        with (
            one_thread(),
            progress(total=len(todo), description="extracting", unit="file") as bar,
        ):
            for rows, waves in _batches(todo, audio, target, workers):
                for row, features in zip(rows, encode(encoder, waves), strict=True):
                    writer.add(row.id, row.audio_sha256, features.astype(params.dtype))
                    frames += len(features)
                    bar.update()
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


def _batches(
    todo: pd.DataFrame, audio: Path, device: torch.device, workers: int
) -> Iterator[tuple[list, list[np.ndarray]]]:
    """Rows in batches with their waves, read ahead by one batch."""
    groups: list[list] = [[]]
    for row in todo.itertuples(index=False):
        if (len(groups[-1]) + 1) * row.seconds > _BATCH_SECONDS[device.type]:
            groups.append([])
        groups[-1].append(row)
    groups = [group for group in groups if group]
    with ThreadPoolExecutor(workers) as pool:

        def start(group: list) -> list:
            return [
                pool.submit(load_audio, audio / row.path, row.audio_sha256)
                for row in group
            ]

        ahead = start(groups[0]) if groups else []
        try:
            for number, group in enumerate(groups):
                waves = [future.result() for future in ahead]
                ahead = start(groups[number + 1]) if number + 1 < len(groups) else []
                yield group, waves
        finally:
            for future in ahead:
                future.cancel()
