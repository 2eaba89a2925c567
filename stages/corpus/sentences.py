"""What is said: the sentences in `sentences.csv`, or a sample from `sentences.yaml`.

Both give the columns text, split (empty for all), intent, group, file and row. Voices
say the groups in turn: intents or, for slots in a CSV file, frames.
"""

from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.labels import SEPARATOR
from stages.core.manifest import SPLITS
from stages.core.table import CONTROL, clean_text
from stages.core.text import normalise_text
from stages.corpus.params import CorpusParams
from stages.corpus.rows import check_columns, join_slots
from stages.corpus.templates import read_templates
from stages.speech.recording import read_sentences

TABLE, TEMPLATES = "sentences.csv", "sentences.yaml"


def read_said(params: CorpusParams, root: Path) -> tuple[pd.DataFrame, list[str]]:
    """The sentences, and a message for the user about them.

    Raises:
        InputError: there are none, or one cannot be used; names the file and the line.
    """
    table, templates = root / TABLE, root / TEMPLATES
    if table.is_file() == templates.is_file():
        raise InputError(
            f"both {TABLE} and {TEMPLATES}" if table.is_file() else "no sentences",
            path=root,
            expected=f"{TABLE} (a sentence and its intent in each row) or {TEMPLATES} "
            "(sentence templates)",
        )
    notes: list[str] = []
    if table.is_file():
        rows = _read_table(params, table)
    else:
        rows, note = read_templates(params, templates)
        notes.append(note)
    _check(rows)
    return rows, notes


def _read_table(params: CorpusParams, file: Path) -> pd.DataFrame:
    """The rows of `sentences.csv`.

    The labels are the slots, the column `intent`, or else all other columns, joined.
    """
    table = read_sentences(file)
    if table.empty:
        raise InputError("has no sentences", path=file)
    names = [name for name in table if name not in ("text", "split")]
    labels = list(params.slots)
    if not labels:
        labels = ["intent"] if "intent" in names else names
    fix = "correct corpus.slots" if params.slots else "add a column intent"
    check_columns(file, names, labels or ["intent"], fix=fix)
    rows = table[["text", "split", *labels]].map(clean_text)
    for name in rows:
        for place in rows.index[rows[name] == ""]:
            if name == "text" or (not params.slots and name != "split"):
                raise InputError(f"row {place + 2} has no {name}", path=file)
    for place in rows.index[~rows["split"].isin(["", *SPLITS])]:
        raise InputError(
            f"row {place + 2} has an unknown split",
            path=file,
            found=repr(rows["split"][place]),
            expected=f"{', '.join(SPLITS)}, or nothing for all",
        )
    if params.slots:
        rows = join_slots(params, file, rows)
    else:
        joined = rows[labels].agg(SEPARATOR.join, axis=1)
        rows = rows[["text", "split"]].assign(intent=joined)
    places = [f"row {number}" for number in range(2, len(rows) + 2)]
    return rows.assign(group=rows["intent"], file=file, row=places)


def _check(rows: pd.DataFrame) -> None:
    """Check that there is something to say, and that each text means one thing."""
    for row in rows.itertuples():
        if CONTROL.search(row.text + row.intent):
            raise InputError(
                f"{row.row} has a control character",
                path=row.file,
                found=repr(f"{row.text} {row.intent}"),
            )
        if not any(character.isalnum() for character in row.text):
            raise InputError(
                f"{row.row} has no word that can be spoken",
                path=row.file,
                found=repr(row.text),
            )
    # Case and punctuation are not said.
    said = rows.assign(said=rows["text"].map(normalise_text))
    same, agreed = said["said"].duplicated(), said[["said", "intent"]].duplicated()
    for second in said[said["text"].duplicated() | (same & ~agreed)].itertuples():
        first = next(said[said["said"] == second.said].itertuples())
        raise InputError(
            f"{second.row} repeats the sentence of {first.row}",
            path=second.file,
            found=f"{second.text!r}, once {first.intent} and once {second.intent}",
            fix="remove one of them",
        )
