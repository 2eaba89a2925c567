"""Transcripts from a table made by another recogniser."""

from pathlib import Path

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.core.table import clean_text, read_columns
from stages.core.text import name_some

_SUFFIXES = (".csv", ".tsv")


def read_given(path: Path, column: str, ids: pd.Series) -> list[str]:
    """The transcripts of `ids`, in the table's columns `id` and `column`.

    Raises:
        ConfigurationError: a file of another suffix.
        InputError: the table cannot be read, or lacks a column or an utterance.
    """
    if path.suffix not in _SUFFIXES:
        raise ConfigurationError(
            "not a table of transcripts by its name",
            path=path,
            expected=" or ".join(_SUFFIXES),
            fix="set baseline1.model to the table",
        )
    try:
        # In TSV, quotation marks are what was recognised.
        table = read_columns(path, quoted=path.suffix == ".csv")
    except OSError as error:
        raise InputError(
            "cannot read the table of transcripts", path=path, found=error.strerror
        ) from None
    column = clean_text(column)  # as names of columns are
    for name in ("id", column):
        if name not in table:
            raise InputError(
                f"no column {name!r}",
                path=path,
                found=f"columns {', '.join(table)}",
                fix="rename the column, or set baseline1.column",
            )
    if len(set(table["id"])) < len(table["id"]):
        repeated = next(id for id in table["id"] if table["id"].count(id) > 1)
        raise InputError(f"id {repeated!r} occurs twice", path=path)
    rows = dict(zip(table["id"], table[column], strict=True))
    # An id is a path, which a Mac spells with other characters.
    alike = {clean_text(id): text for id, text in rows.items()}
    given = {id: rows.get(id, alike.get(clean_text(id))) for id in ids}
    missing = [id for id, text in given.items() if text is None]
    if missing:
        raise InputError(
            f"{len(missing)} utterances of valid and test have no transcript",
            path=path,
            found=f"none for {name_some(missing)}",
            fix="add their rows; a transcript can be empty",
        )
    return [text for text in given.values() if text is not None]
