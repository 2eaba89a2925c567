"""Upkeep of a feature cache: look into it, check, shrink, fill from another, export.

No stage needs any of it. The format is that of `stages/cache/format.py`. What a corpus
needs is a mapping from the key of some features to the ids of all that share them; see
`needed_ids`.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.cache.digest import Digest, read_digest
from stages.cache.export import write_plain
from stages.cache.format import (
    PART_FRAMES,
    Header,
    Part,
    check_header,
    command,
    damaged,
    no_features,
    part_bytes,
    part_name,
    part_paths,
    read_part,
    unwritable,
    write_part,
)
from stages.cache.store import CacheReader
from stages.core.errors import CacheError, ConfigurationError
from stages.core.files import atomic_path, locked
from stages.core.hashing import hash_array, hash_bytes, hash_file
from stages.core.manifest import read_manifest
from stages.core.text import normalise_text

Needed = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Contents:
    """What a directory holds of one encoder."""

    header: Header
    parts: int
    utterances: int
    frames: int
    bytes: int


@dataclass(frozen=True)
class Cache:
    """A cache, its digest and what the corpus needs of it."""

    directory: Path
    digest: Path
    needed: Needed


@dataclass(frozen=True)
class Survey:
    """What is to be done with each part of a cache.

    Attributes:
        directory: the cache.
        needed: what the corpus needs.
        kept: parts that stay as they are.
        rewritten: parts whose used utterances move to new parts, all others go.
        removed: parts of the current encoder that hold nothing used.
        foreign: parts of other encoders.
        used: by part, the places of the utterances that stay; of a key that stands in
            several parts, one is used.
        unneeded: utterances of the current encoder that the corpus does not have.
        repeated: utterances whose key another part has as well.
        spare_bytes: what those two take, up to a part's header.
    """

    directory: Path
    needed: Needed
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
        """How many of the needed utterances are cached by the current encoder."""
        parts = [*self.kept, *self.rewritten]
        keys = (part.keys[place] for part in parts for place in self.used[part.path])
        return sum(len(self.needed[key]) for key in keys)

    @property
    def dropped(self) -> int:
        """Cached utterances that nobody needs, of other encoders too."""
        return self.unneeded + sum(len(part.keys) for part in self.foreign)


@dataclass(frozen=True)
class Reclaimed:
    """What `collect` did, over all caches."""

    parts: int
    bytes: int
    parts_left: int
    bytes_left: int
    dropped: int


@dataclass(frozen=True)
class Merged:
    """What `merge` took of another cache, and what it left there."""

    taken: list[Header]  # one an encoder
    parts: int
    utterances: int
    known: int  # utterances that were here already
    foreign: list[Header]  # of other encoders, one each


def needed_ids(
    manifest: Path,
    kind: str,
    splits: Collection[str] = (),
    *,
    quarantine: Path | None = None,
) -> dict[str, list[str]]:
    """What the corpus needs: by key, the ids of all utterances (or texts) that have it.

    Args:
        manifest: the utterance table.
        kind: acoustic or robustness, keyed by the recording's hash, or targets, by
            the text's; of targets the id is the normalised text.
        splits: those of the utterances; all if empty.
        quarantine: names the recordings that nothing can be cached of.

    Raises:
        InputError: no usable manifest.
    """
    table = read_manifest(manifest, quarantine=quarantine)
    if splits:
        table = table[table["split"].isin(list(splits))]
    ids: dict[str, list[str]] = {}
    if kind != "targets":
        for id, key in zip(table["id"], table["audio_sha256"], strict=True):
            ids.setdefault(key, []).append(id)
    else:
        for text in sorted({normalise_text(text) for text in table["text"]}):
            ids[hash_bytes(text.encode())] = [text]
    return ids


def info(directory: Path) -> list[Contents]:
    """What `directory` holds, an entry for each encoder, sorted by fingerprint.

    Raises:
        CacheError: a part is damaged.
    """
    groups: dict[str, list[Part]] = {}
    for part in map(read_part, part_paths(directory)):
        groups.setdefault(part.header.fingerprint, []).append(part)
    return [
        Contents(
            header=parts[0].header,
            parts=len(parts),
            utterances=sum(len(part.keys) for part in parts),
            frames=sum(part.offsets[-1] for part in parts),
            bytes=_size(parts),
        )
        for _, parts in sorted(groups.items())
    ]


def verify(
    directory: Path,
    rows: Iterable[tuple[str, str]] | None = None,
    *,
    digest: Digest | None = None,
) -> list[str]:
    """Recompute every checksum; return what is wrong, a line each, naming the file.

    Args:
        directory: the cache.
        rows: (id, key) of the utterances whose features must be there.
        digest: what they must be, and of which encoder; None for any.
    """
    fingerprint = digest.header.fingerprint if digest else None
    problems: list[str] = []
    headers: dict[str, Header] = {}
    holders: dict[tuple[str, str], str] = {}
    paths = part_paths(directory)
    if not paths:
        return [f"{directory}: no features there; fix: run {command(directory)}"]
    for path in paths:
        try:
            part = check_part(path)
            code = part.header.fingerprint
            check_header(part, headers.setdefault(code, part.header))
        except CacheError as error:
            problems.append(str(error))
            continue
        for key in part.keys:
            if (code, key) in holders:
                other = holders[code, key]
                problems.append(
                    f"{path}: key {key} stands twice, first in {other}; "
                    "fix: run `aln-pipeline cache gc`"
                )
            holders[code, key] = path.name
    if rows is not None:
        rows = list(rows)
        present = {key for code, key in holders if fingerprint in (None, code)}
        absent = [id for id, key in rows if key not in present]
        if absent:
            problems.append(str(no_features(directory, absent, len(rows))))
        if digest is not None:
            problems += _differing(directory, rows, present, digest)
    return problems


def _differing(
    directory: Path,
    rows: Sequence[tuple[str, str]],
    present: Collection[str],
    digest: Digest,
) -> list[str]:
    """Rows that the digest does not have, and features that are not those it has."""
    fix = f"fix: run {command(directory, digest.header.kind)}"
    problems = []
    expected = {key: features for key, features in digest.rows.values()}
    # A text is known by its key alone, in the digest under another name.
    older = [
        id
        for id, key in rows
        if key not in expected
        or (digest.header.kind != "targets" and digest.rows.get(id, ("",))[0] != key)
    ]
    if older:
        problems.append(
            f"{directory}: the digest lacks {len(older)} of {len(rows)} utterances as "
            f"they are now, {older[0]} first; {fix}"
        )
    try:
        reader = CacheReader(directory, fingerprint=digest.header.fingerprint)
        known = [key for key in dict.fromkeys(key for _, key in rows) if key in present]
        others = [
            key
            for key in known
            if key in expected and hash_array(reader[key]) != expected[key]
        ]
    except CacheError as error:
        return [*problems, str(error)]
    if others:
        problems.append(
            f"{directory}: {len(others)} features are not those of the digest, "
            f"{others[0]:.12} first; {fix}"
        )
    return problems


def check_part(path: Path) -> Part:
    """Read a part and hold all that is in it against its checksums and its name.

    Raises:
        CacheError: it is damaged, or holds what no writer would put there.
    """
    part = read_part(path)
    frames = part.check_frames()
    try:
        name = f"{hash_file(path)[:32]}.h5"
    except OSError as error:
        raise damaged(path, error) from error
    if name != path.name:
        raise damaged(path, "its bytes are not those it was named after")
    if not np.isfinite(frames).all():
        raise damaged(path, "NaN or infinite values in frames")
    if len(set(part.ids)) < len(part.ids):
        raise damaged(path, "an id stands twice")
    key, count = Counter(part.keys).most_common(1)[0]
    if count > 1:
        raise damaged(path, f"key {key} stands twice")
    return part


def survey(
    cache: Cache, digest: Digest, read: Callable[[Path], Part] = read_part
) -> Survey:
    """What `collect` would do with a cache.

    Args:
        cache: what to look at.
        digest: its digest, which names the current encoder and, of a key that stands
            in several parts, the features to keep.
        read: how a part is read.

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
    return Survey(
        directory=cache.directory,
        needed=cache.needed,
        kept=kept,
        rewritten=rewritten,
        removed=removed,
        foreign=[part for part in parts if part.header.fingerprint != current],
        used=used,
        unneeded=unneeded,
        repeated=repeated,
        spare_bytes=spare,
    )


