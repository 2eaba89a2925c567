"""Fluent Speech Commands, as released: `data/{train,valid,test}_data.csv` and wavs.

An intent is the triple of action, object and location (31 in all). The official splits
share no speaker but nearly all wordings. Source: Lugosch et al. 2019, section 3.
"""

from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.manifest import SPLITS
from stages.corpus.table import (
    check_columns,
    check_intents,
    checked_rows,
    read_text_table,
)

_COLUMNS = ("path", "speakerId", "transcription", "action", "object", "location")


def read_fsc(root: Path) -> pd.DataFrame:
    """Rows for the manifest from the release's three tables under `root`.

    Raises:
        InputError: a table is missing or has other columns, a bad field, or an intent
            that no train utterance has; names the table and the row.
    """
    parts = []
    for split in SPLITS:
        file = root / "data" / f"{split}_data.csv"
        if not file.is_file():
            raise InputError(
                "not a Fluent Speech Commands folder: no such table",
                path=file,
                fix="pass the release's folder with --root, or link it there",
            )
        table = read_text_table(file)
        check_columns(file, table, _COLUMNS)
        rows = pd.DataFrame(
            {
                "path": table["path"],
                "split": split,
                "speaker": table["speakerId"],
                "text": table["transcription"],
                "intent": table["action"]
                + "|"
                + table["object"]
                + "|"
                + table["location"],
            }
        )
        parts.append(checked_rows(file, rows, root=root))
        # Train comes first in SPLITS.
        check_intents(file, rows, set(parts[0]["intent"]))
    return pd.concat(parts, ignore_index=True)
