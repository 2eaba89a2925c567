"""Fluent Speech Commands, as released: `data/{train,valid,test}_data.csv` and wavs.

An intent is the triple of action, object and location (31 in all), which can also be
slots (6, 14 and 4 values). The official splits share no speaker but nearly all
wordings. Source: Lugosch et al. 2019, section 3.
"""

from pathlib import Path

import pandas as pd

from stages.core.labels import SEPARATOR
from stages.core.manifest import SPLITS
from stages.core.table import clean_text
from stages.corpus.params import FSC_SLOTS, CorpusParams
from stages.corpus.rows import check_columns, check_file, checked_rows, joined_rows
from stages.corpus.table import read_text_table

_COLUMNS = ("path", "speakerId", "transcription", *FSC_SLOTS)
_RENAMED = {"speakerId": "speaker", "transcription": "text"}


def read_fsc(params: CorpusParams, root: Path) -> pd.DataFrame:
    """Rows for the manifest from the release's three tables under `root`.

    Raises:
        InputError: a table is missing, or a row is invalid; names table and row.
    """
    parts = []
    for split in SPLITS:
        file = root / "data" / f"{split}_data.csv"
        fix = "pass the release's folder with --root, or link it there"
        check_file(file, "Fluent Speech Commands", fix)
        table = read_text_table(file)
        check_columns(file, table.columns, _COLUMNS)
        rows = table[list(_COLUMNS)].rename(columns=_RENAMED)
        slots = rows[list(FSC_SLOTS)].map(clean_text)
        rows["intent"] = slots.agg(SEPARATOR.join, axis=1)
        parts.append(checked_rows(params, root, file, rows.assign(split=split)))
    return joined_rows(params, root, parts)
