"""`cache gc`: remove what the corpus does not need, and join small parts.

Parts never change. The utterances that stay are written as new parts, and only then are
the old parts removed. If the process is killed at any moment, the cache has every
utterance that is needed, some of them twice, and the next call continues. A process
that reads at the same time can find a part missing, which is reported as an error.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache.contents import Cache
from pipeline.cache.verification import verify_cache
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
from stages.core.errors import CacheError
from stages.core.files import locked

Row = tuple[str, Part, int]
"""Id of an utterance, its part and its place there."""


@dataclass(frozen=True)
class Plan:
    """What garbage collection does with the parts of a cache.

    Attributes:
        directory: the cache.
        kept: parts that stay as they are: full, and everything in them is needed.
        moved: needed utterances of other parts, sorted by id, for new parts.
        old: parts of the current encoder that go after that.
        foreign: parts of other encoders, which go as well.
        covered: how many utterances of the corpus are cached.
        unneeded: cached utterances that the corpus does not need.
        repeated: cached utterances that another part has as well.
        spare_bytes: the size of these two.
    """

    directory: Path
    kept: list[Part]
    moved: list[Row]
    old: list[Part]
    foreign: list[Part]
    covered: int
    unneeded: int
    repeated: int
    spare_bytes: int

    @property
    def dropped(self) -> int:
        """Cached utterances that are not needed, of all encoders."""
        return self.unneeded + sum(len(part.keys) for part in self.foreign)


@dataclass(frozen=True)
class Collected:
    """A plan, and the number and size of the parts before and after it."""

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
        CacheError: whatever `cache verify` reports of these caches, another process is
            writing, or the disk cannot be written.
    """
    with ExitStack() as stack:
        caches = [cache for cache in caches if part_paths(cache.directory)]
        if not dry_run:
            for cache in caches:
                stack.enter_context(locked(cache.directory))
        digests = [read_digest(cache.digest) for cache in caches]
        for cache, digest in zip(caches, digests, strict=True):
            if problems := verify_cache(cache.directory, cache.rows, digest=digest):
                raise CacheError(f"{problems[0]} (nothing is removed before that)")
        plans = list(map(make_plan, caches, digests))
        return [_carry_out(plan, dry_run=dry_run) for plan in plans]


def make_plan(cache: Cache, digest: Digest) -> Plan:
    """Decide what to do with each part.

    Args:
        cache: the cache.
        digest: names the current encoder.

    Raises:
        CacheError: a part is damaged, or has another header than the digest.
    """
    parts = [read_part(path) for path in part_paths(cache.directory)]
    current = digest.header.fingerprint
    ours = [part for part in parts if part.header.fingerprint == current]
    kept, moved, old = [], [], []
    seen: set[str] = set()
    unneeded = repeated = spare_frames = 0
    for part in ours:
        check_header(part, digest.header)
        used = []
        for place, key in enumerate(part.keys):
            if key in cache.needed and key not in seen:
                used.append(place)
                continue
            repeated += key in seen
            unneeded += key not in cache.needed
            spare_frames += part.offsets[place + 1] - part.offsets[place]
        seen.update(part.keys[place] for place in used)
        full = part.offsets[-1] >= PART_FRAMES[part.header.kind]
        if full and len(used) == len(part.keys):
            kept.append(part)
        else:
            old.append(part)
            moved += [(part.ids[place], part, place) for place in used]
    if len(old) == 1 and len(moved) == len(old[0].keys):
        kept.append(old.pop())  # nothing to join it with
        moved = []
    return Plan(
        directory=cache.directory,
        kept=kept,
        moved=sorted(moved, key=lambda row: (row[0], row[1].keys[row[2]])),
        old=old,
        foreign=[part for part in parts if part.header.fingerprint != current],
        covered=sum(len(cache.needed[key]) for key in seen),
        unneeded=unneeded,
        repeated=repeated,
        spare_bytes=spare_frames
        * digest.header.dim
        * digest.header.stored_dtype.itemsize,
    )


def join(rows: Sequence[Row]) -> bytes:
    """The bytes of a new part with the utterances of `rows`."""
    # One map a part: a process can have some 65,000.
    maps = {part.path: part.map_frames() for _, part, _ in rows}
    pending = {}
    for id, part, place in rows:
        start, stop = part.offsets[place : place + 2]
        pending[part.keys[place]] = (id, maps[part.path][start:stop])
    return part_bytes(rows[0][1].header, pending)


def _carry_out(plan: Plan, *, dry_run: bool) -> Collected:
    """Write the new parts, then remove the old ones."""
    before = [*plan.kept, *plan.old, *plan.foreign]
    names = {part.path.name for part in plan.kept}
    size = sum(part.size for part in plan.kept)
    for content in _new_parts(plan.moved):
        names.add(part_name(content))
        size += len(content)
        if not dry_run:
            write_part(plan.directory, content)
    try:
        for part in [*plan.old, *plan.foreign]:
            # An old part can be the same as a new one.
            if not dry_run and part.path.name not in names:
                part.path.unlink()
    except OSError as error:
        raise unwritable(plan.directory, error) from error
    size_before = sum(part.size for part in before)
    return Collected(plan, len(before), size_before, len(names), size)


def _new_parts(rows: Sequence[Row]) -> Iterator[bytes]:
    """The utterances of `rows` as full parts, in their order."""
    batch: list[Row] = []
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
