"""Entries of JSON files: fields that are there and of the right kind.

An entry is called in errors by where it stands, such as `line 3` or `entry '17'`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core.errors import InputError

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""Would not survive the manifest."""

_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def read_object(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

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
        raise InputError(
            "not the release's file", path=file, found=f"{value!r:.60}", expected="{…}"
        )
    return value


def read_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """`line <number>`, from 1, and what that line of a JSON lines file says.

    Raises:
        InputError: a line is not UTF-8 or not JSON; names it.
    """
    # As bytes, since text would also be split at other line separators.
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
    """What to raise for a file that is not UTF-8: names its first such line."""
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"{line[max(0, error.start - 20) : error.end + 20]!r}"
            return InputError(
                f"line {number} is not UTF-8 text",
                path=file,
                found=found,
                fix="save it as UTF-8",
            )
    return InputError("not UTF-8 text", path=file, fix="save it as UTF-8")


def get_field(file: Path, where: str, entry: Any, key: str, kind: type) -> Any:
    """`entry[key]`, a `kind`: `str`, `list` or `dict`.

    Raises:
        InputError: `entry` has no such key or is no object, or the value is another
            kind.
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
    """The words of `entry[key]` with single spaces, at least one.

    Raises:
        InputError: as `get_field`, or a control character that is no space.
    """
    text = " ".join(get_field(file, where, entry, key, str).split())
    # A control character would not survive the manifest.
    if not text or CONTROL.search(text):
        raise InputError(f"{where} has no usable {key}", path=file, found=repr(text))
    return text


def get_file_name(file: Path, where: str, entry: Any, key: str) -> str:
    """`entry[key]`, the name of a file in a folder known otherwise.

    Raises:
        InputError: as `get_field`, or it is no name or leads out of that folder.
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
