"""How well the recogniser of Baseline-1 heard."""

from stages.core.word_errors import WordErrors, count_errors
from stages.report.systems import HEARD, Recognition


def word_errors(recognition: Recognition) -> dict[str, WordErrors]:
    """The word errors on valid and on test."""
    table = recognition.transcripts
    found = {}
    for split in HEARD:
        rows = table[table["split"] == split]
        found[split] = count_errors(rows["text"].tolist(), rows["transcript"].tolist())
    return found


def intent_word_errors(recognition: Recognition) -> dict[str, WordErrors]:
    """The word errors on test by intent, the worst heard first."""
    table = recognition.transcripts
    test = table[table["split"] == "test"]
    found = {
        str(intent): count_errors(rows["text"].tolist(), rows["transcript"].tolist())
        for intent, rows in test.groupby("intent")
    }
    # Those without a word come last.
    return dict(
        sorted(
            found.items(),
            key=lambda item: (-item[1].rate if item[1].words else 1.0, item[0]),
        )
    )
