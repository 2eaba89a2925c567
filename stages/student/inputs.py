"""What a student is trained from: the manifest and the caches, held against each other.

Nothing is trained from features or targets of other recordings or texts than the
manifest names now.

A split's features lie in memory, end to end. Where several processes train, or where
half of the memory is too little, they are written to one file, float32, and mapped:
they then take memory once, however many the processes, and give it back when it is
wanted.
"""

import fcntl
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stages.cache.digest import Digest, read_digest
from stages.cache.format import unwritable
from stages.cache.store import CacheReader
from stages.core.errors import CacheError, InputError
from stages.core.files import atomic_path
from stages.core.hashing import fingerprint, hash_bytes, hash_code, hash_file
from stages.core.manifest import (
    read_intents,
    read_manifest,
    read_quarantine,
    usable_rows,
)
from stages.core.runtime import choose_device
from stages.core.text import normalise_text
from stages.student.batches import Utterances
from stages.student.params import StudentParams, as_numbers

TARGETED = ("train", "valid")  # test is never compared with the teacher


@dataclass(frozen=True)
class Job:
    """All that decides what a process trains; travels to other processes."""

    params: StudentParams
    system: str
    alpha: float | None
    manifest: Path
    acoustic: Path
    acoustic_digest: Path
    quarantine: Path
    targets: Path | None
    targets_digest: Path | None
    device: str
    unfinished: Path | None = None

    def checkpoint(self, name: str) -> Path | None:
        """Where a training called `name` is kept while it lasts."""
        return None if self.unfinished is None else self.unfinished / f"{name}.pt"

    @property
    def name(self) -> str:
        """Of a folder for what the job trains; other jobs have others."""
        seeds = list(self.params.seeds)
        return fingerprint({"student": self.identity(0), "seeds": seeds})[:24]

    @cached_property
    def inputs(self) -> dict[str, str | None]:
        """The hash of each file that decides what is trained; None of none.

        Raises:
            CacheError: one is missing.
        """
        read = {
            "manifest": self.manifest,
            "acoustic": self.acoustic_digest,
            "quarantine": self.quarantine,
            "targets": self.targets_digest,
        }
        return {
            name: None if path is None else _hash_input(path)
            for name, path in read.items()
        }

    def identity(self, seed: int) -> str:
        """Of all that decides what the student of `seed` becomes."""
        return fingerprint(
            {
                "parameters": parameters_without(self.params, "alpha", "seeds"),
                "system": self.system,
                "alpha": None if self.alpha is None else float(self.alpha),
                "seed": seed,
                "inputs": self.inputs,
                "code": hash_code(Path(__file__).parent),
                "device": choose_device(self.device).type,
            }
        )


