"""A corpus described by a person's own CSV or TSV file."""

from pathlib import Path

import pandas as pd

from stages.corpus.params import CorpusParams
from stages.errors import InputError
from stages.manifest import SPLITS


def read_described(params: CorpusParams, root: Path) -> pd.DataFrame:
    """Rows for the manifest from `params.table` under `root`.

    Raises:
        InputError: no such file, a missing column, an empty field, or an unknown
            split; names the file and the row (the heading is row 1).
    """
    file = root / params.table
    if not file.is_file():
        raise InputError(
            "no such table",
            path=file,
            fix="set corpus.table to a CSV or TSV file below the corpus root",
        )
    separator = "\t" if file.suffix == ".tsv" else ","
    try:
        table = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    except UnicodeDecodeError as error:
        raise InputError(
            "not UTF-8 text", path=file, found=str(error), fix="save it as UTF-8"
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"not a readable table ({error})", path=file) from None
    columns = {
        "path": params.path_column,
        "split": params.split_column,
        "text": params.text_column,
        "intent": params.intent_column,
    }
    if params.speaker_column:
        columns["speaker"] = params.speaker_column
    missing = sorted(set(columns.values()) - set(table.columns))
    if missing:
        raise InputError(
            f"no column {', '.join(missing)}",
            path=file,
            found=", ".join(table.columns),
            fix="name the columns in section corpus of params.yaml",
        )
    rows = pd.DataFrame({ours: table[theirs] for ours, theirs in columns.items()})
    if not params.speaker_column:
        rows["speaker"] = ""
    check_rows(file, rows)
    return rows


def check_rows(file: Path, rows: pd.DataFrame) -> None:
    """Raise InputError at the first row that lacks a field or has a bad one."""
    for number, row in enumerate(rows.itertuples(index=False), 2):
        for field in ("path", "text", "intent"):
            if not getattr(row, field).strip():
                raise InputError(f"row {number} has no {field}", path=file)
        if row.split not in SPLITS:
            raise InputError(
                f"row {number} has an unknown split",
                path=file,
                found=repr(row.split),
                expected=", ".join(SPLITS),
            )
        if Path(row.path).is_absolute() or ".." in Path(row.path).parts:
            raise InputError(
                f"row {number} leaves the corpus root",
                path=file,
                found=repr(row.path),
                expected="a path relative to the corpus root",
            )
