"""Comparison of two feature caches; each is a folder of parts or a digest."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.contents import find_parts
from stages.cache.digest import read_digest
from stages.cache.format import Header, part_paths, read_part
from stages.cache.store import CacheReader
from stages.core.errors import CacheError
from stages.core.hashing import hash_array
from stages.core.text import name_some


@dataclass(frozen=True)
class Difference:
    """The differences of two caches; ids are sorted.

    Attributes:
        header: fields that differ, with their values in A and in B.
        only_a: ids that B does not have.
        only_b: ids that A does not have.
        rekeyed: ids that have another key in B: another recording.
        changed: ids whose features differ for the same key.
        common: the number of keys that both have.
        absolute: largest |a - b| over all values of `changed`; None if one side is a
            digest or shapes differ.
        relative: the same for |a - b| / max(|a|, |b|).
    """

    header: dict[str, tuple[Any, Any]]
    only_a: list[str]
    only_b: list[str]
    rekeyed: list[str]
    changed: list[str]
    common: int
    absolute: float | None
    relative: float | None

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        ids = (self.only_a, self.only_b, self.rekeyed, self.changed)
        return bool(self.header) or any(ids)

    def __str__(self) -> str:
        """A line for each kind of difference, with its count and the first ids."""
        lines = [
            f"header: {name} {_shorten(a)} in A, {_shorten(b)} in B"
            for name, (a, b) in self.header.items()
        ]
        for what, ids in (
            ("only in A", self.only_a),
            ("only in B", self.only_b),
            ("another key", self.rekeyed),
            (f"other features, of {self.common:,} keys in both", self.changed),
        ):
            if ids:
                lines.append(f"{what}: {len(ids):,} ({name_some(ids)})")
        if self.absolute is not None and self.relative is not None:
            lines.append(
                f"largest difference: {self.absolute:.3g}, relative {self.relative:.3g}"
            )
        return "\n".join(lines or [f"equal: {self.common:,} features in both"])


@dataclass(frozen=True)
class _Side:
    header: Header
    pairs: set[tuple[str, str]]  # id and key
    hashes: Mapping[str, str] | None  # by key; None where there is a reader
    reader: CacheReader | None

    def hash_of(self, key: str) -> str:
        if self.hashes is not None:
            return self.hashes[key]
        assert self.reader is not None
        return hash_array(self.reader[key])


def compare(a: Path, b: Path) -> Difference:
    """Compare the features of each key, bit by bit.

    Ids are compared only if both sides are digests: a part has one id for each key,
    even if several utterances share it. If a folder has features of several encoders,
    those of the other side's encoder are compared. Memory: one utterance.

    Raises:
        CacheError: no such cache or digest, a damaged one, or several encoders on one
            side and none of them on the other.
    """
    encoders = [_encoders(a), _encoders(b)]
    shared = encoders[0] & encoders[1]
    ours, theirs = (
        _open(path, shared if len(found) > 1 and len(shared) == 1 else found)
        for path, found in zip((a, b), encoders, strict=True)
    )
    keys_a, keys_b = ({key for _, key in side.pairs} for side in (ours, theirs))
    exact = ours.reader is None and theirs.reader is None
    lone_a, lone_b = ours.pairs - theirs.pairs, theirs.pairs - ours.pairs
    if not exact:
        lone_a = {(id, key) for id, key in lone_a if key not in keys_b}
        lone_b = {(id, key) for id, key in lone_b if key not in keys_a}
    ids_a, ids_b = ({id for id, _ in lone} for lone in (lone_a, lone_b))
    common = keys_a & keys_b
    other = {key for key in sorted(common) if ours.hash_of(key) != theirs.hash_of(key)}
    absolute, relative = _largest(ours, theirs, other)
    return Difference(
        header=ours.header.differences(theirs.header),
        only_a=sorted(ids_a - ids_b),
        only_b=sorted(ids_b - ids_a),
        rekeyed=sorted(ids_a & ids_b),
        changed=sorted(id for id, key in ours.pairs if key in other),
        common=len(common),
        absolute=absolute,
        relative=relative,
    )


def _encoders(path: Path) -> set[str]:
    """The fingerprints in a folder or a digest."""
    if path.is_dir():
        return {read_part(one).header.fingerprint for one in find_parts(path)}
    if not path.exists():
        raise CacheError("neither a cache nor a digest", path=path)
    return {read_digest(path).header.fingerprint}


def _open(path: Path, encoders: set[str]) -> _Side:
    if not path.is_dir():
        digest = read_digest(path)
        pairs = {(id, key) for id, (key, _) in digest.rows.items()}
        return _Side(digest.header, pairs, dict(digest.rows.values()), None)
    only = next(iter(encoders)) if len(encoders) == 1 else None
    reader = CacheReader(path, fingerprint=only)
    ids: dict[str, str] = {}
    for part in map(read_part, part_paths(path)):
        if part.header.fingerprint == reader.header.fingerprint:
            for id, key in zip(part.ids, part.keys, strict=True):
                ids.setdefault(key, id)
    pairs = {(id, key) for key, id in ids.items()}
    return _Side(reader.header, pairs, None, reader)


def _largest(
    ours: _Side, theirs: _Side, keys: Iterable[str]
) -> tuple[float | None, float | None]:
    """The largest absolute and relative difference of the features of `keys`."""
    absolute = relative = None
    if ours.reader is not None and theirs.reader is not None:
        for key in keys:
            a = ours.reader[key].astype(np.float64)  # (T, D)
            b = theirs.reader[key].astype(np.float64)
            if a.shape != b.shape:
                return None, None
            far = np.abs(a - b)
            scale = np.maximum(np.abs(a), np.abs(b))
            ratio = np.divide(far, scale, out=np.zeros_like(far), where=scale > 0)
            absolute = max(absolute or 0.0, float(far.max()))
            relative = max(relative or 0.0, float(ratio.max()))
    return absolute, relative


def _shorten(value: object) -> str:
    """A value, which may be a whole configuration, in at most 24 characters."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 24 else f"{text[:23]}…"
