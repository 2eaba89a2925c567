"""`cache gc`: remove what the corpus does not need, and join small parts.

Parts never change. The utterances that stay are written as new parts, and only then are
the old parts removed. If the process is killed at any moment, the cache has every
utterance that is needed, some of them twice, and the next call continues. The same
utterances give the same parts. A process that is reading meanwhile may find a part
gone, which is an error that says so.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cache.contents import Cache, check_part, size_of
from stages.cache.digest import Digest, read_digest
from stages.cache.format import (
    PART_FRAMES,
    Part,
    check_header,
    part_bytes,
    part_name,
    part_paths,
    read_part,
    unwritable,
    write_part,
)
from stages.core.files import locked
from stages.core.hashing import hash_array


@dataclass(frozen=True)
class Plan:
    """What garbage collection does with each part of a cache.

    Attributes:
        cache: the cache.
        kept: parts that stay as they are.
        rewritten: parts whose used utterances move to new parts.
        removed: parts of the current encoder without used utterances.
        foreign: parts of other encoders.
        used: by part, the places of its used utterances: those that the corpus needs,
            each in one part only.
        unneeded: utterances of the current encoder that the corpus does not need.
        repeated: utterances that another part has as well.
        spare_bytes: the size of those two, without the parts' headers.
    """

    cache: Cache
    kept: list[Part]
    rewritten: list[Part]
    removed: list[Part]
    foreign: list[Part]
    used: dict[Path, list[int]]
    unneeded: int
    repeated: int
    spare_bytes: int

    @property
    def covered(self) -> int:
        """How many of the needed utterances the current encoder's features cover."""
        parts = [*self.kept, *self.rewritten]
        keys = (part.keys[place] for part in parts for place in self.used[part.path])
        return sum(len(self.cache.needed[key]) for key in keys)

    @property
    def dropped(self) -> int:
        """Cached utterances that are not needed, of all encoders."""
        return self.unneeded + sum(len(part.keys) for part in self.foreign)


@dataclass(frozen=True)
class Collected:
    """A plan and the number and size of a cache's parts before and after it."""

    plan: Plan
    parts: int
    bytes: int
    parts_left: int
    bytes_left: int


def collect(caches: Sequence[Cache], *, dry_run: bool = False) -> list[Collected]:
    """Collect garbage; caches without parts are skipped.

    Args:
        caches: all are checked before anything is removed.
        dry_run: compute everything, but write nothing and take no lock.

    Raises:
        CacheError: no digest, a damaged part (of any encoder), another process is
            writing, or the disk cannot be written; nothing was removed then.
    """
    with ExitStack() as stack:
        caches = [cache for cache in caches if part_paths(cache.directory)]
        if not dry_run:
            for cache in caches:
                stack.enter_context(locked(cache.directory))
        digests = [read_digest(cache.digest) for cache in caches]
        plans = [
            make_plan(cache, digest, check_part)
            for cache, digest in zip(caches, digests, strict=True)
        ]
        return [_carry_out(plan, dry_run=dry_run) for plan in plans]


def make_plan(
    cache: Cache, digest: Digest, read: Callable[[Path], Part] = read_part
) -> Plan:
    """Decide what to do with each part.

    Args:
        cache: the cache.
        digest: names the current encoder and, of a key in several parts, the features
            to keep.
        read: reads a part.

    Raises:
        CacheError: a part is damaged, or has another header than the digest.
    """
    parts = [read(path) for path in part_paths(cache.directory)]
    current = digest.header.fingerprint
    ours = [part for part in parts if part.header.fingerprint == current]
    holders: dict[str, list[tuple[Part, int]]] = {}
    for part in ours:
        check_header(part, digest.header)
        for place, key in enumerate(part.keys):
            holders.setdefault(key, []).append((part, place))
    hashes = dict(digest.rows.values())
    used: dict[Path, list[int]] = {part.path: [] for part in ours}
    unneeded = repeated = 0
    for key, places in holders.items():
        if key in cache.needed:
            part, place = _best(places, hashes.get(key))
            used[part.path].append(place)
            repeated += len(places) - 1
        else:
            unneeded += len(places)
    kept, rewritten, removed, spare = [], [], [], 0
    for part in ours:
        whole = len(used[part.path]) == len(part.keys)
        if whole and part.offsets[-1] >= PART_FRAMES[part.header.kind]:
            kept.append(part)
        elif used[part.path]:
            rewritten.append(part)
        else:
            removed.append(part)
        spare += 0 if whole else _spare_bytes(part, used[part.path])
    if len(rewritten) == 1 and len(used[rewritten[0].path]) == len(rewritten[0].keys):
        kept.append(rewritten.pop())  # nothing to join it with
    return Plan(
        cache=cache,
        kept=kept,
        rewritten=rewritten,
        removed=removed,
        foreign=[part for part in parts if part.header.fingerprint != current],
        used=used,
        unneeded=unneeded,
        repeated=repeated,
        spare_bytes=spare,
    )