def collect(
    caches: Sequence[Cache],
    *,
    dry_run: bool = False,
    tell: Callable[[Survey], None] = lambda survey: None,
) -> Reclaimed:
    """Remove what the corpus does not need and join what is left to full parts.

    Parts never change: the utterances that stay are written as new parts, and only
    then are the old ones removed. Killed at any moment, a cache has every utterance
    that it needs, some of them twice, and the next call goes on from there. The same
    utterances give the same parts. A process that reads meanwhile may find a part
    gone, and says so. Memory: about three times a part.

    Args:
        caches: all are surveyed before anything is removed.
        dry_run: compute all, write and remove nothing, take no lock.
        tell: called with each survey before anything is written.

    Raises:
        CacheError: no digest, a damaged part (even of another encoder), another
            process writes, or the disk refuses; nothing is removed before it.
    """
    with ExitStack() as stack:
        # A cache that is not there needs neither a lock nor a digest.
        caches = [cache for cache in caches if part_paths(cache.directory)]
        if not dry_run:
            for cache in caches:
                stack.enter_context(locked(cache.directory))
        digests = [read_digest(cache.digest) for cache in caches]
        pairs = zip(caches, digests, strict=True)
        surveys = [survey(cache, digest, check_part) for cache, digest in pairs]
        for one in surveys:
            tell(one)
        done = [_sweep(one, dry_run=dry_run) for one in surveys]
    return Reclaimed(
        parts=sum(one.parts for one in done),
        bytes=sum(one.bytes for one in done),
        parts_left=sum(one.parts_left for one in done),
        bytes_left=sum(one.bytes_left for one in done),
        dropped=sum(one.dropped for one in done),
    )


