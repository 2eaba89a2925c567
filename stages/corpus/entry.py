"""Entries of JSON files, read with checks of their fields.

In error messages an entry is named by its place, such as `line 3` or `entry '17'`.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core.errors import InputError
from stages.core.table import clean_text, empty_line, not_utf8

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and halves of characters, which the manifest cannot hold."""

_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: it is not JSON in UTF-8, or not an object.
    """
    try:
        value = _parse(file.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON in UTF-8 ({error})", path=file) from None
    if not isinstance(value, dict):
        raise InputError("not an object", path=file, found=f"{value!r:.60}")
    return value


def read_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """`line <number>`, from 1, and the value of each line of a JSON lines file.

    Empty lines at the end are left out.

    Raises:
        InputError: a line is not UTF-8 or not JSON, or empty; names it.
    """
    blank = 0
    # Read bytes: text would also be split at other line separators.
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            where = f"line {number}"
            if not line.strip():
                blank = blank or number
                continue
            if blank:
                raise empty_line(file, blank)
            try:
                # Some editors begin a file with a byte order mark.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield where, _parse(text)
            except UnicodeDecodeError:
                raise not_utf8(file) from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} is not JSON ({error})", path=file) from None


def _parse(text: str) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is not JSON, which has neither NaN nor Infinity; a number is too
            large; or a key is repeated, of which Python would use the last.
    """
    return json.loads(
        text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_unique
    )


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is not a finite number")
    return float(number)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r} is repeated")
    return dict(pairs)


def as_text(value: object) -> str:
    """A value as a field of a table: text unchanged, null and NaN as an empty field."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


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
    """`entry[key]`, cleaned, with at least one word.

    Raises:
        InputError: as `get_field`, or there is no word or a control character.
    """
    text = clean_text(get_field(file, where, entry, key, str))
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
