"""The errors of Baseline-1's recogniser."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.core.word_errors import WordErrors, count_errors
from stages.report.systems import (
    BASELINE1_FIX,
    SCORED,
    check_cover,
    read_json,
    read_table,
)

_COLUMNS = {"id": str, "split": str, "text": str, "transcript": str}


@dataclass(frozen=True)
class Recognition:
    """What a recogniser transcribed.

    Attributes:
        recogniser: its name.
        transcripts: of valid and test, one row per utterance; columns id, split, text
            (the reference), transcript and intent.
    """

    recogniser: str
    transcripts: pd.DataFrame


def read_recognition(folder: Path, utterances: pd.DataFrame) -> Recognition:
    """The transcripts in the folder of the stage baseline1.

    Args:
        folder: of the stage.
        utterances: of valid and test; columns id, split, text and intent.

    Raises:
        CacheError: a file is missing, damaged or from another manifest.
    """
    path = folder / "transcripts.csv"
    rows = read_table(path, _COLUMNS, BASELINE1_FIX)
    keys = ["id", "split", "text"]
    check_cover(path, rows, utterances, keys, what="transcripts", fix=BASELINE1_FIX)
    scores = read_json(folder / "scores.json", BASELINE1_FIX)
    joined = rows.merge(utterances[["id", "intent"]], on="id")
    return Recognition(scores["recogniser"], joined)


def word_errors(recognition: Recognition) -> dict[str, WordErrors]:
    """The word errors on valid and on test."""
    table = recognition.transcripts
    return {split: _count(table[table["split"] == split]) for split in SCORED}


def intent_word_errors(recognition: Recognition) -> dict[str, WordErrors]:
    """The word errors on test by intent, the highest rate first."""
    table = recognition.transcripts
    test = table[table["split"] == "test"]
    found = {str(intent): _count(rows) for intent, rows in test.groupby("intent")}

    def place(intent: str) -> tuple[float, str]:
        errors = found[intent]
        return (-errors.rate if errors.words else 1.0, intent)  # without words: last

    return {intent: found[intent] for intent in sorted(found, key=place)}


def _count(rows: pd.DataFrame) -> WordErrors:
    return count_errors(rows["text"].tolist(), rows["transcript"].tolist())