def merge(
    directory: Path, other: Path, *, kind: str, digest: Digest | None = None
) -> Merged:
    """Take from the cache `other` what this one has not, as far as it fits.

    All of `other` is checked before anything is taken. A part none of whose
    utterances are here is copied under its name; of one that is here in part, the
    rest becomes a new part, since a key must not stand in two.

    Args:
        directory: this cache, made if it is not there.
        other: the folder of the other cache's parts.
        kind: acoustic or targets.
        digest: names the encoder whose features are wanted. Without it, features of
            the encoders that are here are, and all of them where nothing is here.

    Raises:
        CacheError: nothing there, a damaged part, features of another kind or of
            other encoders alone, another process writes here, or the disk refuses.
    """
    if other.resolve() == directory.resolve():
        raise CacheError("is the cache that it would be merged into", path=other)
    theirs = [check_part(path) for path in part_paths(other)]
    if not theirs:
        raise CacheError(
            "no parts of a cache there",
            path=other,
            fix="name the folder that holds the .h5 files",
        )
    first: dict[str, Header] = {}
    for part in theirs:
        check_header(part, first.setdefault(part.header.fingerprint, part.header))
        if part.header.kind != kind:
            raise CacheError(
                "features of another kind",
                path=part.path,
                found=part.header.kind,
                expected=kind,
                fix=f"use --kind {part.header.kind}",
            )
    with locked(directory):
        here = [read_part(path) for path in part_paths(directory)]
        headers = {part.header.fingerprint: part.header for part in here}
        if digest is not None:
            headers = {digest.header.fingerprint: digest.header}
        wanted = headers or first
        fitting = [part for part in theirs if part.header.fingerprint in wanted]
        if not fitting:
            raise CacheError(
                "features of another encoder",
                path=other,
                found=encoder_names(first.values()),
                expected=encoder_names(wanted.values()),
                fix=f"run {command(directory, kind)}",
            )
        for part in fitting:
            check_header(part, wanted[part.header.fingerprint])
        keys = {(part.header.fingerprint, key) for part in here for key in part.keys}
        parts = utterances = 0
        for part in fitting:
            code = part.header.fingerprint
            fresh = [p for p, key in enumerate(part.keys) if (code, key) not in keys]
            if len(fresh) == len(part.keys):
                _copy(part, directory)
            elif fresh:
                rows = [(part.ids[p], part, p) for p in fresh]
                write_part(directory, _joined(rows))
            keys.update((code, key) for key in part.keys)
            parts += bool(fresh)
            utterances += len(fresh)
    return Merged(
        taken=[header for code, header in first.items() if code in wanted],
        parts=parts,
        utterances=utterances,
        known=sum(len(part.keys) for part in fitting) - utterances,
        foreign=[header for code, header in first.items() if code not in wanted],
    )


def export(
    path: Path,
    cache: Cache,
    *,
    columns: Mapping[str, Mapping[str, str]] | None = None,
    force: bool = False,
) -> int:
    """Write what the corpus needs of a cache as one HDF5 file; see `write_plain`.

    The utterances stand in the digest's order, which is the manifest's.

    Args:
        path: the file.
        cache: where the features are, and which are wanted.
        columns: more to write, by its name and an utterance's id.
        force: replace `path` if it is there.

    Returns:
        How many utterances were written.

    Raises:
        ConfigurationError: `path` is there and not to be replaced, or it would lie
            among the parts.
        CacheError: no digest, one that does not know all that is needed, or as
            `write_plain`.
    """
    if path.is_dir() or (path.exists() and not force):
        raise ConfigurationError(
            "something is there already",
            path=path,
            fix="give another name" + " or --force" * path.is_file(),
        )
    if path.resolve().parent == cache.directory.resolve():
        raise ConfigurationError(
            "the folder is a cache's, for its own parts alone",
            path=path,
            fix="give a name in another folder",
        )
    digest = read_digest(cache.digest)
    # A target's id is the digest's: `needed` has the text itself.
    acoustic = digest.header.kind == "acoustic"
    rows = [
        (id, key)
        for id, (key, _) in digest.rows.items()
        if key in cache.needed and (not acoustic or id in cache.needed[key])
    ]
    known = {key for _, key in rows}
    wanted = [(id, key) for key, ids in cache.needed.items() for id in ids]
    absent = [id for id, key in wanted if key not in known]
    if acoustic:
        absent = sorted({id for id, _ in wanted} - {id for id, _ in rows})
    if absent:
        raise no_features(cache.digest, absent, len(wanted), digest.header.kind)
    named = {
        name: [values[id] for id, _ in rows] for name, values in (columns or {}).items()
    }
    reader = CacheReader(cache.directory, fingerprint=digest.header.fingerprint)
    hashes = dict(digest.rows.values())
    write_plain(path, reader, rows, named, hashes=hashes)
    return len(rows)


