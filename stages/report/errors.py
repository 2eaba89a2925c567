"""The utterances of test that a student gets wrong, and what every system said."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from stages.report.systems import System


def find_errors(
    chosen: System, seed: int, systems: Sequence[System], transcripts: pd.DataFrame
) -> list[dict[str, Any]]:
    """What `chosen` gets wrong on test, the most confident errors first, then by id.

    Args:
        chosen: the student.
        seed: of the run whose errors are listed.
        systems: all, in the order to show them; `chosen` may be among them.
        transcripts: of Baseline-1's recogniser, as `read_transcripts` gives them.

    Returns:
        Of each error id, text, speaker, condition, wording, actual, predicted;
        confidence (percent); wrong_seeds and seeds (how many of the student's runs get
        it wrong, and all); transcript; and others: what each other system predicts, by
        name, with the same seed if it has that one, else with its first. Speaker,
        condition and transcript are None where unknown.
    """
    test = chosen.test
    wrong = test[test["intent"] != test["predicted"]]
    counts = wrong["id"].value_counts()
    listed = wrong[wrong["seed"] == seed].sort_values(
        ["confidence", "id"], ascending=[False, True]
    )
    said = dict(zip(transcripts["id"], transcripts["transcript"], strict=True))
    others = {
        system.name: _predicted(system, seed)
        for system in systems
        if system.name != chosen.name
    }
    return [
        {
            "id": row["id"],
            "text": row["text"],
            "speaker": _known(row["speaker"]),
            "condition": _known(row.get("condition")),
            "wording": row["wording"],
            "actual": row["intent"],
            "predicted": row["predicted"],
            "confidence": 100 * row["confidence"],
            "wrong_seeds": int(counts[row["id"]]),
            "seeds": len(chosen.seeds),
            "transcript": said.get(row["id"]),
            "others": {name: found[row["id"]] for name, found in others.items()},
        }
        for row in listed.to_dict("records")
    ]


def _predicted(system: System, seed: int) -> dict[str, str]:
    """What one run of `system` predicts on test, by id."""
    own = seed if seed in system.seeds else system.seeds[0]
    run = system.test[system.test["seed"] == own]
    return dict(zip(run["id"], run["predicted"], strict=True))


def _known(value: Any) -> str | None:
    """A name; None for a missing value of pandas."""
    return None if pd.isna(value) else value
