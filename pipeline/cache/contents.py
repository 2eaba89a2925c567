"""What a cache contains, and what a corpus needs of it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.cache.digest import digest_path
from stages.cache.format import OF_TEXTS, Header, Part, damaged, part_paths, read_part
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import CacheError
from stages.core.hashing import hash_file
from stages.core.manifest import read_manifest
from stages.core.text import normalise_text, text_key

Needed = Mapping[str, Sequence[str]]
"""By key of the features, the ids of all utterances that share them."""


@dataclass(frozen=True)
class Cache:
    """A cache and what the corpus needs of it."""

    directory: Path
    needed: Needed

    @property
    def digest(self) -> Path:
        """The digest of the cache."""
        return digest_path(self.directory)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Id and key of every utterance that is needed."""
        return [(id, key) for key, ids in self.needed.items() for id in ids]


@dataclass(frozen=True)
class Contents:
    """The parts of one encoder in a cache."""

    header: Header
    parts: list[Part]

    @property
    def utterances(self) -> int:
        """The number of utterances; those in two parts count twice."""
        return sum(len(part.keys) for part in self.parts)

    @property
    def frames(self) -> int:
        """The number of frames."""
        return sum(part.offsets[-1] for part in self.parts)

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(part.size for part in self.parts)


def needed_ids(
    corpus: CorpusFiles, kind: str, splits: Collection[str] = ()
) -> dict[str, list[str]]:
    """What a corpus needs of a cache.

    Args:
        corpus: its tables.
        kind: of the cache. Keys are hashes of recordings, or for targets and posteriors
            of texts, whose id here is the normalised text.
        splits: only utterances of these; by default all, and for texts also those
            without recordings or labels.

    Raises:
        InputError: no usable manifest.
    """
    if kind in OF_TEXTS and not splits:
        return {text_key(text): [text] for text in corpus.read_all_texts()}
    # Texts do not depend on recordings, so those of quarantined ones count.
    usable = kind not in OF_TEXTS and corpus.quarantine.exists()
    table = corpus.read_usable() if usable else read_manifest(corpus.manifest)
    if splits:
        table = table[table["split"].isin(list(splits))]
    if kind in OF_TEXTS:
        texts = sorted({normalise_text(text) for text in table["text"]})
        return {text_key(text): [text] for text in texts}
    ids: dict[str, list[str]] = {}
    for id, key in zip(table["id"], table["audio_sha256"], strict=True):
        ids.setdefault(key, []).append(id)
    return ids


def info(directory: Path) -> list[Contents]:
    """The contents of a cache by encoder, sorted by fingerprint.

    Raises:
        CacheError: a part is damaged.
    """
    return by_encoder(map(read_part, part_paths(directory)))


def by_encoder(parts: Iterable[Part]) -> list[Contents]:
    """Parts grouped by encoder, sorted by fingerprint."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.header.fingerprint, []).append(part)
    return [Contents(group[0].header, group) for _, group in sorted(groups.items())]


def check_part(path: Path) -> Part:
    """Read a part and check all its checksums and its name.

    Raises:
        CacheError: it is damaged.
    """
    part = read_part(path)
    part.check_frames()
    try:
        name = f"{hash_file(path)[:32]}.h5"
    except OSError as error:
        raise damaged(path, error) from error
    if name != path.name:
        raise damaged(path, "its name is not the hash of its bytes")
    return part


def find_parts(directory: Path) -> list[Path]:
    """The parts of another cache, which must have some.

    Raises:
        CacheError: there are none.
    """
    if paths := part_paths(directory):
        return paths
    raise CacheError(
        "no parts of a cache",
        path=directory,
        fix="give the folder that contains the .h5 files",
    )


def encoder_names(headers: Iterable[Header]) -> str:
    """Encoders by name and the start of their fingerprints."""
    return ", ".join(f"{one.encoder} {one.fingerprint[:12]}" for one in headers)
