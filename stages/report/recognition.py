"""How well the recogniser of Baseline-1 heard."""

from stages.report.systems import Recognition
from stages.word_errors import WordErrors, count_errors


def word_errors(recognition: Recognition) -> dict[str, WordErrors]:
    """The word errors on valid and on test."""
    return {
        str(split): count_errors(rows["text"].tolist(), rows["transcript"].tolist())
        for split, rows in recognition.transcripts.groupby("split", sort=False)
    }


def intent_word_errors(recognition: Recognition) -> dict[str, WordErrors]:
    """The word errors on test by intent, the worst heard first."""
    table = recognition.transcripts
    test = table[table["split"] == "test"]
    found = {
        str(intent): count_errors(rows["text"].tolist(), rows["transcript"].tolist())
        for intent, rows in test.groupby("intent")
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1].rate, item[0])))
