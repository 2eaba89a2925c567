"""What students are trained from: the manifest and the caches, checked.

Nothing is trained on features or targets of other recordings or texts than the manifest
has now.

A split's features are in memory, end to end. Where several processes train, or where
half of the memory is too little, they are written to one float32 file and mapped: they
then take memory once for all processes, and the system can reclaim it.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stages.cache.digest import Digest, digest_path, read_digest, summary_path
from stages.cache.format import Header, unwritable
from stages.cache.store import CacheReader
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import CacheError
from stages.core.files import atomic_path
from stages.core.labels import Labels
from stages.core.manifest import read_labels, read_texts
from stages.core.results import hash_input, identify, require
from stages.core.text import text_key
from stages.student.batches import Texts, Utterances
from stages.student.params import REVISION, Variant

_UNLABELLED = "run `aln-pipeline unlabelled`"
TARGETED = ("train", "valid")  # test is never compared with the teacher


@dataclass(frozen=True)
class Sources:
    """Where the inputs of students are.

    Attributes:
        corpus: its tables.
        acoustic: the cache of acoustic features; its digest is next to it.
        targets: the cache of the teacher's vectors; likewise. None if none are needed.
        posteriors: the cache of its probabilities; likewise.
        unlabelled: the folder of the stage unlabelled; likewise.
    """

    corpus: CorpusFiles
    acoustic: Path
    targets: Path | None = None
    posteriors: Path | None = None
    unlabelled: Path | None = None

    def files(self, variant: Variant) -> dict[str, Path]:
        """The files that decide what is trained, by what they are called.

        Raises:
            CacheError: one is missing.
        """
        files = self._audible()
        taught = self._taught()
        if variant.transfers:
            files["targets"] = taught["targets"]
        if variant.reads_texts:
            files["texts"] = taught["texts"]
        if variant.reads_posteriors:
            files["posteriors"] = taught["posteriors"]
        if variant.reads_unlabelled:
            files["unlabelled"] = taught["unlabelled"]
        return _check(files)

    def hashes(self) -> dict[str, str | None]:
        """The hashes of all files that students are trained from.

        None for what only students of a teacher need and is missing.

        Raises:
            CacheError: a file is missing that every student needs.
        """
        files = {**_check(self._audible()), **self._taught()}
        return {name: hash_input(path) for name, path in files.items()}

    def _audible(self) -> dict[str, Path]:
        """What every student is trained from."""
        return {
            "manifest": self.corpus.manifest,
            "intents": self.corpus.intents,
            "acoustic": digest_path(self.acoustic),
            "quarantine": self.corpus.quarantine,
        }

    def _taught(self) -> dict[str, Path]:
        """What a student of a teacher may also be trained from."""
        files = {"texts": self.corpus.texts}
        if self.targets:
            files["targets"] = summary_path(self.targets)
        if self.posteriors:
            files["posteriors"] = digest_path(self.posteriors)
        if self.unlabelled:
            files["unlabelled"] = self.unlabelled / "manifest.csv"
        return files

    def identify(self, variant: Variant) -> dict[str, Any]:
        """The identity of the student that `variant` becomes, with all its seeds.

        Raises:
            CacheError: a file is missing.
        """
        files = self.files(variant)
        return identify("student", REVISION, variant.parameters(), files)


def _check(files: dict[str, Path]) -> dict[str, Path]:
    for path in files.values():
        if not path.is_file():
            fix = "run `dvc repro acoustic targets`"
            raise CacheError("no such file", path=path, fix=fix)
    return files


class Inputs:
    """The manifest and the caches, checked; features are not loaded yet.

    Args:
        sources: where they are.
        variants: what is trained from them, for which targets and texts are read; none
            for features alone.

    Attributes:
        labels: the intents, or the slots and their values.
        tables: the manifest's usable rows by split.
        acoustic: reads the features.
        targets: reads the teacher's vectors; None without targets.

    Raises:
        PipelineError: a file is missing or damaged, or features or targets are missing
            or not those of this manifest.
    """

    def __init__(self, sources: Sources, variants: Sequence[Variant] = ()) -> None:
        corpus = sources.corpus
        table = corpus.read_usable()
        self.labels = read_labels(corpus.intents)
        self.tables = {split: rows for split, rows in table.groupby("split")}
        self.acoustic = _open_features(sources.acoustic, table)
        self.targets: CacheReader | None = None
        self._posteriors: CacheReader | None = None
        self._unlabelled: CacheReader | None = None
        self._said = pd.DataFrame(columns=["text", "key"], dtype=str)
        self._written = self.tables["train"][["text", "intent"]]
        if not any(variant.transfers for variant in variants):
            return
        assert sources.targets is not None
        if any(variant.reads_texts for variant in variants):
            more = read_texts(corpus.texts)
            self._written = pd.concat([self._written, more], ignore_index=True)
        if any(variant.reads_unlabelled for variant in variants):
            assert sources.unlabelled is not None
            require(sources.unlabelled, {}, fix=_UNLABELLED)
            path = sources.unlabelled / "manifest.csv"
            self._said = pd.read_csv(path, dtype=str, keep_default_na=False)
            _check_held_out(path, self._said, table)
            self._unlabelled = _open_unlabelled(
                sources.unlabelled / "features", self._said, self.acoustic.header
            )
        parts = [table.loc[table["split"].isin(TARGETED), "text"]]
        parts += [self._written["text"], self._said["text"]]
        texts = pd.concat(parts)
        self.targets = _open_targets(sources.targets, texts)
        if any(variant.reads_posteriors for variant in variants):
            assert sources.posteriors is not None
            self._posteriors = _open_targets(sources.posteriors, texts)
            _check_intents(self._posteriors, self.labels)

    def load(
        self, split: str, device: torch.device, mapped: Path | None = None
    ) -> Utterances:
        """The utterances of `split`, in the manifest's order, with targets if any.

        Those of train are followed by the unlabelled ones, if any.

        Args:
            split: train, valid or test.
            device: where the tensors go.
            mapped: the folder that `write_mapped` filled; None loads features into
                memory.
        """
        parts = self._parts(split)
        lengths = [reader.lengths(keys) for reader, keys in parts]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        if mapped is None:
            loaded = [reader.load(keys)[0] for reader, keys in parts]
            frames = loaded[0] if len(loaded) == 1 else np.concatenate(loaded)
        else:
            shape = (int(offsets[-1]), self.acoustic.header.dim)
            path = _mapped_file(mapped, split)
            # Writable, since torch takes no other; nothing writes.
            frames = np.memmap(path, np.float32, "r+", shape=shape).view(np.ndarray)
        numbers, said, texts = self.numbers(split), None, None
        if self.targets is not None and split in TARGETED:
            spoken = self.tables[split]["text"].map(text_key)
            if split == "train":
                more = self._said["text"].map(text_key)
                spoken = pd.concat([spoken, more])
                none = np.full((len(more), numbers.shape[1]), -1)
                numbers = np.concatenate([numbers, none])
            texts, said = self._texts(spoken.to_numpy(str), device)
        return Utterances.from_arrays(
            frames, offsets, numbers, said=said, texts=texts, device=device
        )

    def _parts(self, split: str) -> list[tuple[CacheReader, list[str]]]:
        """Where the features of a split are, and their keys."""
        parts = [(self.acoustic, self.tables[split]["audio_sha256"].tolist())]
        if split == "train" and self._unlabelled is not None:
            parts.append((self._unlabelled, self._said["key"].tolist()))
        return parts

    def _texts(
        self, spoken: np.ndarray, device: torch.device
    ) -> tuple[Texts, np.ndarray]:
        """What the teacher makes of the texts `spoken` (U) and of the labelled ones.

        Returns:
            These, and the row of each of `spoken` in its vectors (U).
        """
        assert self.targets is not None
        # A wording spoken often is one text.
        written = self._written.assign(key=self._written["text"].map(text_key))
        written = written.drop_duplicates(["key", "intent"])
        every = np.concatenate([spoken, written["key"].to_numpy(str)])
        keys, rows = np.unique(every, return_inverse=True)
        vectors, _ = self.targets.load(keys.tolist())
        posteriors = None
        if self._posteriors is not None:
            probabilities, _ = self._posteriors.load(keys.tolist())
            posteriors = torch.from_numpy(probabilities).to(device)
        labels = self.labels.numbers(written["intent"])
        texts = Texts(
            torch.from_numpy(vectors).to(device),
            posteriors,
            torch.from_numpy(rows[len(spoken) :]).to(device),
            torch.from_numpy(labels).to(device),
        )
        return texts, rows[: len(spoken)]

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each value of E_lang over train's distinct texts: (H).

        A value that is the same in all has deviation 1.
        """
        assert self.targets is not None
        keys = self.tables["train"]["text"].map(text_key).unique().tolist()
        vectors = self.targets.load(keys)[0].astype(np.float64)
        deviation = vectors.std(axis=0)
        deviation[deviation == 0] = 1
        mean = torch.from_numpy(vectors.mean(axis=0).astype(np.float32))
        return mean, torch.from_numpy(deviation.astype(np.float32))

    def write_mapped(self, folder: Path) -> None:
        """Write each split's features, (N, D) float32, to a file to be mapped.

        Raises:
            CacheError: the disk refuses.
        """
        for split in self.tables:
            path = _mapped_file(folder, split)
            try:
                # Not through a map: on a full disk that would end the process.
                with (
                    atomic_path(path, flush=False) as temporary,
                    temporary.open("wb") as stream,
                ):
                    for reader, keys in self._parts(split):
                        for key in keys:
                            stream.write(reader[key].astype(np.float32).tobytes())
            except OSError as error:
                raise unwritable(path, error) from error

    def fits(self) -> bool:
        """Whether half of the memory is enough for the features of all splits."""
        frames = sum(
            int(reader.lengths(keys).sum())
            for split in self.tables
            for reader, keys in self._parts(split)
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
    """The targets, or the posteriors, of `texts`.

    Raises:
        CacheError: targets that are missing or damaged.
    """
    digest = read_digest(digest_path(directory))
    known = {key for key, _ in digest.rows.values()}
    for text in texts:
        if text_key(text) not in known:
            raise CacheError(
                f"older than the texts: nothing for {text!r}",
                path=digest_path(directory),
                fix="run `aln-pipeline cache-targets`",
            )
    return _open(directory, digest, texts.map(text_key))


def _check_intents(posteriors: CacheReader, labels: Labels) -> None:
    """Check that probabilities are those of the corpus's intents.

    Raises:
        CacheError: they are of a teacher of others.
    """
    own = labels.fingerprint
    found = posteriors.header.parameters["intents"]
    if found != own:
        raise CacheError(
            "probabilities of other intents",
            path=posteriors.directory,
            found=found[:12],
            expected=f"{own[:12]}, those of intents.json",
            fix="run `aln-pipeline train-teacher`, then `aln-pipeline cache-targets`",
        )


def _check_held_out(path: Path, said: pd.DataFrame, table: pd.DataFrame) -> None:
    """Check that no unlabelled sentence is one of valid or test.

    Raises:
        CacheError: one is, since the manifest changed.
    """
    held_out = table.loc[table["split"] != "train", "text"].map(text_key)
    leaks = said.loc[said["text"].map(text_key).isin(held_out), "text"]
    if len(leaks):
        raise CacheError(
            "older than the manifest: has sentences of valid or test",
            path=path,
            found=repr(leaks.iloc[0]),
            fix=_UNLABELLED,
        )


def _open_unlabelled(
    directory: Path, table: pd.DataFrame, header: Header
) -> CacheReader | None:
    """The features of unlabelled utterances; None if there are none.

    Raises:
        CacheError: features that are missing, damaged or of another encoder.
    """
    if table.empty:
        return None
    path, fix = digest_path(directory), _UNLABELLED
    digest = read_digest(path)
    if digest.header.fingerprint != header.fingerprint:
        raise CacheError(
            "features of another encoder",
            path=path,
            found=f"{digest.header.encoder} {digest.header.fingerprint[:12]}",
            expected=f"{header.encoder} {header.fingerprint[:12]}",
            fix=fix,
        )
    missing = set(table["key"]) - {key for key, _ in digest.rows.values()}
    if missing:
        found = f"{len(missing):,} utterances without features"
        raise CacheError("older than manifest.csv", path=path, found=found, fix=fix)
    return _open(directory, digest, table["key"])


def _open(directory: Path, digest: Digest, keys: pd.Series) -> CacheReader:
    """The features in `digest`, those of `keys` checked against it."""
    reader = CacheReader(directory, fingerprint=digest.header.fingerprint)
    hashes = dict(digest.rows.values())
    reader.check({key: hashes[key] for key in keys.unique()})
    return reader
