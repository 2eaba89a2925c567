"""What students are trained from: the manifest and the caches, checked.

Nothing is trained on features or targets of other recordings or texts than the manifest
has now.

A split's features are in memory, end to end. Where several processes train, or where
half of the memory is too little, they are written to one float32 file and mapped: they
then take memory once for all processes, and the system can reclaim it.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stages.cache.digest import Digest, digest_path, read_digest
from stages.cache.format import unwritable
from stages.cache.store import CacheReader
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import CacheError
from stages.core.files import atomic_path
from stages.core.manifest import read_labels
from stages.core.results import hash_input, identify
from stages.core.text import text_key
from stages.student.batches import Utterances
from stages.student.params import REVISION, Variant

TARGETED = ("train", "valid")  # test is never compared with the teacher


@dataclass(frozen=True)
class Sources:
    """Where the inputs of students are.

    Attributes:
        corpus: its tables.
        acoustic: the cache of acoustic features; its digest is next to it.
        targets: the cache of the teacher's vectors; likewise. None if none are needed.
    """

    corpus: CorpusFiles
    acoustic: Path
    targets: Path | None = None

    def files(self, *, with_targets: bool = True) -> dict[str, Path]:
        """The files that decide what is trained, by what they are called.

        Raises:
            CacheError: one is missing.
        """
        files = {
            "manifest": self.corpus.manifest,
            "intents": self.corpus.intents,
            "acoustic": digest_path(self.acoustic),
            "quarantine": self.corpus.quarantine,
        }
        if with_targets and self.targets is not None:
            files["targets"] = digest_path(self.targets)
        for path in files.values():
            if not path.is_file():
                fix = "run `dvc repro acoustic targets`"
                raise CacheError("no such file", path=path, fix=fix)
        return files

    def hashes(self) -> dict[str, str | None]:
        """The hashes of `files`, targets included.

        Raises:
            CacheError: a file is missing.
        """
        return {name: hash_input(path) for name, path in self.files().items()}

    def identify(self, variant: Variant) -> dict[str, Any]:
        """The identity of the student that `variant` becomes, with all its seeds.

        Raises:
            CacheError: a file is missing.
        """
        files = self.files(with_targets=variant.transfers)
        return identify("student", REVISION, variant.parameters(), files)


class Inputs:
    """The manifest and the caches, checked; features are not loaded yet.

    Attributes:
        labels: the intents, or the slots and their values.
        tables: the manifest's usable rows by split.
        acoustic: reads the features.
        targets: reads the teacher's vectors; None without targets.

    Raises:
        PipelineError: a file is missing or damaged, or features or targets are missing
            or not those of this manifest.
    """

    def __init__(self, sources: Sources, *, with_targets: bool) -> None:
        corpus = sources.corpus
        table = corpus.read_usable()
        self.labels = read_labels(corpus.intents)
        self.tables = {split: rows for split, rows in table.groupby("split")}
        self.acoustic = _open_features(sources.acoustic, table)
        self.targets: CacheReader | None = None
        if with_targets and sources.targets is not None:
            texts = table.loc[table["split"].isin(TARGETED), "text"]
            self.targets = _open_targets(sources.targets, texts)

    def load(
        self, split: str, device: torch.device, mapped: Path | None = None
    ) -> Utterances:
        """The utterances of `split`, in the manifest's order, with targets if any.

        Args:
            split: train, valid or test.
            device: where the tensors go.
            mapped: the folder that `write_mapped` filled; None loads features into
                memory.
        """
        table = self.tables[split]
        keys = table["audio_sha256"].tolist()
        if mapped is None:
            frames, offsets = self.acoustic.load(keys)
        else:
            offsets = np.concatenate([[0], np.cumsum(self.acoustic.lengths(keys))])
            shape = (int(offsets[-1]), self.acoustic.header.dim)
            path = _mapped_file(mapped, split)
            # Writable, since torch takes no other; nothing writes.
            frames = np.memmap(path, np.float32, "r+", shape=shape).view(np.ndarray)
        texts, vectors = None, None
        if self.targets is not None and split in TARGETED:
            keys, texts = np.unique(
                table["text"].map(text_key).to_numpy(str), return_inverse=True
            )
            vectors, _ = self.targets.load(keys.tolist())
        return Utterances.from_arrays(
            frames,
            offsets,
            self.numbers(split),
            texts=texts,
            vectors=vectors,
            device=device,
        )

    def write_mapped(self, folder: Path) -> None:
        """Write each split's features, (N, D) float32, to a file to be mapped.

        Raises:
            CacheError: the disk refuses.
        """
        for split, table in self.tables.items():
            path = _mapped_file(folder, split)
            try:
                # Not through a map: on a full disk that would end the process.
                with (
                    atomic_path(path, flush=False) as temporary,
                    temporary.open("wb") as stream,
                ):
                    for key in table["audio_sha256"]:
                        frames = self.acoustic[key].astype(np.float32)
                        stream.write(frames.tobytes())
            except OSError as error:
                raise unwritable(path, error) from error

    def fits(self) -> bool:
        """Whether half of the memory is enough for the features of all splits."""
        frames = sum(
            int(self.acoustic.lengths(table["audio_sha256"].tolist()).sum())
            for table in self.tables.values()
        )
        return 4 * frames * self.acoustic.header.dim <= _memory() / 2

    def numbers(self, split: str) -> np.ndarray:
        """Class numbers (U, slots) int64 of the utterances of `split`."""
        return self.labels.numbers(self.tables[split]["intent"])

    def network(self, variant: Variant) -> dict[str, Any]:
        """The arguments of `model.build` for a variant."""
        dim = self.targets.header.dim if self.targets and variant.transfers else None
        return {
            "system": variant.system,
            "acoustic_dim": self.acoustic.header.dim,
            "linguistic_dim": dim,
            "values": self.labels.sizes,
            "architecture": asdict(variant.architecture),
        }


def _memory() -> float:
    """Bytes of memory of the machine, or that a container is allowed."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
    except OSError:
        return there
    return min(there, int(allowed)) if allowed.isdecimal() else there


def _mapped_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.float32"


def _open_features(directory: Path, table: pd.DataFrame) -> CacheReader:
    """The features of the manifest's rows.

    Raises:
        CacheError: features that are missing, damaged or of other recordings.
    """
    digest = read_digest(digest_path(directory))
    for id, audio in zip(table["id"], table["audio_sha256"], strict=True):
        if id not in digest.rows or digest.rows[id][0] != audio:
            raise CacheError(
                f"older than the manifest: no features of {id!r} as it is now",
                path=digest_path(directory),
                fix="run `aln-pipeline extract-acoustic`",
            )
    return _open(directory, digest, table["audio_sha256"])


def _open_targets(directory: Path, texts: pd.Series) -> CacheReader:
    """The targets of `texts`.

    Raises:
        CacheError: targets that are missing or damaged.
    """
    digest = read_digest(digest_path(directory))
    known = {key for key, _ in digest.rows.values()}
    for text in texts:
        if text_key(text) not in known:
            raise CacheError(
                f"older than the manifest: no target of {text!r}",
                path=digest_path(directory),
                fix="run `aln-pipeline cache-targets`",
            )
    return _open(directory, digest, texts.map(text_key))


def _open(directory: Path, digest: Digest, keys: pd.Series) -> CacheReader:
    """The features in `digest`, those of `keys` checked against it."""
    reader = CacheReader(directory, fingerprint=digest.header.fingerprint)
    hashes = dict(digest.rows.values())
    reader.check({key: hashes[key] for key in keys.unique()})
    return reader
