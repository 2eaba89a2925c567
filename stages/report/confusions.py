"""What a system takes for what: confusions of intents, or of each slot's values."""

from typing import Any

from stages.core.labels import Labels
from stages.report.scores import by_slot
from stages.report.systems import System


def confusions(labels: Labels, system: System) -> list[dict[str, Any]]:
    """How often test utterances of each value are taken for each value.

    Returns:
        Of each pair that occurs, right ones too: slot, actual, predicted, utterances
        (mean over seeds) and percent (of the actual value's utterances), sorted.
    """
    found = []
    seeds = len(system.seeds)
    for slot, rows in by_slot(labels, system.test).items():
        support = rows["intent"].value_counts()
        pairs = rows.groupby(["intent", "predicted"]).size()
        found += [
            {
                "slot": slot,
                "actual": actual,
                "predicted": predicted,
                "utterances": round(count / seeds, 4),
                "percent": round(100 * count / int(support[actual]), 4),
            }
            for (actual, predicted), count in pairs.items()
        ]
    return found
