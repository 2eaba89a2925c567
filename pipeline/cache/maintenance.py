"""Maintenance of a cache: fill it from another one, export it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache.contents import (
    Cache,
    Contents,
    by_encoder,
    check_part,
    encoder_names,
    find_parts,
)
from pipeline.cache.garbage import join
from stages.cache.digest import digest_path, read_digest
from stages.cache.export import write_plain
from stages.cache.format import (
    OF_TEXTS,
    Header,
    check_header,
    command,
    no_features,
    part_paths,
    read_part,
    write_part,
)
from stages.cache.store import CacheReader
from stages.core.errors import CacheError, ConfigurationError
from stages.core.files import locked


@dataclass(frozen=True)
class Merged:
    """What `merge` took from another cache, and what it did not take."""

    taken: list[Header]  # one for each encoder
    parts: int
    utterances: int
    known: int  # utterances that were cached already
    foreign: list[Header]  # of encoders that were not taken


def merge(directory: Path, other: Path, *, kind: str) -> Merged:
    """Take from the cache `other` the features that this one lacks.

    Takes features of the encoder that this cache's digest names; without a digest, of
    all encoders. All of `other` is checked first. A part with only new utterances is
    copied; from one with some, these become a new part.

    Args:
        directory: this cache, created if it is not there.
        other: the other cache.
        kind: acoustic, targets or posteriors.

    Raises:
        CacheError: no parts, a damaged part or digest, features of another kind or only
            of other encoders, another process is writing here, or the disk cannot be
            written.
    """
    if os.path.realpath(other) == os.path.realpath(directory):
        raise CacheError("a cache cannot be merged into itself", path=other)
    offered = by_encoder(map(check_part, find_parts(other)))
    taken, foreign = _choose(directory, other, kind, offered)
    parts = [part for contents in taken for part in contents.parts]
    with locked(directory):
        here = map(read_part, part_paths(directory))
        keys = {(part.header.fingerprint, key) for part in here for key in part.keys}
        written = utterances = 0
        for part in parts:
            code = part.header.fingerprint
            new = [p for p, key in enumerate(part.keys) if (code, key) not in keys]
            if len(new) == len(part.keys):
                write_part(directory, part.path.read_bytes())
            elif new:
                write_part(directory, join([(part.ids[p], part, p) for p in new]))
            keys.update((code, key) for key in part.keys)
            written += bool(new)
            utterances += len(new)
    return Merged(
        taken=[contents.header for contents in taken],
        parts=written,
        utterances=utterances,
        known=sum(contents.utterances for contents in taken) - utterances,
        foreign=[contents.header for contents in foreign],
    )


def _choose(
    directory: Path, other: Path, kind: str, offered: Sequence[Contents]
) -> tuple[Sequence[Contents], Sequence[Contents]]:
    """Divide what another cache has into what is taken and what is not."""
    for contents in offered:
        for part in contents.parts:
            check_header(part, contents.header)
        if contents.header.kind != kind:
            raise CacheError(
                "features of another kind",
                path=contents.parts[0].path,
                found=contents.header.kind,
                expected=kind,
                fix=f"use --kind {contents.header.kind}",
            )
    if not (path := digest_path(directory)).exists():
        return offered, []
    wanted = read_digest(path).header
    taken = [one for one in offered if one.header.fingerprint == wanted.fingerprint]
    if not taken:
        raise CacheError(
            "features of another encoder",
            path=other,
            found=encoder_names(one.header for one in offered),
            expected=encoder_names([wanted]),
            fix=f"run {command(directory, kind)}",
        )
    check_header(taken[0].parts[0], wanted)
    return taken, [one for one in offered if one not in taken]


def export(
    path: Path,
    cache: Cache,
    *,
    columns: Mapping[str, Mapping[str, str]] | None = None,
    force: bool = False,
) -> int:
    """Write the features that the corpus needs to one file, as `write_plain` does.

    Args:
        path: the file.
        cache: the features and which of them are needed; written in the digest's order,
            which is the manifest's.
        columns: text columns to add: by name, then by id of the utterance.
        force: replace `path` if it is there.

    Returns:
        The number of utterances written.

    Raises:
        ConfigurationError: `path` exists, or is in the folder of the cache.
        CacheError: no digest, needed utterances that it lacks, or as `write_plain`.
    """
    if path.is_dir() or (path.exists() and not force):
        raise ConfigurationError(
            "already exists",
            path=path,
            fix="give another name or --force" if path.is_file() else "give a file",
        )
    if os.path.dirname(os.path.realpath(path)) == os.path.realpath(cache.directory):
        raise ConfigurationError(
            "this folder is a cache and can only contain its parts",
            path=path,
            fix="give a file in another folder",
        )
    digest = read_digest(cache.digest)
    # The digest has its own ids for texts, so these are found by key.
    texts = digest.header.kind in OF_TEXTS
    rows = [
        (id, key)
        for id, (key, _) in digest.rows.items()
        if key in cache.needed and (texts or id in cache.needed[key])
    ]
    found = {key if texts else id for id, key in rows}
    absent = sorted(id for id, key in cache.rows if (key if texts else id) not in found)
    if absent:
        raise no_features(cache.digest, absent, len(cache.rows), digest.header.kind)
    added = {
        name: [values[id] for id, _ in rows] for name, values in (columns or {}).items()
    }
    reader = CacheReader(cache.directory, fingerprint=digest.header.fingerprint)
    write_plain(path, reader, rows, added, hashes=dict(digest.rows.values()))
    return len(rows)
