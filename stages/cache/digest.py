"""The digest: the hashes of all features of a corpus, on which later stages depend.

`<directory>.digest` is next to the cache `<directory>/`: one line of JSON with the
header, the hash of all other lines (`rows`) and the checksum of these (`sha256`), then
a line `id key hash-of-features` for each utterance, sorted. It does not depend on the
order, the parts or the number of runs that filled the cache.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.cache.format import (
    Header,
    check_id,
    command,
    damaged,
    describe_header,
    no_features,
    parse_header,
    unwritable,
)
from stages.cache.store import CacheReader
from stages.core.checksums import seal, unseal
from stages.core.errors import CacheError
from stages.core.files import write_text
from stages.core.hashing import hash_bytes


@dataclass(frozen=True)
class Digest:
    """The content of a digest: the header and, by id, (key, hash of features)."""

    header: Header
    rows: dict[str, tuple[str, str]]


def digest_path(folder: Path) -> Path:
    """The digest of the cache in `folder`, next to it."""
    return folder.with_name(f"{folder.name}.digest")


def summary_path(folder: Path) -> Path:
    """What is written about the cache of targets in `folder`, next to it."""
    return folder.with_name(f"{folder.name}.json")


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
    text = "".join(f"{id} {key} {hashes[key]}\n" for id, key in rows)
    head = seal({**describe_header(reader.header), "rows": hash_bytes(text.encode())})
    try:
        write_text(path, f"{_first_line(head)}\n{text}")
    except OSError as error:
        raise unwritable(path, error) from error


def read_digest(path: Path) -> Digest:
    """Read a digest.

    Raises:
        CacheError: the file is missing, damaged or not a digest.
    """
    fix = f"run {command(path.with_suffix(''))}"
    try:
        first, text = path.read_bytes().split(b"\n", 1)
        sealed = json.loads(first)
        head = unseal(sealed)
        if _first_line(sealed).encode() != first or hash_bytes(text) != head["rows"]:
            raise ValueError("its lines are not as they were written")
        header = parse_header(head)
        triples = [line.rsplit(" ", 2) for line in text.decode().split("\n")[:-1]]
        rows = {id: (key, features) for id, key, features in triples}
    except FileNotFoundError:
        raise CacheError("no digest", path=path, fix=fix) from None
    except OSError as error:
        raise damaged(path, error) from error
    except (KeyError, TypeError, ValueError) as error:
        what = f"damaged, or not a digest ({error})"
        raise CacheError(what, path=path, fix=fix) from error
    return Digest(header, rows)


def _first_line(head: dict[str, Any]) -> str:
    return json.dumps(head, sort_keys=True)
