"""A corpus described by a person's own CSV or TSV file."""

import re
from pathlib import Path

import pandas as pd

from stages.corpus.params import CorpusParams
from stages.errors import InputError
from stages.manifest import SPLITS

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_described(params: CorpusParams, root: Path) -> pd.DataFrame:
    """Rows for the manifest from `params.table` under `root`.

    Raises:
        InputError: no such file, a missing column, an empty field, an unknown split,
            or an intent that no train row has; names the file and the row (the
            heading is row 1).
    """
    file = root / params.table
    if not file.is_file():
        raise InputError(
            "no such table",
            path=file,
            fix="set corpus.table to a CSV or TSV file below the corpus root",
        )
    table = read_text_table(file)
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
    check_intents(file, rows, set(rows.loc[rows["split"] == "train", "intent"]))
    return rows


def read_text_table(file: Path) -> pd.DataFrame:
    """A CSV file, or by its suffix a TSV file, with every field a string.

    Raises:
        InputError: it is not UTF-8 or not a table.
    """
    separator = "\t" if file.suffix == ".tsv" else ","
    try:
        return pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    except UnicodeDecodeError as error:
        raise InputError(
            "not UTF-8 text", path=file, found=str(error), fix="save it as UTF-8"
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        reason = str(error).strip()
        raise InputError(f"not a readable table ({reason})", path=file) from None


def check_intents(file: Path, rows: pd.DataFrame, trained: set[str]) -> None:
    """Raise InputError at the first row whose intent is none of `trained`."""
    for number, intent in enumerate(rows["intent"], 2):
        if intent not in trained:
            raise InputError(
                f"row {number} has intent {intent!r}, which no train row has",
                path=file,
                fix="move a row of that intent to train or drop the row",
            )


def check_rows(file: Path, rows: pd.DataFrame) -> None:
    """Raise InputError at the first row that lacks a field or has a bad one."""
    for number, row in enumerate(rows.itertuples(index=False), 2):
        for field in ("path", "text", "intent"):
            if not getattr(row, field).strip():
                raise InputError(f"row {number} has no {field}", path=file)
        for field in ("path", "speaker", "text", "intent"):
            # A line break would not survive the manifest.
            if _CONTROL.search(getattr(row, field)):
                raise InputError(
                    f"row {number} has a control character in its {field}",
                    path=file,
                    found=repr(getattr(row, field)),
                )
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
