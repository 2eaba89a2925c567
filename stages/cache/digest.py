"""The digest: which features a corpus has, in one file that later stages depend on."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stages.cache.format import (
    COMMANDS,
    Header,
    _check_names,
    _describe,
    _make_header,
    no_features,
    unwritable,
)
from stages.cache.store import CacheReader
from stages.core.errors import CacheError, PipelineError
from stages.core.files import write_text


@dataclass(frozen=True)
class Digest:
    """A digest file: the header and, by id, (key, hash of features)."""

    header: Header
    rows: dict[str, tuple[str, str]]


def digest_path(folder: Path) -> Path:
    """The digest of the cache in `folder`, next to it."""
    return folder.with_name(f"{folder.name}.digest")


def write_digest(
    path: Path, directory: Path, fingerprint: str, rows: Iterable[tuple[str, str]]
) -> None:
    """Write the digest of `rows`, the (id, key) of every utterance of the corpus.

    Raises:
        CacheError: as `CacheReader`; a row whose features are not there; an id twice;
            a damaged part, or the disk refuses.
    """
    rows = sorted(rows)
    reader = CacheReader(directory, fingerprint=fingerprint)
    absent = [id for id, key in rows if key not in reader]
    if absent:
        raise no_features(directory, absent, len(rows), reader.header.kind)
    keys: dict[str, str] = {}
    for id, key in rows:
        _check_names(path, id, key)
        if id in keys:
            raise CacheError(f"id {id!r} stands twice in the corpus", path=path)
        keys[id] = key
    # Of what is not damaged, or the digest would make it the truth.
    hashes = reader.hashes(dict.fromkeys(keys.values()))
    lines = [json.dumps(_describe(reader.header), sort_keys=True)]
    lines += [f"{id} {key} {hashes[key]}" for id, key in keys.items()]
    try:
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


def read_digest(path: Path) -> Digest:
    """The digest in `path`.

    Raises:
        CacheError: the file is missing or not a digest.
    """
    fix = f"run {COMMANDS.get(path.stem, 'the stage that writes it')}"
    try:
        first, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        header = _make_header(json.loads(first))
        triples = [line.rsplit(" ", 2) for line in lines]
        rows = {id: (key, features) for id, key, features in triples}
    except FileNotFoundError:
        raise CacheError("no digest there", path=path, fix=fix) from None
    except (KeyError, TypeError, ValueError, PipelineError) as error:
        raise CacheError(f"not a digest ({error})", path=path, fix=fix) from error
    return Digest(header, rows)