class Inputs:
    """The manifest and the caches of a job, checked; features are not loaded yet.

    Raises:
        PipelineError: a file is missing or damaged, or features or targets are missing
            or not those of this manifest.
    """

    def __init__(self, job: Job) -> None:
        table = read_manifest(job.manifest)
        path = job.manifest.with_name("intents.json")
        self.intents = read_intents(path)
        if self.intents != sorted(table[table["split"] == "train"]["intent"].unique()):
            raise InputError(
                "not the intents of the manifest beside it",
                path=path,
                fix="run `aln-pipeline prepare-corpus`",
            )
        table = usable_rows(job.manifest, table, read_quarantine(job.quarantine))
        self.tables = {split: rows for split, rows in table.groupby("split")}
        digest = read_digest(job.acoustic_digest)
        for id, audio in zip(table["id"], table["audio_sha256"], strict=True):
            if id not in digest.rows or digest.rows[id][0] != audio:
                raise CacheError(
                    f"older than the manifest: no features of {id!r} as it is now",
                    path=job.acoustic_digest,
                    fix="run `aln-pipeline extract-acoustic`",
                )
        self.acoustic = _open(job.acoustic, digest, table["audio_sha256"])
        self.targets: CacheReader | None = None
        if job.targets is not None and job.targets_digest is not None:
            texts = table.loc[table["split"].isin(TARGETED), "text"]
            digest = read_digest(job.targets_digest)
            known = {key for key, _ in digest.rows.values()}
            for text in texts:
                if text_key(text) not in known:
                    raise CacheError(
                        f"older than the manifest: no target of {text!r}",
                        path=job.targets_digest,
                        fix="run `aln-pipeline cache-targets`",
                    )
            self.targets = _open(job.targets, digest, texts.map(text_key))

    def load(
        self, split: str, device: torch.device, mapped: Path | None = None
    ) -> Utterances:
        """The utterances of `split`, in the manifest's order, with targets if any.

        Args:
            split: train, valid or test.
            device: where the tensors go.
            mapped: a folder, of this run alone, with files of features to be mapped;
                written unless another process has. None for features in memory.

        Raises:
            CacheError: the disk refuses.
        """
        table = self.tables[split]
        keys = table["audio_sha256"].tolist()
        if mapped is None:
            frames, offsets = self.acoustic.load(keys)
        else:
            frames, offsets = _map(self.acoustic, keys, mapped / f"{split}.float32")
        texts, vectors = None, None
        if self.targets is not None and split in TARGETED:
            keys, texts = np.unique(
                table["text"].map(text_key).to_numpy(str), return_inverse=True
            )
            vectors, _ = self.targets.load(keys.tolist())
        return Utterances.from_arrays(
            frames,
            offsets,
            self.labels(table["intent"]),
            texts=texts,
            vectors=vectors,
            device=device,
        )

    def fits(self) -> bool:
        """Whether half of the memory is enough for the features of all splits."""
        frames = sum(
            int(self.acoustic.lengths(table["audio_sha256"].tolist()).sum())
            for table in self.tables.values()
        )
        return 4 * frames * self.acoustic.header.dim <= _memory() / 2

    def labels(self, intents: pd.Series) -> np.ndarray:
        """Class numbers (U) int64."""
        numbers = {intent: number for number, intent in enumerate(self.intents)}
        return np.array([numbers[intent] for intent in intents])

    def network(self, job: Job) -> dict[str, Any]:
        """The arguments of the job's `AcousticLinguisticNetwork`."""
        return {
            "system": job.system,
            "acoustic_dim": self.acoustic.header.dim,
            "linguistic_dim": (
                self.targets.header.dim
                if self.targets and job.system != "baseline2"
                else None
            ),
            "intents": len(self.intents),
            **job.params.architecture(),
        }


def _memory() -> float:
    """Bytes of memory that there are, or that a container may use."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
    except OSError:
        return there
    return min(there, int(allowed)) if allowed.isdecimal() else there


def _map(
    reader: CacheReader, keys: Sequence[str], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """As `reader.load`, the frames mapped from `path`, which is written if need be."""
    offsets = np.concatenate([[0], np.cumsum(reader.lengths(keys))])
    try:
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until one process has written it
            if not path.exists():
                # Not through the map: on a full disk that would end the process.
                with atomic_path(path, flush=False) as beside, beside.open("wb") as to:
                    for key in keys:
                        to.write(reader[key].astype(np.float32).tobytes())
        shape = (int(offsets[-1]), reader.header.dim)
        frames = np.memmap(path, np.float32, "r+", shape=shape)
    except OSError as error:
        raise unwritable(path, error) from error
    return frames.view(np.ndarray), offsets


def _hash_input(path: Path) -> str:
    try:
        return hash_file(path)
    except FileNotFoundError:
        fix = "run `dvc repro acoustic targets`"
        raise CacheError("no such file", path=path, fix=fix) from None


def parameters_without(params: StudentParams, *names: str) -> dict[str, Any]:
    """`params` by name, but for those called `names`; see `params.as_numbers`."""
    return {k: v for k, v in as_numbers(asdict(params)).items() if k not in names}


def text_key(text: str) -> str:
    """The key of a text's target."""
    return hash_bytes(normalise_text(text).encode())


def _open(directory: Path, digest: Digest, keys: pd.Series) -> CacheReader:
    """The features that `digest` speaks of, held against it.

    Raises:
        CacheError: features of `keys` that are missing, damaged or others.
    """
    reader = CacheReader(directory, fingerprint=digest.header.fingerprint)
    hashes = dict(digest.rows.values())
    reader.check({key: hashes[key] for key in keys.unique()})
    return reader
