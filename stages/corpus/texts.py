"""Sentences without recordings, with their labels, for train (`corpus.texts`)."""

from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.labels import Labels
from stages.core.text import normalise_text
from stages.corpus.params import CorpusParams
from stages.corpus.rows import check_columns, checked_fields
from stages.corpus.table import COLUMNS_FIX, find_table, first_row, label_columns


def read_texts(params: CorpusParams, root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The columns text and intent of `params.texts`; no row if there is none.

    Args:
        params: names the table and its columns.
        root: the corpus root.
        table: split, text and intent of the recordings.

    Raises:
        ConfigurationError: the table is outside the root.
        InputError: the table or a column is missing, or a row is invalid: its label is
            not one of train, another one belongs to the same words, or the same words
            are in valid or test, whose results they would decide. Names the row.
    """
    if not params.texts:
        return pd.DataFrame(columns=["text", "intent"])
    file, given = find_table(root, params.texts, "texts")
    names = label_columns(params)
    found = check_columns(file, given.columns, names.values(), fix=COLUMNS_FIX)
    rows = pd.DataFrame({ours: given[found[name]] for ours, name in names.items()})
    first = first_row(file)
    rows = checked_fields(params, file, rows, first=first)
    _check_labels(params, file, rows, table, first)
    _check_texts(file, rows, table, first)
    return rows


def _check_labels(
    params: CorpusParams,
    file: Path,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    first: int,
) -> None:
    train = table.loc[table["split"] == "train", "intent"]
    every = [*train, *rows["intent"]]
    in_train = [place < len(train) for place in range(len(every))]
    labels = Labels.of(train, params.slots)
    for place, slot, value in labels.untrained(every, in_train):
        raise InputError(
            f"row {first + place - len(train)} has {slot} {value!r}, which no "
            "recording of train has",
            path=file,
            fix=f"correct the {slot}, drop the row, or record or speak it for train",
        )


def _check_texts(
    file: Path, rows: pd.DataFrame, table: pd.DataFrame, first: int
) -> None:
    said: dict[str, dict[str, set[str]]] = {}
    words = table["text"].map(normalise_text)
    for split, text, intent in zip(table["split"], words, table["intent"], strict=True):
        said.setdefault(text, {}).setdefault(split, set()).add(intent)
    for number, row in enumerate(rows.itertuples(index=False), first):
        splits = said.setdefault(normalise_text(row.text), {})
        for split in {"valid", "test"} & splits.keys():
            raise InputError(
                f"row {number} is also said in {split}, so its result would tell "
                "nothing of new words",
                path=file,
                found=repr(row.text),
                fix="drop the row",
            )
        intents = splits.setdefault("train", {row.intent})
        if row.intent not in intents:
            raise InputError(
                f"row {number} has another label than the same words in train",
                path=file,
                found=f"{row.text!r} with {row.intent!r}",
                expected=" or ".join(map(repr, sorted(intents))),
                fix="correct the label, or drop the row",
            )
