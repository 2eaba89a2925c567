"""What to classify: files, folders, tables of files, and standard input."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stages.core.errors import InputError, PipelineError
from stages.core.json_lines import as_text, read_lines
from stages.core.labels import NONE, SEPARATOR
from stages.core.paths import missing_fix, path_on_disk
from stages.core.rules import shown
from stages.core.table import CONTROL, clean_text, read_columns
from stages.speech.loading import SUFFIXES

TABLES = (".csv", ".tsv", ".jsonl")

_STDIN = "-"


@dataclass(frozen=True)
class Recording:
    """A recording to classify.

    Attributes:
        id: its path as given, its id in the table, or `-`.
        path: the file.
        data: the bytes of standard input; None for a file.
        intent: the right answer, if the table has one; with slots the values of all.
    """

    id: str
    path: Path
    data: bytes | None = None
    intent: str | None = None


def find_recordings(
    names: Iterable[str],
    root: Path | None,
    stdin: BinaryIO,
    slots: Sequence[str] = (),
) -> Iterator[Recording | PipelineError]:
    """The recordings that `names` are or contain, in order; errors in their places.

    Args:
        names: each a recording, a folder, searched with its subfolders, a table
            (`.csv`, `.tsv` or `.jsonl`) with a column `path` and possibly `id` and
            `intent` or all `slots`, or `-` for a recording on standard input.
        root: folder that the tables' paths are relative to; each table's own by
            default.
        stdin: standard input.
        slots: of the model.
    """
    for name in names:
        path = Path(name)
        try:
            if not name:
                raise InputError("an empty name instead of a recording or folder")
            if name == _STDIN:
                yield Recording(_STDIN, path, stdin.read())
            elif path.is_dir():
                yield from _in_folder(path)
            elif path.suffix.lower() in TABLES:
                yield from _in_table(path, root or path.parent, slots)
            else:
                yield Recording(name, path)
        except PipelineError as error:
            yield error


def _in_folder(folder: Path) -> Iterator[Recording]:
    paths = sorted(path for path in _files(folder) if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(
            "no recordings in this folder",
            path=folder,
            expected=f"files ending in {', '.join(SUFFIXES)}",
        )
    for path in paths:
        yield Recording(str(path), path)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder; links are followed, each folder once."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        if (place := os.path.realpath(name)) in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(name) / file for file in files)


def _in_table(
    table: Path, root: Path, slots: Sequence[str]
) -> Iterator[Recording | PipelineError]:
    try:
        rows = list(_rows(table))
    except OSError as error:
        raise InputError(f"not a readable table ({error})", path=table) from error
    if not rows:
        raise InputError("the table has no rows", path=table)
    for where, row in rows:
        path = row.get("path") if isinstance(row, dict) else None
        if not isinstance(path, str) or not path:
            raise InputError(
                f"{where} has no path",
                path=table,
                expected="a column path, and optionally id and intent",
            )
        id = as_text(row.get("id")) or path
        if CONTROL.search(path + id):
            raise InputError(
                f"{where} has a control character in its path or id",
                path=table,
                found=f"{shown(path)}, {shown(id)}",
            )
        found = path_on_disk(root, path)
        fix = None if os.path.isfile(root / found) else missing_fix([path])
        if fix:
            yield InputError(
                f"{where} names a missing recording",
                path=table,
                found=shown(path),
                fix=fix,
            )
            continue
        yield Recording(id, root / found, intent=_label(row, slots))


def _label(row: dict[str, Any], slots: Sequence[str]) -> str | None:
    """The right answer in a row of a table, as the classifier would give it."""
    # Labels are compared as they look, as in training.
    if slots and all(slot in row for slot in slots):
        values = (clean_text(as_text(row[slot])) or NONE for slot in slots)
        return SEPARATOR.join(values)
    return clean_text(as_text(row.get("intent"))) or None


def _rows(table: Path) -> Iterator[tuple[str, Any]]:
    """The place of each row, such as `row 2`, and its fields by their columns."""
    if table.suffix.lower() == ".jsonl":
        yield from read_lines(table)
        return
    columns = read_columns(table)
    for number, row in enumerate(zip(*columns.values(), strict=True), 2):
        yield f"row {number}", dict(zip(columns, row, strict=True))
