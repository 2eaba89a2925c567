"""Entries of JSON files, read with checks of their fields.

In error messages an entry is named by its place, such as `line 3` or `entry '17'`.
"""

from pathlib import Path
from typing import Any

from stages.core.errors import InputError
from stages.core.json_lines import parse_json
from stages.core.table import CONTROL, clean_text, not_utf8

_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: it is not JSON in UTF-8, or not an object.
    """
    try:
        value = parse_json(file.read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON in UTF-8 ({error})", path=file) from None
    if not isinstance(value, dict):
        raise InputError("not an object", path=file, found=f"{value!r:.60}")
    return value


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
