"""What is measured: accuracies and F1, in percent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from stages.core import metrics
from stages.core.labels import Labels
from stages.report.bootstrap import intervals
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
    labels: Labels, systems: Mapping[str, pd.DataFrame], *, seed: int | None = None
) -> dict[str, dict[str, Any]]:
    """The metrics of `stages.core.metrics.measure`, in percent, by system.

    Args:
        labels: of the corpus.
        systems: predictions of the same utterances, one row per seed and utterance, by
            system; columns seed, id, intent, predicted, and for intervals speaker and
            text.
        seed: of the bootstrap; None for no intervals.

    Returns:
        Keys seeds (how many), the metrics (means over seeds), and for each
        `<metric>_std` (deviation over seeds) and `<metric>_interval` (lowest, highest).
    """
    measured = {}
    for name, rows in systems.items():
        runs = pd.DataFrame(
            [metrics.measure_frames(labels, run) for _, run in rows.groupby("seed")]
        )
        found: dict[str, Any] = {"seeds": len(runs)}
        for metric, values in runs.items():
            mean, deviation = spread(values.to_numpy())
            found |= {metric: round(mean, 4), f"{metric}_std": round(deviation, 4)}
        measured[name] = found
    if seed is not None:
        for name, ends in intervals(labels, systems, seed=seed).items():
            measured[name] |= {f"{key}_interval": one for key, one in ends.items()}
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


def evaluate(
    labels: Labels, systems: Sequence[System], *, seed: int
) -> dict[str, dict[str, Any]]:
    """The systems' rows in the results, in percent, by name.

    Args:
        labels: of the corpus.
        systems: with the same utterances, `baseline2` among them.
        seed: of the bootstrap.

    Returns:
        `measure` of valid and test with the split's name before each key, intervals
        for test only (`test_interval` is that of accuracy), `calibrate`, and for all
        but Baseline-2 `against_baseline2`, its `differences` from it.
    """
    valid = measure(labels, {one.name: one.valid for one in systems})
    test = measure(labels, {one.name: one.test for one in systems}, seed=seed)
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
    found = differences([(base, other) for other in others], seed=seed)
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
    seed: int | None = None,
) -> list[Group]:
    """A split by the values of a column of the predictions, in their order.

    Args:
        labels: of the corpus.
        systems: with the same utterances.
        column: utterances without a value are in no group; without the column there
            are no groups.
        split: `valid` or `test`.
        seed: of the bootstrap; None for no intervals.
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
            measure(labels, part, seed=seed),
        )
        for name, part in parts.items()
    ]
