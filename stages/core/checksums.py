"""Checksums, so that a damaged file is not believed.

Two forms. A JSON file has its own checksum in a field (`write_sealed`). Tables, which
other programs read too, have theirs in a file next to them, in the format of
`sha256sum`, so that `sha256sum --check` works as well (`write_sums`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.core.errors import InputError
from stages.core.files import json_text, write_json, write_text
from stages.core.hashing import fingerprint, hash_file

_FIELD = "sha256"


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value`, JSON-able, with its checksum in the field `sha256`."""
    return {**value, _FIELD: fingerprint(value)}


def unseal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value that `seal` got.

    Raises:
        ValueError: it has no checksum, or another one.
        TypeError: not an object.
    """
    if not isinstance(value, Mapping):
        raise TypeError("not an object")
    bare = {name: one for name, one in value.items() if name != _FIELD}
    if value.get(_FIELD) != fingerprint(bare):
        raise ValueError("its checksum does not match its content")
    return bare


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum to `path`, atomically."""
    write_json(path, seal(value))


def read_sealed(path: Path) -> dict[str, Any]:
    """The object in a file that `write_sealed` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError, TypeError, RecursionError: a byte of it has changed.
    """
    content = path.read_bytes()
    value = json.loads(content)
    bare = unseal(value)
    if json_text(value).encode() != content:  # as with a key that is there twice
        raise ValueError("not as it was written")
    return bare


def write_sums(path: Path, names: Sequence[str]) -> None:
    """Write the SHA-256 of each of the files `names`, which are next to `path`."""
    lines = [f"{hash_file(path.with_name(name))}  {name}\n" for name in names]
    write_text(path, "".join(lines))


def check_sum(file: Path, sums: str, *, fix: str) -> None:
    """Check a file against the sums next to it.

    Args:
        file: the file.
        sums: the name of the file that `write_sums` wrote.
        fix: the command that writes both.

    Raises:
        InputError: the file is missing or has changed, or its sum is missing.
    """
    if not file.is_file():
        raise InputError("no such file", path=file, fix=fix)
    path = file.with_name(sums)
    if not path.is_file():
        raise InputError("no checksum of it", path=file, expected=path, fix=fix)
    lines = path.read_bytes().splitlines()
    if f"{hash_file(file)}  {file.name}".encode() not in lines:
        what = f"not as it was written, by its checksum in {sums}"
        raise InputError(what, path=file, fix=fix)
