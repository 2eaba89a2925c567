"""The rows of a corpus: the checks that all adapters share.

An adapter makes a table with the columns `COLUMNS`. The last two locate a row in error
messages: the `file` that names the recording and the `row` there, such as `row 3`,
`line 3` or `entry '17'`.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.labels import NONE, SEPARATOR, Labels
from stages.core.manifest import SPLITS
from stages.core.table import CONTROL, clean_text
from stages.corpus.links import ALLOW, COPY
from stages.corpus.params import CorpusParams

COLUMNS = ("path", "split", "speaker", "text", "intent", "file", "row")


def check_file(file: Path, corpus: str, fix: str) -> None:
    """Raise InputError if a file of a release is missing."""
    if not os.path.isfile(file):
        raise InputError(f"not a {corpus} folder: no such file", path=file, fix=fix)


def check_folder(folder: Path, fix: str) -> None:
    """Raise InputError if a folder of recordings is missing."""
    if not os.path.isdir(folder):
        raise InputError("no such folder of recordings", path=folder, fix=fix)


def check_columns(
    file: Path, found: Iterable[str], wanted: Iterable[str], *, fix: str | None = None
) -> dict[str, str]:
    """The column in `found` of each name in `wanted`, the same or one that looks so.

    Raises:
        InputError: there is none.
    """
    found, wanted = list(found), list(wanted)
    known = {clean_text(name): name for name in found} | {name: name for name in found}
    columns = {name: known.get(name, known.get(clean_text(name))) for name in wanted}
    missing = sorted(name for name, column in columns.items() if column is None)
    if missing:
        raise InputError(
            f"no column {', '.join(missing)}",
            path=file,
            found=", ".join(found),
            expected=", ".join(wanted),
            fix=fix,
        )
    return {name: column for name, column in columns.items() if column is not None}


def split_of_parts(params: CorpusParams) -> dict[str, str]:
    """The split of each part of `params.parts`; empty if splits are to be made."""
    given = params.splits == "given"
    return {
        part: SPLITS[place] if given else "" for place, part in enumerate(params.parts)
    }


def path_from_root(
    params: CorpusParams, root: Path, file: Path, number: int, path: str
) -> str:
    """`path`, absolute or relative to the root, as a path relative to the root.

    Args:
        params: `outside_paths` allows paths outside the root, which begin with `..`.
        root: the corpus root.
        file: the table with the path, for the message.
        number: the row, for the message.
        path: of a recording.

    Raises:
        InputError: the path is outside the root and that is not allowed.
    """
    found = Path(os.path.normpath(path))
    if found.is_absolute():
        # Try both: `data/<name>` is usually a link.
        for start in (root.absolute(), root.resolve()):
            if found.is_relative_to(start):
                found = found.relative_to(start)
                break
    allowed = params.outside_paths == "allow"
    if found.is_absolute() and allowed:
        found = Path(os.path.relpath(found, root.resolve()))
    elif found.is_absolute() or (found.parts[:1] == ("..",) and not allowed):
        raise InputError(
            f"row {number} leaves the corpus root",
            path=file,
            found=repr(path),
            expected="a path below the corpus root",
            fix=f"{COPY}; or {ALLOW}",
        )
    return found.as_posix()


def checked_rows(
    params: CorpusParams,
    root: Path,
    file: Path,
    rows: pd.DataFrame,
    *,
    first: int = 2,
    folder: Path = Path(),
) -> pd.DataFrame:
    """`rows` with paths relative to the root, and the columns `file` and `row`.

    Args:
        params: whether splits are given and paths can be outside the root.
        root: the corpus root.
        file: the table.
        rows: columns path, split, speaker, text and intent or, if the corpus names
            slots, theirs; others are dropped.
        first: the number of the first row.
        folder: what paths are relative to, itself relative to the root.

    Raises:
        InputError: a row has a missing or invalid field, or its path leaves the root.
    """
    fields = ("path", "split", "speaker", "text", *(params.slots or ("intent",)))
    rows = checked_fields(params, file, rows[[*fields]], first=first)
    paths: list[str] = []
    for number, row in enumerate(rows.itertuples(index=False), first):
        if params.splits == "given" and row.split not in SPLITS:
            raise InputError(
                f"row {number} has an unknown split",
                path=file,
                found=repr(row.split),
                expected=", ".join(SPLITS),
            )
        path = path_from_root(params, root, file, number, str(folder / row.path))
        if Path(path).name in ("", ".."):
            raise InputError(
                f"row {number} names a folder", path=file, found=repr(row.path)
            )
        paths.append(path)
    places = [f"row {number}" for number in range(first, first + len(rows))]
    return rows.assign(path=paths, file=file, row=places)


def checked_fields(
    params: CorpusParams, file: Path, rows: pd.DataFrame, *, first: int = 2
) -> pd.DataFrame:
    """`rows` with clean fields, except paths, and the column intent for any slots.

    Args:
        params: names the slots.
        file: the table, for the message.
        rows: columns text and intent or, if the corpus names slots, theirs; and others.
        first: the number of the first row.

    Raises:
        InputError: a row has a missing or invalid field.
    """
    for field in rows:
        for number, value in enumerate(rows[field], first):
            if CONTROL.search(value):
                raise InputError(
                    f"row {number} has a control character in its {field}",
                    path=file,
                    found=repr(value),
                )
    # Otherwise two spellings of a speaker are two speakers, of an intent two intents.
    clean = {field: rows[field].map(clean_text) for field in rows if field != "path"}
    rows = rows.assign(**clean)
    if params.slots:
        rows = join_slots(params, file, rows, first=first)
    needed = [field for field in ("path", "text", "intent") if field in rows]
    for number, row in enumerate(rows[needed].itertuples(index=False), first):
        for field, value in zip(needed, row, strict=True):
            if not clean_text(value):
                raise InputError(f"row {number} has no {field}", path=file)
    return rows


def join_slots(
    params: CorpusParams, file: Path, rows: pd.DataFrame, *, first: int = 2
) -> pd.DataFrame:
    """`rows` with the column intent, the frame, in place of the slots' columns.

    Args:
        params: names the slots.
        file: the table, for the message.
        rows: a column for each slot; an empty field is the value `none`.
        first: the number of the first row.

    Raises:
        InputError: a value contains the separator.
    """
    slots = list(params.slots)
    values = rows[slots].replace("", NONE)
    for number, row in enumerate(values.itertuples(index=False, name=None), first):
        for slot, value in zip(slots, row, strict=True):
            if SEPARATOR in value:
                raise InputError(
                    f"row {number} has {SEPARATOR!r} in its {slot}",
                    path=file,
                    found=repr(value),
                    fix=f"write the value without {SEPARATOR!r}, which joins the slots",
                )
    return rows.drop(columns=slots).assign(intent=values.agg(SEPARATOR.join, axis=1))


def joined_rows(
    params: CorpusParams,
    root: Path,
    parts: Sequence[pd.DataFrame],
    *,
    fix: str = "move a row of that intent to train or drop the row",
) -> pd.DataFrame:
    """The rows of all parts, with the column `where` in place of `file` and `row`.

    Args:
        params: whether splits are given.
        root: the corpus root.
        parts: tables with the columns `COLUMNS`.
        fix: what the user can do about an intent that train lacks.

    Raises:
        InputError: splits are given, and no train row has the intent of some row, or
            its value of a slot.
    """
    table = pd.concat(parts, ignore_index=True)
    if params.splits == "given":
        labels = Labels.of(table["intent"], params.slots)
        in_train = table["split"] == "train"
        for place, slot, value in labels.untrained(table["intent"], in_train):
            raise InputError(
                f"{table['row'][place]} has {slot} {value!r}, which no train row has",
                path=table["file"][place],
                fix=fix,
            )
    names = {file: os.path.relpath(file, root) for file in table["file"].unique()}
    places = zip(table["file"], table["row"], strict=True)
    where = [f"{names[file]} {row}" for file, row in places]
    return table.drop(columns=["file", "row"]).assign(where=where)
