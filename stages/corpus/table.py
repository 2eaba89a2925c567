"""A corpus described by a person's own table: CSV, TSV, JSON lines or Parquet."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.core.manifest import SPLITS
from stages.corpus.entry import CONTROL, not_utf8, read_lines
from stages.corpus.params import CorpusParams

# The row of the first utterance, as a person counts: a CSV's heading is row 1.
_FIRST_ROW = {".jsonl": 1, ".parquet": 1}


def read_described(params: CorpusParams, root: Path) -> pd.DataFrame:
    """Rows for the manifest from `params.table` under `root`.

    Without given splits, the column split is empty. Paths in the table are absolute or
    relative to its own folder; here they are relative to `root`.

    Raises:
        ConfigurationError: Parquet without the package that reads it, or a table that
            is not below the root.
        InputError: no such file, a missing column, an empty field, an unknown split,
            a path outside the root, or an intent that no train row has; names the file
            and the row.
    """
    given = Path(params.table)
    if given.is_absolute() or ".." in given.parts:
        raise ConfigurationError(
            "corpus.table leaves the corpus root",
            found=repr(params.table),
            expected="a path relative to the root, below it",
        )
    file = root / given
    if not file.is_file():
        raise InputError(
            "no such table",
            path=file,
            fix="set corpus.table to a file below the corpus root: .csv, .tsv, .jsonl "
            "or .parquet",
        )
    table = read_table(file)
    columns = {
        "path": params.path_column,
        "text": params.text_column,
        "intent": params.intent_column,
    }
    if params.splits == "given":
        columns["split"] = params.split_column
    if params.speaker_column:
        columns["speaker"] = params.speaker_column
    fix = "name the columns in section corpus of params.yaml"
    fix += ", or set corpus.splits to make splits" * ("split" in columns)
    check_columns(file, table, columns.values(), fix=fix)
    rows = pd.DataFrame({ours: table[theirs] for ours, theirs in columns.items()})
    for absent in {"speaker", "split"} - columns.keys():
        rows[absent] = ""
    first = _FIRST_ROW.get(file.suffix.lower(), 2)
    folder = file.parent.relative_to(root)
    rows = checked_rows(
        file,
        rows,
        root=root,
        first=first,
        folder=folder,
        splits=params.splits == "given",
        outside=params.outside_paths,
    )
    if params.splits == "given":
        trained = set(rows.loc[rows["split"] == "train", "intent"])
        check_intents(file, rows, trained, first=first)
    return rows


def read_table(file: Path) -> pd.DataFrame:
    """A table by its suffix, .tsv, .jsonl, .parquet or else CSV; all fields strings.

    Raises:
        ConfigurationError: Parquet without the package that reads it.
        InputError: it is not UTF-8 or not a table; names the line where there is one.
    """
    if file.suffix.lower() == ".jsonl":
        return _read_json_lines(file)
    if file.suffix.lower() == ".parquet":
        return _read_parquet(file)
    return read_text_table(file)


def read_text_table(file: Path) -> pd.DataFrame:
    """A CSV file, or by its suffix a TSV file, with every field a string.

    Raises:
        InputError: it is not UTF-8 or not a table.
    """
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    try:
        # The heading as a row: else pandas takes the first fields of rows that have
        # more than it for an index, and shifts the others.
        table = pd.read_csv(
            file,
            sep=separator,
            header=None,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            skip_blank_lines=False,  # or rows would be counted without them
        )
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"not a readable table ({reason})", path=file) from None
    blank = (table == "").all(axis=1).to_numpy()
    # At the end they are nothing; elsewhere perhaps a row that was lost.
    table = table.iloc[: len(blank) - int(blank[::-1].argmin())]
    if blank.all() or blank[: len(table)].any():
        number = int(blank.argmax()) + 1
        raise InputError(f"line {number} is empty", path=file, fix="remove it")
    names = table.iloc[0].tolist()
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"column {twice[0]!r} stands twice", path=file)
    return table.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)


def _read_json_lines(file: Path) -> pd.DataFrame:
    rows = []
    for where, row in read_lines(file):
        if not isinstance(row, dict):
            raise InputError(
                f"{where} is no object", path=file, found=type(row).__name__
            )
        rows.append({name: as_text(value) for name, value in row.items()})
    return pd.DataFrame(rows, dtype=str).fillna("")


def as_text(value: object) -> str:
    """What a JSON value is as a field of a table: a text as it is, nothing as none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(file)
    except ImportError:
        raise ConfigurationError(
            "reading Parquet needs another package",
            path=file,
            fix="pip install -e '.[parquet]'",
        ) from None
    # pyarrow meets a damaged file with exceptions of its own.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"not a readable table ({reason})", path=file) from error
    return table.astype(object).where(table.notna(), "").astype(str)


