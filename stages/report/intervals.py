"""95% intervals: what other speakers, saying other sentences, could have given.

Utterances of one speaker succeed and fail together, and so do those of one wording. The
variance of a mean is therefore clustered in two ways (Cameron, Gelbach and Miller 2011,
«Robust inference with multiway clustering», Journal of Business & Economic Statistics
29(2), 238-249): by speaker, plus by wording, less by both.

A figure that is not a mean, macro-F1, is treated as one of its influences: what each
utterance's weight changes in it (the delta method).
"""

import numpy as np
import pandas as pd
from scipy.stats import t

from stages.core.labels import Labels

LEVEL = 0.95
INTERVAL = f"{100 * LEVEL:.0f}% interval"

Interval = tuple[float, float]


def margins(influences: np.ndarray, utterances: pd.DataFrame) -> np.ndarray:
    """Half the width of each figure's interval, (figures,).

    An utterance of an unknown speaker has a speaker of its own. The variance is at
    least that of either kind of cluster alone, and is that one if each speaker has one
    wording, or each wording one speaker. A kind with a single cluster does not vary;
    if neither varies, or all utterances are alike, the interval is a point.

    Args:
        influences: the derivative of each figure by the utterances' weights, at weights
            of 1; (n, figures), each column of sum 0.
        utterances: columns speaker and text (normalised), n rows.
    """
    speakers, names = pd.factorize(utterances["speaker"])
    unknown = speakers < 0
    speakers[unknown] = len(names) + np.arange(unknown.sum())
    wordings, _ = pd.factorize(utterances["text"])
    table = pd.DataFrame(influences)
    counts, variances = [], []
    for clusters in ([speakers], [wordings], [speakers, wordings]):
        sums = table.groupby(clusters, sort=False).sum().to_numpy()
        counts.append(len(sums))
        variances.append((sums**2).sum(axis=0) * len(sums) / max(len(sums) - 1, 1))
    freedom = min((count - 1 for count in counts[:2] if count > 1), default=1)
    by_speaker, by_wording, by_both = variances
    variance = np.maximum(by_speaker + by_wording - by_both, by_speaker)
    quantile: float = t.ppf((1 + LEVEL) / 2, freedom)
    return quantile * np.sqrt(np.maximum(variance, by_wording))


def mean_intervals(values: np.ndarray, utterances: pd.DataFrame) -> list[Interval]:
    """The interval of the mean of each column of `values`, (n, figures).

    Args:
        values: of the utterances.
        utterances: columns speaker and text (normalised), n rows.
    """
    means = values.mean(axis=0)
    widths = margins((values - means) / len(values), utterances)
    return [
        (float(low), float(high))
        for low, high in zip(means - widths, means + widths, strict=True)
    ]


def f1_influences(actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The influence of each utterance on macro-F1 as a share; all (n,).

    The F1 of a class is 2 h / (a + p): how often it is right, occurs and is predicted.
    Macro-F1 is the mean over the classes in `actual`, as in `stages.core.metrics`.
    """
    names, classes = np.unique([actual, predicted], return_inverse=True)
    true, guess = classes.reshape(2, -1)
    hit = true == guess
    count = np.bincount(classes.ravel())  # a + p, by class
    f1 = 2 * np.bincount(true[hit], minlength=len(names)) / count
    found = 2 * hit / count[true] - (f1 / count)[true] - (f1 / count)[guess]
    return found / len(np.unique(true))


def metric_margins(labels: Labels, rows: pd.DataFrame) -> dict[str, float]:
    """The margins of the metrics of `stages.core.metrics.measure`, in percent.

    Args:
        labels: of the corpus.
        rows: predictions, one row per seed and utterance; columns seed, id, intent,
            predicted, speaker, text (normalised). The metrics are means over seeds.
    """
    table = rows.pivot(index="id", columns="seed", values="predicted")
    utterances = rows.drop_duplicates("id").set_index("id").loc[table.index]
    actual = np.array(list(labels.values(utterances["intent"]).values())).T
    predicted = np.array(list(labels.values(table.to_numpy().ravel()).values()))
    predicted = predicted.T.reshape(*table.shape, -1)  # (n, runs, slots)
    right = predicted == actual[:, None]
    columns = {"accuracy": right.all(axis=2).mean(axis=1)}
    if labels.has_slots:
        slots = zip(labels.slots, right.mean(axis=1).T, strict=True)
        columns |= {f"{slot}_accuracy": column for slot, column in slots}
    influences = {
        name: (column - column.mean()) / len(column) for name, column in columns.items()
    }
    influences["macro_f1"] = np.mean(
        [
            f1_influences(true, guess)
            for slot, true in enumerate(actual.T)
            for guess in predicted[..., slot].T
        ],
        axis=0,
    )
    widths = margins(np.column_stack(list(influences.values())), utterances)
    return dict(zip(influences, (100 * widths).tolist(), strict=True))
