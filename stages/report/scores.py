"""What is measured: accuracies and F1, in percent."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support

from stages import metrics
from stages.report.systems import System
from stages.texts import normalise_text


def seed_scores(predictions: pd.DataFrame, split: str) -> pd.DataFrame:
    """The metrics of `stages.metrics` on `split`, a row a seed, seeds ascending."""
    rows = predictions[predictions["split"] == split]
    return pd.DataFrame(
        [
            metrics.measure(run["intent"], run["predicted"])
            for _, run in rows.groupby("seed")
        ]
    )


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter 0 for one value."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean()), float(deviation)


def intent_scores(predictions: pd.DataFrame, intents: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 in percent and support by intent, on test.

    Each is the mean over seeds. An intent that is never predicted has precision 0; one
    without a test utterance has support 0 and no scores (NaN).
    """
    test = predictions[predictions["split"] == "test"]
    runs = []
    for _, run in test.groupby("seed"):
        precision, recall, f1, support = precision_recall_fscore_support(
            run["intent"], run["predicted"], labels=list(intents), zero_division=0
        )
        runs.append(np.stack([100 * precision, 100 * recall, 100 * f1]))
    means = np.mean(runs, axis=0)
    means[:, support == 0] = np.nan
    names = ["precision", "recall", "f1"]
    table = pd.DataFrame(means.T, index=list(intents), columns=names)
    return table.assign(support=support)


def evaluate(system: System) -> dict[str, float]:
    """A system's row: accuracy and macro-F1, mean and deviation over seeds."""
    row: dict[str, float] = {"seeds": len(system.seeds)}
    for split in ("valid", "test"):
        for metric, values in seed_scores(system.predictions, split).items():
            mean, deviation = spread(values.to_numpy())
            row[f"{split}_{metric}"] = round(mean, 4)
            row[f"{split}_{metric}_std"] = round(deviation, 4)
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


def grouped_accuracies(
    systems: Sequence[System], column: str
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Test accuracy, mean over seeds, by the values of a column of predictions.

    Returns:
        {value: {system: percent}} and the number of test utterances of each value.
    """
    accuracies: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for system in systems:
        test = system.predictions[system.predictions["split"] == "test"]
        right = 100.0 * (test["intent"] == test["predicted"])
        for value, group in right.groupby(test[column], observed=True):
            name = str(value)
            accuracies.setdefault(name, {})[system.name] = round(float(group.mean()), 4)
            counts[name] = int(test.loc[group.index, "id"].nunique())
    return accuracies, counts


def grouped_macro_f1(
    systems: Sequence[System], column: str
) -> dict[str, dict[str, float]]:
    """Test macro-F1, mean over seeds, like `grouped_accuracies`.

    It is the mean over the intents that the group has.
    """
    found: dict[str, dict[str, float]] = {}
    for system in systems:
        test = system.predictions[system.predictions["split"] == "test"]
        for value, group in test.groupby(column, observed=True):
            runs = [
                metrics.macro_f1(run["intent"], run["predicted"])
                for _, run in group.groupby("seed")
            ]
            mean, _ = spread(np.array(runs))
            found.setdefault(str(value), {})[system.name] = round(mean, 4)
    return found


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
