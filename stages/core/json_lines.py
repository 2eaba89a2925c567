"""Read JSON strictly: values, and files with one on each line."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.core.errors import InputError
from stages.core.table import empty_line, not_utf8


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
                yield where, parse_json(text)
            except UnicodeDecodeError:
                raise not_utf8(file) from None
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} is not JSON ({error})", path=file) from None


def parse_json(text: str) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is not JSON, which has neither NaN nor Infinity; a number is too
            large; or a key is repeated, of which Python would use the last.
        RecursionError: it is nested too deeply.
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