def path_from_root(
    root: Path,
    file: Path,
    number: int,
    path: str,
    *,
    folder: Path = Path(),
    outside: str | None = None,
) -> str:
    """`path`, absolute or relative to `folder` of the root, relative to the root.

    Args:
        root: the corpus root.
        file: where the path stands, for the message.
        number: and in which row.
        path: of a recording.
        folder: of the root.
        outside: with `allow` the path may lie outside and then begins with `..`; None
            where a person has no such choice.

    Raises:
        InputError: it lies outside.
    """
    found = Path(os.path.normpath(folder / path))
    if found.is_absolute():
        # Both, since `data/<name>` is a link as a rule.
        for start in (root.absolute(), root.resolve()):
            if found.is_relative_to(start):
                found = found.relative_to(start)
                break
    if found.is_absolute() and outside == "allow":
        found = Path(os.path.relpath(found, root.resolve()))
    elif found.is_absolute() or (found.parts[:1] == ("..",) and outside != "allow"):
        raise InputError(
            f"row {number} leaves the corpus root",
            path=file,
            found=repr(path),
            expected="a path below the corpus root",
            fix="link the recordings' folder into the corpus root"
            + (outside is not None) * ", or set corpus.outside_paths to allow",
        )
    return found.as_posix()


def check_columns(
    file: Path, table: pd.DataFrame, wanted: Iterable[str], *, fix: str | None = None
) -> None:
    """Raise InputError if the table lacks a column of `wanted`."""
    wanted = list(wanted)
    missing = sorted(set(wanted) - set(table.columns))
    if missing:
        raise InputError(
            f"no column {', '.join(missing)}",
            path=file,
            found=", ".join(table.columns),
            expected=", ".join(wanted),
            fix=fix,
        )


def check_intents(
    file: Path, rows: pd.DataFrame, trained: set[str], *, first: int = 2
) -> None:
    """Raise InputError at the first row whose intent is none of `trained`."""
    for number, intent in enumerate(rows["intent"], first):
        if intent not in trained:
            raise InputError(
                f"row {number} has intent {intent!r}, which no train row has",
                path=file,
                fix="move a row of that intent to train or drop the row",
            )


def checked_rows(
    file: Path,
    rows: pd.DataFrame,
    *,
    root: Path,
    first: int = 2,
    folder: Path = Path(),
    splits: bool = True,
    outside: str | None = None,
) -> pd.DataFrame:
    """`rows` once every row has what it needs, with paths from the root.

    The column `where` is added: file and row, as errors name them.

    Args:
        file: the table, for the message.
        rows: columns path, speaker, text, intent and split.
        root: the corpus root.
        first: the number of the first row.
        folder: of the corpus root, which paths are relative to.
        splits: whether there must be one.
        outside: as of `path_from_root`.

    Raises:
        InputError: a row lacks a field or has a bad one, or its path leaves the root.
    """
    # Else two spellings of a speaker are two speakers, of an intent two intents.
    fields = ("speaker", "text", "intent")
    rows = rows.assign(**{field: rows[field].str.strip(" ") for field in fields})
    paths: list[str] = []
    for number, row in enumerate(rows.itertuples(index=False), first):
        for field in ("path", "text", "intent"):
            if not getattr(row, field).strip():
                raise InputError(f"row {number} has no {field}", path=file)
        for field in ("path", "speaker", "text", "intent"):
            # A line break would not survive the manifest.
            if CONTROL.search(getattr(row, field)):
                raise InputError(
                    f"row {number} has a control character in its {field}",
                    path=file,
                    found=repr(getattr(row, field)),
                )
        if splits and row.split not in SPLITS:
            raise InputError(
                f"row {number} has an unknown split",
                path=file,
                found=repr(row.split),
                expected=", ".join(SPLITS),
            )
        paths.append(
            path_from_root(root, file, number, row.path, folder=folder, outside=outside)
        )
        if Path(paths[-1]).name in ("", ".."):
            raise InputError(
                f"row {number} names a folder", path=file, found=repr(row.path)
            )
    table = os.path.relpath(file, root)
    places = [f"{table} row {number}" for number in range(first, first + len(rows))]
    return rows.assign(path=paths, where=places)
