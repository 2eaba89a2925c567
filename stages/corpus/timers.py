"""Timers and Such v1.0, as released: `{train,dev,test}-{real,synth}.csv` and wavs.

The columns that are read are `path` (relative to the release's folder, such as
`train-real/….wav`), `speakerId`, `transcription` and `semantics`. `semantics` is a
Python dictionary with `intent` (four in all), the only key that is read, and `slots`.
Its commas can be `|`, as SpeechBrain's recipe for the first release wrote them.

Valid is always dev-real: a model trained on synthetic speech is meant for real speech.
The paper's test set all-real contains dev-real, so it is not offered.

Sources: Lugosch et al. 2021, «Timers and Such»; zenodo.org/record/4623772; the
timers-and-such recipe of SpeechBrain, which reads these tables and columns.
"""

import ast
from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.corpus.params import CorpusParams
from stages.corpus.rows import (
    check_columns,
    check_file,
    check_folder,
    checked_rows,
    joined_rows,
)
from stages.corpus.table import read_text_table

_COLUMNS = ("path", "speakerId", "transcription", "semantics")
_RENAMED = {"speakerId": "speaker", "transcription": "text"}


def read_timers(params: CorpusParams, root: Path) -> pd.DataFrame:
    """Rows for the manifest from the release's tables.

    Args:
        params: `train_speech`: real, synth or both; SpeechBrain's recipe trains on both
            and tests on real speech. `test_speech`: real or synth.
        root: the release's folder.

    Raises:
        InputError: a table or folder is missing, or a row is invalid; names the table
            and the row (the heading is row 1).
    """
    kinds = {"both": ("real", "synth")}.get(params.train_speech, (params.train_speech,))
    split_of = {
        **{f"train-{kind}": "train" for kind in kinds},
        "dev-real": "valid",
        f"test-{params.test_speech}": "test",
    }
    parts = []
    for name, split in split_of.items():
        file = root / f"{name}.csv"
        fix = "pass the folder of timers-and-such-v1.0.zip with --root"
        check_file(file, "Timers and Such", fix)
        table = read_text_table(file)
        check_columns(file, table.columns, _COLUMNS)
        rows = table[list(_COLUMNS)].rename(columns=_RENAMED)
        rows["intent"] = [
            _intent(file, number, semantics)
            for number, semantics in enumerate(rows["semantics"], 2)
        ]
        rows = checked_rows(params, root, file, rows.assign(split=split))
        fix = "unpack timers-and-such-v1.0.zip there, with its recordings"
        for folder in sorted({path.rpartition("/")[0] for path in rows["path"]}):
            check_folder(root / folder, fix)
        parts.append(rows)
    return joined_rows(params, root, parts)


def _intent(file: Path, number: int, semantics: str) -> str:
    try:
        meaning = ast.literal_eval(semantics.replace("|", ","))
    # All that its documentation lists for a malformed literal.
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        meaning = None
    intent = meaning.get("intent") if isinstance(meaning, dict) else None
    if not isinstance(intent, str):
        raise InputError(
            f"row {number} has no intent in its semantics",
            path=file,
            found=f"{semantics!r:.80}",
            expected="{'intent': …, 'slots': …}",
        )
    return intent