def encoder_names(headers: Iterable[Header]) -> str:
    """Encoders by name and the beginning of their fingerprint."""
    return ", ".join(f"{one.encoder} {one.fingerprint[:12]}" for one in headers)


def _best(places: Sequence[tuple[Part, int]], features: str | None) -> tuple[Part, int]:
    """The one of several holders of a key to keep.

    First those that hold what the digest says, which a reader may have used; of them
    the longest part, so that little is written, and the first by name.
    """
    if len(places) == 1:
        return places[0]

    def rank(holder: tuple[Part, int]) -> tuple[bool, int, Path]:
        part, place = holder
        matrix = _matrix(part, place, part.map_frames())
        return hash_array(matrix) != features, -part.offsets[-1], part.path

    return min(places, key=rank)


def _sweep(survey: Survey, *, dry_run: bool) -> Reclaimed:
    """Write the new parts, then remove the old ones."""
    old = [*survey.rewritten, *survey.removed, *survey.foreign]
    sizes = {part.path: part.path.stat().st_size for part in [*survey.kept, *old]}
    before = sum(sizes.values())
    names = {part.path.name for part in survey.kept}
    size = _size(survey.kept)
    for content in _new_parts(survey):
        name = part_name(content)
        size += 0 if name in names else len(content)
        names.add(name)
        if not dry_run:
            write_part(survey.directory, content)
    try:
        for part in old:
            # What was begun before may have left the very part that is wanted.
            if not dry_run and part.path.name not in names:
                part.path.unlink()
    except OSError as error:
        raise unwritable(survey.directory, error) from error
    return Reclaimed(len(sizes), before, len(names), size, survey.dropped)


def _new_parts(survey: Survey) -> Iterable[bytes]:
    """The used utterances of the rewritten parts as full parts, sorted by id."""
    rows = sorted(
        (
            (_id(part, place, survey.needed), part, place)
            for part in survey.rewritten
            for place in survey.used[part.path]
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
            yield _joined(batch)
            batch, frames = [], 0
    if batch:
        yield _joined(batch)


def _id(part: Part, place: int, needed: Needed) -> str:
    """The id under which an utterance is written again.

    That of a recording which was replaced may stand for two keys, one of them still
    needed under another id; two parts can hold it, but not one.
    """
    id, ids = part.ids[place], needed[part.keys[place]]
    return ids[0] if part.header.kind != "targets" and id not in ids else id


def _joined(rows: Sequence[tuple[str, Part, int]]) -> bytes:
    """A part as a file's content, from (id, part, place) of utterances."""
    # A map a part, not one an utterance: a process may have some 65,000.
    parts = {part.path: part for _, part, _ in rows}
    maps = {path: part.map_frames() for path, part in parts.items()}
    pending = {
        part.keys[place]: (id, _matrix(part, place, maps[part.path]))
        for id, part, place in rows
    }
    assert len(pending) == len(rows)
    return part_bytes(rows[0][1].header, pending)


def _matrix(part: Part, place: int, frames: np.ndarray) -> np.ndarray:
    """The features (T, D) of an utterance, out of its part's `frames` (N, D)."""
    return frames[part.offsets[place] : part.offsets[place + 1]]


def _copy(part: Part, directory: Path) -> None:
    """Copy a part under its name, and hold the copy against it."""
    path = directory / part.path.name
    try:
        with atomic_path(path) as beside:
            shutil.copyfile(part.path, beside)
            if f"{hash_file(beside)[:32]}.h5" != path.name:
                raise damaged(part.path, "it changed while it was read")
    except OSError as error:
        raise unwritable(path, error) from error


def _size(parts: Iterable[Part]) -> int:
    return sum(part.path.stat().st_size for part in parts)


def _spare_bytes(part: Part, used: Sequence[int]) -> int:
    """What a part's unused utterances take; the whole file if none is used."""
    if not used:
        return part.path.stat().st_size
    frames = sum(part.offsets[place + 1] - part.offsets[place] for place in used)
    unused = part.offsets[-1] - frames
    return unused * part.header.dim * part.header.stored_dtype.itemsize
