"""Extraction: run the frozen encoder on every recording, once.

Reads the manifest, the encoder, and the recordings whose features are not cached yet.
Writes the feature cache, its digest, and `quarantine.csv`, the list of recordings that
cannot be used. Features are cached by the hash of the recording's bytes and the
fingerprint of the encoder (weights, front end, resampling), so nothing is encoded
twice. An interrupted run keeps its finished parts; run the command again to resume.
"""

import logging
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from stages.acoustic.encoding import (
    as_stored,
    choose_runtime,
    encode_recordings,
    feature_header,
    load_encoder,
)
from stages.acoustic.params import AcousticParams
from stages.cache.digest import digest_path, write_digest
from stages.cache.store import CacheWriter
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import InputError, RecordingError
from stages.core.manifest import read_manifest, write_quarantine
from stages.core.runtime import RunOptions, progress

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
        line = (
            f"{self.cache}: {self.utterances} utterances, {self.extracted} extracted "
            f"now ({self.frames} frames), {self.kept} kept"
        )
        if same := self.utterances - self.extracted - self.kept:
            line += f", {same} with the same bytes as another"
        if self.set_aside:
            line += f"; {self.set_aside} set aside, listed in {self.quarantine}"
        return line


def run(
    params: AcousticParams,
    corpus: CorpusFiles,
    *,
    audio: Path,
    cache: Path,
    on_error: str = "stop",
    longest_seconds: float = 120.0,
    options: RunOptions,
) -> Summary:
    """Extract the features that are missing, then write the digest.

    Args:
        params: the encoder and how features are stored.
        corpus: its manifest is read, its quarantine list is written.
        audio: folder that the manifest's paths are relative to.
        cache: folder of the features; the digest is written next to it.
        on_error: stop, or quarantine a recording that is not audio, empty or too long.
        longest_seconds: the longest recording that is accepted.
        options: how to run. On CUDA, workers are threads that read recordings.

    Raises:
        ConfigurationError: a device, backend or precision that cannot be combined.
        InputError: no manifest, an unusable checkpoint, or a recording that is missing,
            has changed, or cannot be used (unless `on_error` is quarantine).
        CacheError: a damaged part, or another process is writing.
    """
    table = read_manifest(corpus.manifest)
    encoder = load_encoder(params)
    header = feature_header(encoder, params)
    runtime = choose_runtime(encoder, params, options)
    # One of all recordings with the same bytes, shortest first.
    distinct = table.drop_duplicates("audio_sha256").sort_values(["seconds", "id"])
    bad = _SetAside(audio, stop=on_error == "stop")
    frames = []  # of each recording extracted now
    with CacheWriter(cache, header) as writer:
        bad.add_too_long(distinct, longest_seconds, encoder.longest_seconds)
        missing = set(writer.missing(distinct["audio_sha256"])) - bad.errors.keys()
        todo = distinct[distinct["audio_sha256"].isin(missing)]
        features = encode_recordings(todo, audio, encoder, runtime, graphs=cache)
        bar = progress(total=len(todo), description="extracting", unit="file")
        # Closed if a feature is refused, since worker processes may be running.
        with bar, closing(features):
            for row, one in features:
                if isinstance(one, RecordingError):
                    bad.add(row, one)
                else:
                    writer.add(row.id, row.audio_sha256, as_stored(one, params.dtype))
                    frames.append(len(one))
                bar.update()
        writer.flush()
        good = bad.write(corpus, table)
        # Still locked, since `cache gc` removes what the digest does not name.
        pairs = zip(good["id"], good["audio_sha256"], strict=True)
        write_digest(digest_path(cache), cache, header.fingerprint, pairs)
    extracted, set_aside = len(frames), len(table) - len(good)
    kept = good["audio_sha256"].nunique() - extracted
    counts = (len(good), extracted, kept, sum(frames), set_aside)
    return Summary(cache, *counts, corpus.quarantine)


@dataclass
class _SetAside:
    """The recordings that cannot be used.

    Attributes:
        audio: folder of the recordings.
        stop: whether to raise the first error instead.
        errors: by the hash of the recording's bytes.
    """

    audio: Path
    stop: bool
    errors: dict[str, RecordingError] = field(default_factory=dict)

    def add(self, row: Any, error: RecordingError) -> None:
        """Set the recording of a manifest row aside."""
        if self.stop:
            raise error
        log.warning("set aside %s: %s", self.audio / row.path, error.reason)
        self.errors[row.audio_sha256] = error

    def add_too_long(
        self, table: pd.DataFrame, longest: float, window: float | None
    ) -> None:
        """Set aside what is longer than `longest` seconds or the encoder's window."""
        limit = "corpus.longest_seconds"
        fix = "cut it, drop its row, raise that, or use --on-error quarantine"
        if window is not None and window <= longest:
            longest, limit = window, "the encoder's window"
            fix = "cut it, drop its row, or use --on-error quarantine"
        for row in table[table["seconds"] > longest].itertuples():
            error = RecordingError(
                "the recording is too long",
                path=self.audio / row.path,
                found=f"{row.seconds:.1f} seconds",
                expected=f"at most {longest:g}, {limit}",
                fix=fix,
            )
            self.add(row, error)

    def write(self, corpus: CorpusFiles, table: pd.DataFrame) -> pd.DataFrame:
        """Write the quarantine list; return the rows of `table` that can be used."""
        unusable = table["audio_sha256"].isin(self.errors)
        rows = table[unusable]
        reasons = [self.errors[key].reason for key in rows["audio_sha256"]]
        write_quarantine(corpus.quarantine, rows.assign(reason=reasons))
        if unusable.all():
            raise InputError(
                "none of the manifest's recordings can be used",
                path=corpus.manifest,
                found=f"{len(table)} set aside",
                fix=f"see {corpus.quarantine}",
            )
        return table[~unusable]
