"""Extraction: every recording of the manifest through the frozen encoder, once.

Reads the manifest, the recordings that are not cached yet, and the encoder. Writes
parts of the feature cache, its digest, and `quarantine.csv`: the recordings that were
set aside. A recording is known by the hash of its bytes and the encoder by the
fingerprint of its weights, front end and resampling; what is cached for that pair is
never computed again. An interrupted run keeps its finished parts, and the next one goes
on from there.
"""

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from stages.acoustic.params import AcousticParams
from stages.cache.digest import write_digest
from stages.cache.store import CacheWriter
from stages.core.errors import (
    InputError,
    RecordingError,
)
from stages.core.manifest import read_manifest, write_quarantine
from stages.core.runtime import progress

if TYPE_CHECKING:
    pass
from stages.acoustic.encoding import (
    as_stored,
    choose_runtime,
    encode_recordings,
    feature_header,
    load_encoder,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What the stage wrote."""

    cache: Path
    utterances: int
    extracted: int
    kept: int
    frames: int
    set_aside: int
    quarantine: Path

    def __str__(self) -> str:
        told = (
            f"{self.cache}: {self.utterances} utterances, {self.extracted} extracted "
            f"now ({self.frames} frames), {self.kept} kept"
        )
        if shared := self.utterances - self.extracted - self.kept:
            told += f", {shared} of the same bytes as another"
        if self.set_aside:
            told += f"; {self.set_aside} set aside, named in {self.quarantine}"
        return told


def run(
    params: AcousticParams,
    *,
    manifest: Path,
    audio: Path,
    cache: Path,
    digest: Path,
    quarantine: Path,
    on_error: str = "stop",
    longest_seconds: float = 120.0,
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
        quarantine: file that names the recordings set aside.
        on_error: what to do about a recording that is no audio, empty or too long:
            stop, or quarantine it.
        longest_seconds: of a recording.
        device: auto, cpu or cuda.
        workers: processes that read, resample and encode; on CUDA, threads that read
            and resample while the device encodes.
        backend: onnx (ONNX Runtime, on the CPU), torch, or auto: onnx for the
            phoneme/word encoder on the CPU, else torch. None of the three changes a
            feature by more than rounding.

    Raises:
        ConfigurationError: a backend or precision that does not go with the rest.
        InputError: no manifest, a bad checkpoint, or a recording that is missing or
            has changed; what was computed before it is kept.
        RecordingError: likewise, a recording is bad and `on_error` is stop.
        CacheError: a damaged part, or another run is writing.
    """
    table = read_manifest(manifest)
    encoder = load_encoder(params)
    header = feature_header(encoder, params)
    runtime = choose_runtime(encoder, params, device, backend, workers)
    bad: dict[str, RecordingError] = {}  # by hash of the bytes

    def refuse(row: Any, error: RecordingError) -> None:
        if on_error == "stop":
            raise error
        log.warning("set aside %s: %s", audio / row.path, error.reason)
        bad[row.audio_sha256] = error

    with CacheWriter(cache, header) as writer:
        # Of recordings with the same bytes, one is enough.
        distinct = table.drop_duplicates("audio_sha256").sort_values(["seconds", "id"])
        longest = min(longest_seconds, encoder.longest_seconds or longest_seconds)
        for row in distinct[distinct["seconds"] > longest].itertuples():
            error = _too_long(
                audio / row.path, row.seconds, longest_seconds, encoder.longest_seconds
            )
            refuse(row, error)
        absent = set(writer.missing(distinct["audio_sha256"])) - bad.keys()
        todo = distinct[distinct["audio_sha256"].isin(absent)]
        extracted = frames = 0
        features = encode_recordings(todo, audio, encoder, runtime, graphs=cache)
        bar = progress(total=len(todo), description="extracting", unit="file")
        # Closed at once if a feature is refused: processes may be at work for it.
        with bar, closing(features):
            for row, one in features:
                if isinstance(one, RecordingError):
                    refuse(row, one)
                else:
                    writer.add(row.id, row.audio_sha256, as_stored(one, params.dtype))
                    extracted += 1
                    frames += len(one)
                bar.update()
        writer.flush()
        good = table[~table["audio_sha256"].isin(bad)]
        _write_quarantine(quarantine, table, bad)
        if good.empty:
            raise InputError(
                "no recording of the manifest can be used",
                path=manifest,
                found=f"{len(table)} set aside",
                fix=f"see {quarantine}",
            )
        # Under the lock, since `cache gc` removes what the digest does not name.
        pairs = zip(good["id"], good["audio_sha256"], strict=True)
        write_digest(digest, cache, header.fingerprint, pairs)
    set_aside = len(table) - len(good)
    kept = good["audio_sha256"].nunique() - extracted
    return Summary(cache, len(good), extracted, kept, frames, set_aside, quarantine)


def _too_long(
    path: Path, seconds: float, longest: float, window: float | None
) -> RecordingError:
    """An error about a recording of more than `longest` seconds or the `window`."""
    limit = "corpus.longest_seconds"
    fix = "cut it, drop its row, raise that, or use --on-error quarantine"
    if window is not None and window <= longest:
        longest, limit = window, "the encoder's window"
        fix = "cut it, drop its row, or use --on-error quarantine"
    return RecordingError(
        "the recording is too long",
        path=path,
        found=f"{seconds:.1f} seconds",
        expected=f"at most {longest:g}, {limit}",
        fix=fix,
    )


def _write_quarantine(
    path: Path, table: pd.DataFrame, bad: dict[str, RecordingError]
) -> None:
    rows = table[table["audio_sha256"].isin(bad)]
    reasons = [bad[key].reason for key in rows["audio_sha256"]]
    write_quarantine(path, rows.assign(reason=reasons))
