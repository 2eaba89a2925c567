"""Transcripts from a table made by another recogniser."""

import csv
from pathlib import Path

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.core.text import name_some

# Separator and quoting by the file's suffix.
_FORMATS = {".csv": (",", csv.QUOTE_MINIMAL), ".tsv": ("\t", csv.QUOTE_NONE)}


def read_given(path: Path, column: str, ids: pd.Series) -> list[str]:
    """The transcripts of `ids`, in the table's columns `id` and `column`.

    Raises:
        ConfigurationError: a file of another suffix.
        InputError: the table cannot be read, or lacks a column or an utterance.
    """
    if path.suffix not in _FORMATS:
        raise ConfigurationError(
            "not a table of transcripts by its name",
            path=path,
            expected=" or ".join(_FORMATS),
            fix="set baseline1.model to the table",
        )
    try:
        separator, quoting = _FORMATS[path.suffix]
        table = pd.read_csv(
            path, sep=separator, quoting=quoting, dtype=str, keep_default_na=False
        )
    except (OSError, ValueError) as error:
        raise InputError(
            "cannot read the table of transcripts",
            path=path,
            found=getattr(error, "strerror", None) or error,
        ) from None
    for name in ("id", column):
        if name not in table.columns:
            raise InputError(
                f"no column {name!r}",
                path=path,
                found=f"columns {', '.join(table.columns)}",
                fix="rename the column, or set baseline1.column",
            )
    repeated = table["id"][table["id"].duplicated()]
    if not repeated.empty:
        raise InputError(f"id {repeated.iloc[0]!r} occurs twice", path=path)
    given = dict(zip(table["id"], table[column], strict=True))
    missing = [id for id in ids if id not in given]
    if missing:
        raise InputError(
            f"{len(missing)} utterances of valid and test have no transcript",
            path=path,
            found=f"none for {name_some(missing)}",
            fix="add their rows; a transcript can be empty",
        )
    return [given[id] for id in ids]
