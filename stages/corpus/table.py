"""A corpus described by the user's own table: CSV, TSV, JSON lines or Parquet."""

import os
from pathlib import Path

import pandas as pd

from stages.core.errors import ConfigurationError, InputError, needs_extra
from stages.core.json_lines import as_text, read_lines
from stages.core.paths import path_on_disk
from stages.core.table import read_columns
from stages.corpus.params import CorpusParams
from stages.corpus.rows import check_columns, checked_rows, joined_rows

COLUMNS_FIX = "name the columns in section corpus of params.yaml"


def read_described(params: CorpusParams, root: Path) -> pd.DataFrame:
    """Rows for the manifest from `params.table` under `root`.

    Paths in the table are absolute or relative to its own folder; in the result they
    are relative to `root`. The column split is empty if splits are to be made.

    Raises:
        ConfigurationError: the table is outside the root, or it is Parquet and pyarrow
            is not installed.
        InputError: the table or a column is missing, or a row is invalid; names the
            file and the row.
    """
    return joined_rows(params, root, [described_rows(params, root, params.table)])


def described_rows(
    params: CorpusParams,
    root: Path,
    name: str,
    *,
    parameter: str = "table",
    split: str = "",
) -> pd.DataFrame:
    """As `read_described`, with the columns `COLUMNS`; intents are not checked.

    Args:
        params: the names of columns.
        root: the corpus root.
        name: the table, relative to the root.
        parameter: where the user gave it.
        split: of all rows, in place of a column.
    """
    file, table = find_table(root, name, parameter)
    columns = {"path": params.path_column, **label_columns(params)}
    fix = COLUMNS_FIX
    if params.splits == "given" and not split:
        columns["split"] = params.split_column
        fix += ", or set corpus."
        fix += "splits to make splits" if parameter == "table" else "recordings_split"
    if params.speaker_column:
        columns["speaker"] = params.speaker_column
    found = check_columns(file, table.columns, columns.values(), fix=fix)
    rows = pd.DataFrame({ours: table[found[name]] for ours, name in columns.items()})
    for absent in {"speaker", "split"} - columns.keys():
        rows[absent] = split if absent == "split" else ""
    folder = file.parent.relative_to(root)
    return checked_rows(params, root, file, rows, first=first_row(file), folder=folder)


def label_columns(params: CorpusParams) -> dict[str, str]:
    """The columns of text and labels in the user's tables, by our names."""
    labels = {slot: slot for slot in params.slots} or {"intent": params.intent_column}
    return {"text": params.text_column, **labels}


def find_table(root: Path, name: str, parameter: str) -> tuple[Path, pd.DataFrame]:
    """The path of the user's table `name` and its content, all fields strings.

    Args:
        root: the corpus root.
        name: the table, relative to the root.
        parameter: of the corpus, where the user gave it.

    Raises:
        ConfigurationError: the table is outside the root, or it is Parquet and pyarrow
            is not installed.
        InputError: it is missing or not a table.
    """
    check_below_root(name, f"corpus.{parameter}")
    file = root / path_on_disk(root, name)
    if not os.path.isfile(file):
        raise InputError(
            "no such table",
            path=file,
            fix=f"set corpus.{parameter} to a file below the corpus root: .csv, .tsv, "
            ".jsonl or .parquet",
        )
    return file, read_table(file)


def check_below_root(name: str, parameter: str) -> None:
    """Check that the file `name`, as `parameter` gives it, is below the corpus root.

    Raises:
        ConfigurationError: it is not, and DVC would not notice its changes.
    """
    given = Path(name)
    if given.is_absolute() or ".." in given.parts:
        raise ConfigurationError(
            f"{parameter} leaves the corpus root",
            found=repr(name),
            expected="a path relative to the root, below it",
        )


def first_row(file: Path) -> int:
    """The number of the first row in messages; a CSV's heading is row 1."""
    return 1 if file.suffix.lower() in (".jsonl", ".parquet") else 2


def read_table(file: Path) -> pd.DataFrame:
    """Read .tsv, .jsonl, .parquet or, with any other suffix, CSV; all fields strings.

    Raises:
        ConfigurationError: it is Parquet and pyarrow is not installed.
        InputError: it is not UTF-8 or not a table; names the line if there is one.
    """
    match file.suffix.lower():
        case ".jsonl":
            return _read_json_lines(file)
        case ".parquet":
            return _read_parquet(file)
    return read_text_table(file)


def read_text_table(file: Path) -> pd.DataFrame:
    """Read a TSV file, or with any other suffix CSV, with every field a string.

    Raises:
        InputError: it is not UTF-8 or not a table; names the line.
    """
    return pd.DataFrame(read_columns(file), dtype=str)


def _read_json_lines(file: Path) -> pd.DataFrame:
    rows = []
    for where, row in read_lines(file):
        if not isinstance(row, dict):
            raise InputError(
                f"{where} is not an object", path=file, found=type(row).__name__
            )
        rows.append({name: as_text(value) for name, value in row.items()})
    # Not `str`, which half a character, such as "\\ud83d", cannot be in.
    return pd.DataFrame(rows, dtype=object).fillna("")


def _read_parquet(file: Path) -> pd.DataFrame:
    with needs_extra("parquet"):
        import pyarrow.parquet  # type: ignore[import-untyped]
    try:
        columns = pyarrow.parquet.read_table(file).to_pydict()
    # pyarrow has exceptions of its own for a damaged file.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"not a readable table ({reason})", path=file) from error
    fields = {name: list(map(as_text, values)) for name, values in columns.items()}
    return pd.DataFrame(fields, dtype=str)
