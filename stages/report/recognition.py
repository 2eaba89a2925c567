"""The errors of Baseline-1's recogniser."""

import json
from pathlib import Path

import pandas as pd

from stages.core.labels import Labels
from stages.core.word_errors import WordErrors, count_errors
from stages.report.systems import SCORED, read_table

_COLUMNS = {"id": str, "split": str, "text": str, "transcript": str}


def read_transcripts(
    folder: Path, utterances: pd.DataFrame
) -> tuple[str, pd.DataFrame]:
    """The recogniser's name, and its transcripts of valid and test.

    Args:
        folder: of the stage baseline1.
        utterances: of valid and test; columns id, split, text and intent.

    Returns:
        The transcripts with columns id, split, text (the reference), transcript and
        intent.
    """
    rows = read_table(folder / "transcripts.csv", _COLUMNS)
    name = json.loads((folder / "scores.json").read_text("utf-8"))["recogniser"]
    return name, rows.merge(utterances[["id", "intent"]], on="id")


def word_errors(transcripts: pd.DataFrame) -> dict[str, WordErrors]:
    """The word errors on valid and on test."""
    return {split: _count(transcripts, split) for split in SCORED}


def value_word_errors(
    labels: Labels, transcripts: pd.DataFrame
) -> dict[str, dict[str, WordErrors]]:
    """`intent_word_errors` of each slot's values; without slots of the intents."""
    return {
        slot: intent_word_errors(transcripts.assign(intent=values))
        for slot, values in labels.values(transcripts["intent"]).items()
    }


def intent_word_errors(transcripts: pd.DataFrame) -> dict[str, WordErrors]:
    """The word errors on test by intent, the highest rate first."""
    found = {
        str(intent): _count(rows, "test")
        for intent, rows in transcripts.groupby("intent")
    }

    def place(intent: str) -> tuple[float, str]:
        errors = found[intent]
        return (-errors.rate if errors.words else 1.0, intent)  # without words: last

    return {intent: found[intent] for intent in sorted(found, key=place)}


def _count(transcripts: pd.DataFrame, split: str) -> WordErrors:
    rows = transcripts[transcripts["split"] == split]
    return count_errors(rows["text"].tolist(), rows["transcript"].tolist())
