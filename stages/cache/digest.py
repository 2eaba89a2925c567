"""The digest: the hashes of all features of a corpus, on which later stages depend.

`<directory>.digest` is next to the cache `<directory>/`: one line of JSON with the
header, then a line `id key hash-of-features` for each utterance, sorted. It does not
depend on the order, the parts or the number of runs that filled the cache.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stages.cache.format import (
    COMMANDS,
    Header,
    check_id,
    describe_header,
    no_features,
    parse_header,
    unwritable,
)
from stages.cache.store import CacheReader
from stages.core.errors import CacheError
from stages.core.files import write_text


@dataclass(frozen=True)
class Digest:
    """The content of a digest: the header and, by id, (key, hash of features)."""

    header: Header
    rows: dict[str, tuple[str, str]]


def digest_path(folder: Path) -> Path:
    """The digest of the cache in `folder`, next to it."""
    return folder.with_name(f"{folder.name}.digest")


def write_digest(
    path: Path, directory: Path, fingerprint: str, rows: Iterable[tuple[str, str]]
) -> None:
    """Write the digest of a corpus.

    Args:
        path: the digest.
        directory: the cache.
        fingerprint: of the encoder.
        rows: (id, key) of every utterance.

    Raises:
        CacheError: as `CacheReader`; features that are missing; a damaged part; an id
            with control characters; or the digest cannot be written.
    """
    rows = sorted(rows)
    reader = CacheReader(directory, fingerprint=fingerprint)
    absent = [id for id, key in rows if key not in reader]
    if absent:
        raise no_features(directory, absent, len(rows), reader.header.kind)
    for id, _ in rows:
        check_id(path, id)
    # With checksums, so that damaged features do not get into the digest.
    hashes = reader.hashes(dict.fromkeys(key for _, key in rows))
    lines = [json.dumps(describe_header(reader.header), sort_keys=True)]
    lines += [f"{id} {key} {hashes[key]}" for id, key in rows]
    try:
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


def read_digest(path: Path) -> Digest:
    """Read a digest.

    Raises:
        CacheError: the file is missing or not a digest.
    """
    fix = f"run {COMMANDS.get(path.stem, 'the stage that writes it')}"
    try:
        first, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        header = parse_header(json.loads(first))
        triples = [line.rsplit(" ", 2) for line in lines]
        rows = {id: (key, features) for id, key, features in triples}
    except FileNotFoundError:
        raise CacheError("no digest", path=path, fix=fix) from None
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"not a digest ({error})", path=path, fix=fix) from error
    return Digest(header, rows)