def join(rows: Sequence[tuple[str, Part, int]]) -> bytes:
    """The bytes of a new part from (id, part, place in the part) of utterances."""
    # One map a part: a process can have some 65,000.
    maps = {part.path: part.map_frames() for _, part, _ in rows}
    pending = {
        part.keys[place]: (id, _matrix(part, place, maps[part.path]))
        for id, part, place in rows
    }
    assert len(pending) == len(rows)
    return part_bytes(rows[0][1].header, pending)


def _best(places: Sequence[tuple[Part, int]], features: str | None) -> tuple[Part, int]:
    """Which of several copies of an utterance to keep.

    Prefers the features in the digest, which later stages may have read; then the
    longest part, so that little is rewritten; then the first by name.
    """
    if len(places) == 1:
        return places[0]

    def rank(copy: tuple[Part, int]) -> tuple[bool, int, Path]:
        part, place = copy
        matrix = _matrix(part, place, part.map_frames())
        return hash_array(matrix) != features, -part.offsets[-1], part.path

    return min(places, key=rank)


def _carry_out(plan: Plan, *, dry_run: bool) -> Collected:
    """Write the new parts, then remove the old ones."""
    old = [*plan.rewritten, *plan.removed, *plan.foreign]
    before = [*plan.kept, *old]
    size_before = size_of(before)
    names = {part.path.name for part in plan.kept}
    size = size_of(plan.kept)
    for content in _new_parts(plan):
        name = part_name(content)
        size += 0 if name in names else len(content)
        names.add(name)
        if not dry_run:
            write_part(plan.cache.directory, content)
    try:
        for part in old:
            # A call that was killed may have written a part that is wanted.
            if not dry_run and part.path.name not in names:
                part.path.unlink()
    except OSError as error:
        raise unwritable(plan.cache.directory, error) from error
    return Collected(plan, len(before), size_before, len(names), size)


def _new_parts(plan: Plan) -> Iterator[bytes]:
    """The used utterances of the rewritten parts as full parts, sorted by id."""
    rows = sorted(
        (
            (_id(part, place, plan.cache), part, place)
            for part in plan.rewritten
            for place in plan.used[part.path]
        ),
        key=lambda row: (row[0], row[1].keys[row[2]]),
    )
    batch: list[tuple[str, Part, int]] = []
    frames = 0
    for row in rows:
        _, part, place = row
        batch.append(row)
        frames += part.offsets[place + 1] - part.offsets[place]
        if frames >= PART_FRAMES[part.header.kind]:
            yield join(batch)
            batch, frames = [], 0
    if batch:
        yield join(batch)


def _id(part: Part, place: int, cache: Cache) -> str:
    """The id of an utterance in its new part.

    If a recording was replaced, its id may belong to two keys, the old one still needed
    for another utterance. A part must not have an id twice.
    """
    id, ids = part.ids[place], cache.needed[part.keys[place]]
    return ids[0] if part.header.kind != "targets" and id not in ids else id


def _matrix(part: Part, place: int, frames: np.ndarray) -> np.ndarray:
    """The features (T, D) of an utterance, from its part's `frames` (N, D)."""
    return frames[part.offsets[place] : part.offsets[place + 1]]


def _spare_bytes(part: Part, used: Sequence[int]) -> int:
    """The size of a part's unused utterances; of the whole file if all are unused."""
    if not used:
        return part.path.stat().st_size
    frames = sum(part.offsets[place + 1] - part.offsets[place] for place in used)
    unused = part.offsets[-1] - frames
    return unused * part.header.dim * part.header.stored_dtype.itemsize
