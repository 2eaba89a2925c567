"""Timers and Such v1.0, as released: `{train,dev,test}-{real,synth}.csv` and wavs.

A table's columns are `path` (relative to the release's folder, such as
`train-real/….wav`), `speakerId`, `transcription`, `semantics` and some that are not
read. `semantics` is a Python dictionary with `intent` and `slots`; the intent is the
former alone, four in all. Its commas may have become `|`, as SpeechBrain's recipe for
the first release wrote them.

Sources: Lugosch et al. 2021, «Timers and Such»; zenodo.org/record/4623772; the
timers-and-such recipe of SpeechBrain, which reads these tables and columns.
"""

import ast
from pathlib import Path

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.corpus.table import (
    check_columns,
    check_intents,
    checked_rows,
    read_text_table,
)

TRAIN = {
    "both": ("train-real", "train-synth"),
    "real": ("train-real",),
    "synth": ("train-synth",),
}
TEST = ("real", "synth")

_COLUMNS = ("path", "speakerId", "transcription", "semantics")


def read_timers(root: Path, *, train: str = "both", test: str = "real") -> pd.DataFrame:
    """Rows for the manifest from the release's tables, sorted by path.

    Valid is dev-real whatever the others are: who trains on synthetic speech wants a
    model that understands real speech. The paper's all-real, the test of systems
    trained on synthetic speech alone, holds dev-real and is therefore not offered.

    Args:
        root: the release's folder.
        train: what is trained on, a key of `TRAIN`. Both, with tests on real speech, is
            what SpeechBrain's recipe does and what its main results are for.
        test: whether tests are on real or synthetic speech, one of `TEST`.

    Raises:
        ConfigurationError: `train` or `test` is unknown.
        InputError: a table or a folder of recordings is missing, a table is not UTF-8
            or has other columns, a bad field, or an intent that no train row has; names
            the table and the row (the heading is row 1).
    """
    for name, value, known in (("train", train, TRAIN), ("test", test, TEST)):
        if value not in known:
            raise ConfigurationError(
                f"unknown choice of Timers and Such's {name} part",
                found=repr(value),
                expected=f"one of {', '.join(known)}",
            )
    split_of = {
        **dict.fromkeys(TRAIN[train], "train"),
        "dev-real": "valid",
        f"test-{test}": "test",
    }
    parts = []
    trained: set[str] = set()
    for name, split in split_of.items():
        file = root / f"{name}.csv"
        rows = checked_rows(file, _read_part(file, split), root=root)
        _check_folders(root, rows["path"])
        # Train comes first.
        if split == "train":
            trained.update(rows["intent"])
        check_intents(file, rows, trained)
        parts.append(rows)
    return pd.concat(parts).sort_values("path", ignore_index=True)


def _read_part(file: Path, split: str) -> pd.DataFrame:
    if not file.is_file():
        raise InputError(
            "not a Timers and Such folder: no such table",
            path=file,
            fix="pass the folder of timers-and-such-v1.0.zip with --root",
        )
    table = read_text_table(file)
    check_columns(file, table, _COLUMNS)
    return pd.DataFrame(
        {
            "path": table["path"],
            "split": split,
            "speaker": table["speakerId"],
            "text": table["transcription"],
            "intent": [
                _intent(file, number, semantics)
                for number, semantics in enumerate(table["semantics"], 2)
            ],
        }
    )


def _intent(file: Path, number: int, semantics: str) -> str:
    try:
        meaning = ast.literal_eval(semantics.replace("|", ","))
    # Whatever its documentation says that a malformed literal may raise.
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


def _check_folders(root: Path, paths: pd.Series) -> None:
    """Raise InputError if a folder of recordings is missing altogether."""
    for folder in sorted({Path(path).parts[0] for path in paths if "/" in path}):
        if not (root / folder).is_dir():
            raise InputError(
                "no such folder of recordings",
                path=root / folder,
                fix="unpack timers-and-such-v1.0.zip there, with its recordings",
            )
