"""What is measured: accuracies and F1, in percent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from stages.core import metrics
from stages.core.labels import Labels
from stages.report.intervals import metric_margins
from stages.report.statistics import calibrate, differences, spread
from stages.report.systems import System


@dataclass(frozen=True)
class Group:
    """The systems on one part of valid or test.

    Attributes:
        name: what its utterances have in common, such as a speaker.
        utterances: how many.
        rows: `measure` of each system, by name.
    """

    name: str
    utterances: int
    rows: dict[str, dict[str, Any]]


def measure(
    labels: Labels, systems: Mapping[str, pd.DataFrame], *, intervals: bool
) -> dict[str, dict[str, Any]]:
    """The metrics of `stages.core.metrics.measure`, in percent, by system.

    Args:
        labels: of the corpus.
        systems: predictions of the same utterances, one row per seed and utterance, by
            system; columns seed, id, intent, predicted, and for intervals speaker and
            text.
        intervals: whether to add them.

    Returns:
        Keys seeds (how many), the metrics (means over seeds), and for each
        `<metric>_std` (deviation over seeds) and `<metric>_interval` (lowest, highest;
        from 0 to 100).
    """
    measured = {}
    for name, rows in systems.items():
        runs = pd.DataFrame(
            [metrics.measure_frames(labels, run) for _, run in rows.groupby("seed")]
        )
        widths = metric_margins(labels, rows) if intervals else {}
        found: dict[str, Any] = {"seeds": len(runs)}
        for metric, values in runs.items():
            mean, deviation = spread(values.to_numpy())
            found |= {metric: round(mean, 4), f"{metric}_std": round(deviation, 4)}
            if intervals:
                low, high = mean - widths[str(metric)], mean + widths[str(metric)]
                ends = round(max(low, 0.0), 4), round(min(high, 100.0), 4)
                found[f"{metric}_interval"] = ends
        measured[name] = found
    return measured


def by_slot(labels: Labels, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Predictions of each slot: `rows` with its values as intent and predicted."""
    actual, predicted = (labels.values(rows[name]) for name in ("intent", "predicted"))
    return {
        slot: rows.assign(intent=actual[slot], predicted=predicted[slot])
        for slot in labels.slots
    }


def value_scores(labels: Labels, test: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """`intent_scores` of each slot's values; without slots those of the intents."""
    return {
        slot: intent_scores(rows, labels.slots[slot])
        for slot, rows in by_slot(labels, test).items()
    }


def intent_scores(test: pd.DataFrame, intents: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 in percent and support by intent, or value of a slot.

    Each is the mean over seeds, with its deviation in `<name>_std`. An intent that is
    never predicted has precision 0; one without a test utterance has support 0 and no
    scores (NaN).
    """
    runs = []
    for _, run in test.groupby("seed"):
        precision, recall, f1, support = precision_recall_fscore_support(
            run["intent"], run["predicted"], labels=list(intents), zero_division=0
        )
        runs.append(np.stack([100 * precision, 100 * recall, 100 * f1]))
    means = np.mean(runs, axis=0)
    deviations = np.std(runs, axis=0, ddof=1) if len(runs) > 1 else 0 * means
    values = np.concatenate([means, deviations])  # (6, intents)
    values[:, support == 0] = np.nan
    names = ["precision", "recall", "f1"]
    names += [f"{name}_std" for name in names]
    table = pd.DataFrame(values.T, index=list(intents), columns=names)
    return table.assign(support=support)


def evaluate(labels: Labels, systems: Sequence[System]) -> dict[str, dict[str, Any]]:
    """The systems' rows in the results, in percent, by name.

    Args:
        labels: of the corpus.
        systems: with the same utterances, `baseline2` among them.

    Returns:
        `measure` of valid and test with the split's name before each key, intervals
        for test only (`test_interval` is that of accuracy), `calibrate`, and for all
        but Baseline-2 `against_baseline2`, its `differences` from it.
    """
    valid = measure(labels, {one.name: one.valid for one in systems}, intervals=False)
    test = measure(labels, {one.name: one.test for one in systems}, intervals=True)
    rows: dict[str, dict[str, Any]] = {}
    for system in systems:
        name = system.name
        row = {f"valid_{key}": value for key, value in valid[name].items()}
        row |= {f"test_{key}": value for key, value in test[name].items()}
        del row["valid_seeds"], row["test_seeds"]
        rows[name] = {
            "seeds": len(system.seeds),
            "test_interval": row.pop("test_accuracy_interval"),
            **row,
            **calibrate(system),
        }
    (base,) = (system for system in systems if system.name == "baseline2")
    others = [system for system in systems if system is not base]
    found = differences([(base, other) for other in others])
    for system, difference in zip(others, found, strict=True):
        rows[system.name]["against_baseline2"] = difference
    return rows


def best_by_valid(
    systems: Sequence[System], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """The name of the system with the better α, by kind.

    Chosen on valid alone; the first of several equal ones.
    """
    best: dict[str, str] = {}
    for system in systems:
        if system.alpha is None:
            continue
        rival = best.setdefault(system.kind, system.name)
        if rows[system.name]["valid_accuracy"] > rows[rival]["valid_accuracy"]:
            best[system.kind] = system.name
    return best


def group(
    labels: Labels,
    systems: Sequence[System],
    column: str,
    *,
    split: str = "test",
    intervals: bool,
) -> list[Group]:
    """A split by the values of a column of the predictions, in their order.

    Args:
        labels: of the corpus.
        systems: with the same utterances.
        column: utterances without a value are in no group; without the column there
            are no groups.
        split: `valid` or `test`.
        intervals: whether to add them.
    """
    parts: dict[str, dict[str, pd.DataFrame]] = {}
    for system in systems:
        if column not in system.predictions:
            continue
        for value, rows in getattr(system, split).groupby(column, observed=True):
            parts.setdefault(str(value), {})[system.name] = rows
    return [
        Group(
            name,
            next(iter(part.values()))["id"].nunique(),
            measure(labels, part, intervals=intervals),
        )
        for name, part in parts.items()
    ]
