"""What is measured: accuracies and F1, in percent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from stages.core import metrics
from stages.core.text import normalise_text
from stages.report.statistics import intervals, spread
from stages.report.systems import System


@dataclass(frozen=True)
class Group:
    """The systems on one part of test.

    Attributes:
        name: what its utterances have in common, such as a speaker.
        utterances: how many they are.
        rows: `measure` of each system, by name.
    """

    name: str
    utterances: int
    rows: dict[str, dict[str, Any]]


def measure(rows: pd.DataFrame, *, seed: int | None = None) -> dict[str, Any]:
    """Accuracy and macro-F1 in percent, the metrics of `stages.core.metrics`.

    Args:
        rows: one a seed and utterance; columns seed, id, intent, predicted.
        seed: of the draws for the intervals; None for no intervals.

    Returns:
        Keys seeds (how many), accuracy, macro_f1 (means over seeds), and of both
        `<metric>_std` (deviation over seeds) and `<metric>_interval` (lowest, highest).
    """
    runs = pd.DataFrame(
        [
            metrics.measure(run["intent"], run["predicted"])
            for _, run in rows.groupby("seed")
        ]
    )
    found: dict[str, Any] = {"seeds": len(runs)}
    for metric, values in runs.items():
        mean, deviation = spread(values.to_numpy())
        found |= {metric: round(mean, 4), f"{metric}_std": round(deviation, 4)}
    if seed is not None:
        for metric, interval in intervals(rows, seed=seed).items():
            found[f"{metric}_interval"] = interval
    return found


def intent_scores(predictions: pd.DataFrame, intents: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 in percent and support by intent, on test.

    Each is the mean over seeds, beside `<name>_std`, its deviation. An intent that is
    never predicted has precision 0; one without a test utterance has support 0 and no
    scores (NaN).
    """
    test = predictions[predictions["split"] == "test"]
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


def evaluate(system: System) -> dict[str, float]:
    """A system's row: accuracy and macro-F1, mean and deviation over seeds."""
    row: dict[str, float] = {"seeds": len(system.seeds)}
    for split in ("valid", "test"):
        found = measure(system.predictions[system.predictions["split"] == split])
        del found["seeds"]
        row |= {f"{split}_{name}": value for name, value in found.items()}
    return row


def best_by_valid(
    systems: Sequence[System], rows: Mapping[str, Mapping[str, float]]
) -> dict[str, str]:
    """The better α of each system that has one: its name by kind.

    Chosen on valid alone; of equals the one that comes first.
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
    systems: Sequence[System], column: str, *, seed: int | None = None
) -> list[Group]:
    """Test by the values of a column of predictions, in their order.

    Args:
        systems: which have the same utterances.
        column: an utterance without a value is in no group.
        seed: of the draws for the intervals; None for no intervals.
    """
    groups: dict[str, Group] = {}
    for system in systems:
        test = system.predictions[system.predictions["split"] == "test"]
        for value, rows in test.groupby(column, observed=True):
            name = str(value)
            made = groups.setdefault(name, Group(name, rows["id"].nunique(), {}))
            made.rows[system.name] = measure(rows, seed=seed)
    return list(groups.values())


def mark_length(seconds: pd.Series) -> pd.Series:
    """The quarter of all durations that each lies in, as `1.20 to 1.55 s`, ordered.

    The bounds are the quartiles as they are shown, each belonging to the quarter below
    it. Where many durations are equal there are fewer than four groups.
    """
    bounds = np.unique(np.quantile(seconds, [0.25, 0.5, 0.75]).round(2))
    shown = [f"{bound:.2f}" for bound in bounds]
    between = [f"{low} to {high} s" for low, high in pairwise(shown)]
    labels = [f"up to {shown[0]} s", *between, f"over {shown[-1]} s"]
    return pd.cut(seconds, [-np.inf, *bounds, np.inf], labels=labels)


def mark_wording(manifest: pd.DataFrame) -> pd.Series:
    """`heard` where an utterance's normalised text occurs in train, else `unheard`."""
    texts = manifest["text"].map(normalise_text)
    heard = texts.isin(set(texts[manifest["split"] == "train"]))
    return heard.map({True: "heard", False: "unheard"})
