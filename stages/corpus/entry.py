"""Entries of JSON files, read with checks of their fields.

In error messages an entry is named by its place, such as `line 3` or `entry '17'`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core.errors import InputError

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Control characters, which the manifest cannot hold."""

_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: it is not JSON in UTF-8, or not an object.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    except ValueError as error:
        raise InputError(f"not JSON in UTF-8 ({error})", path=file) from None
    if not isinstance(value, dict):
        raise InputError("not an object", path=file, found=f"{value!r:.60}")
    return value


def read_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """`line <number>`, from 1, and the value of each line of a JSON lines file.

    Raises:
        InputError: a line is not UTF-8 or not JSON; names it.
    """
    # Read bytes: text would also be split at other line separators.
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            where = f"line {number}"
            try:
                yield where, json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                raise not_utf8(file) from None
            except ValueError as error:
                raise InputError(f"{where} is not JSON ({error})", path=file) from None


def not_utf8(file: Path) -> InputError:
    """The error for a file that is not UTF-8; names its first invalid line."""
    what, found = "not UTF-8 text", None
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"line {number} is not UTF-8 text"
            found = f"{line[max(0, error.start - 20) : error.end + 20]!r}"
            break
    return InputError(what, path=file, found=found, fix="save it as UTF-8")


def as_text(value: object) -> str:
    """A JSON value as a field of a table: text unchanged, null as an empty field."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def get_field(file: Path, where: str, entry: Any, key: str, kind: type) -> Any:
    """`entry[key]`, a `kind`: `str`, `list` or `dict`.

    Raises:
        InputError: `entry` is not an object or has no such key, or the value has
            another type.
    """
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise InputError(
            f"{where} has no {key}",
            path=file,
            found=f"{value!r:.60}",
            expected=_KINDS[kind],
        )
    return value


def get_text(file: Path, where: str, entry: Any, key: str) -> str:
    """The words of `entry[key]`, at least one, separated by single spaces.

    Raises:
        InputError: as `get_field`, or there is no word or a control character.
    """
    text = " ".join(get_field(file, where, entry, key, str).split())
    if not text or CONTROL.search(text):
        raise InputError(f"{where} has no usable {key}", path=file, found=repr(text))
    return text


def get_file_name(file: Path, where: str, entry: Any, key: str) -> str:
    """`entry[key]`, the name of a file in the folder of recordings.

    Raises:
        InputError: as `get_field`, or it is not a name but a path.
    """
    name = get_field(file, where, entry, key, str)
    if name in ("", ".", "..") or "/" in name or CONTROL.search(name):
        raise InputError(
            f"{where} has no usable {key}",
            path=file,
            found=repr(name),
            expected="the name of a file in the folder of recordings",
        )
    return name
