"""Bootstrap intervals: what other speakers, saying other sentences, could have given.

Utterances of one speaker succeed and fail together, and so do those of one wording. So
both are drawn with replacement, and an utterance's weight is the product of how often
its speaker and its wording were drawn: the pigeonhole bootstrap (Owen 2007, Annals of
Applied Statistics 1(2), 386-411). It counts what is neither the speaker's nor the
wording's up to three times, so its intervals are rather too wide than too narrow.

Each system is measured on the same draws, with the predictions of all of its seeds.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from stages.core.labels import Labels

LEVEL = 0.95
INTERVAL = f"{100 * LEVEL:.0f}% interval"
DRAWS = 10_000
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_DRAWS_AT_ONCE = 500  # for memory

Interval = tuple[float, float]
Statistic = Callable[[np.ndarray], np.ndarray]
"""Figures by draw, (figures, draws), from the utterances' weights (n, draws)."""


def clusters(utterances: pd.DataFrame) -> list[np.ndarray]:
    """What is drawn: the number of each utterance's speaker and wording, (n,) each.

    An utterance of an unknown speaker has a speaker of its own. If all utterances of
    each speaker have one wording, or those of each wording one speaker, the larger
    clusters alone are drawn, since the variance of the others is in theirs.

    Args:
        utterances: columns speaker and text (normalised).
    """
    speakers, names = pd.factorize(utterances["speaker"])
    unknown = speakers < 0
    speakers[unknown] = len(names) + np.arange(unknown.sum())
    wordings, _ = pd.factorize(utterances["text"])
    of_speakers, of_wordings, both = (
        len(np.unique(np.column_stack(numbers), axis=0))
        for numbers in ([speakers], [wordings], [speakers, wordings])
    )
    if both == of_speakers and of_wordings > 1:
        return [wordings]
    if both == of_wordings and of_speakers > 1:
        return [speakers]
    return [speakers, wordings]


def percentiles(
    statistic: Statistic, drawn: list[np.ndarray], *, seed: int
) -> list[Interval]:
    """The 95% interval of each figure, by the percentiles of its draws.

    Args:
        statistic: the figures.
        drawn: `clusters` of the utterances.
        seed: of the draws.
    """
    found = [statistic(weights) for weights in _draw(drawn, seed)]
    ends = np.quantile(np.concatenate(found, axis=1), _ENDS, axis=1)
    return [(float(low), float(high)) for low, high in ends.T]


def _draw(drawn: list[np.ndarray], seed: int) -> Iterator[np.ndarray]:
    """Weights (n, draws) of the utterances; draws without an utterance are left out."""
    generator, size = np.random.default_rng(seed), _DRAWS_AT_ONCE
    for _ in range(DRAWS // size):
        weights = np.ones((len(drawn[0]), size))
        for numbers in drawn:
            count = numbers.max() + 1
            chosen = size * generator.integers(count, size=(count, size))
            chosen += np.arange(size)
            times = np.bincount(chosen.ravel(), minlength=count * size)
            weights *= times.reshape(count, size)[numbers]
        yield weights[:, weights.any(axis=0)]


def means(values: np.ndarray) -> Statistic:
    """The mean of each column of `values`, (n, figures)."""
    return lambda weights: values.T @ weights / weights.sum(axis=0)


def macro_f1(actual: np.ndarray, predicted: np.ndarray) -> Statistic:
    """The macro-F1 as a share, mean over slots and runs: one figure.

    The mean is over the classes that occur in a draw, as in `stages.core.metrics`. Rare
    ones are missing from some, so the interval is slightly too low.

    Args:
        actual: values of n utterances, (n, slots).
        predicted: by each run, (n, runs, slots).
    """
    parts = []
    for slot, column in enumerate(actual.T):
        classes = pd.Index(np.unique(column))
        true, *guesses = map(classes.get_indexer, (column, *predicted[..., slot].T))
        hits = [np.where(guess == true, true, -1) for guess in guesses]
        marked = [_marks(one, len(classes)) for one in (true, *guesses, *hits)]
        parts.append((marked[0], marked[1 : 1 + len(hits)], marked[1 + len(hits) :]))

    def statistic(weights: np.ndarray) -> np.ndarray:
        found = []
        for true, guesses, hits in parts:
            actual = true @ weights  # (classes, draws)
            for guess, hit in zip(guesses, hits, strict=True):
                # 0 for a class that does not occur.
                f1 = 2 * (hit @ weights) / np.maximum(actual + guess @ weights, 1)
                found.append(f1.sum(axis=0) / (actual > 0).sum(axis=0))
        return np.mean(found, axis=0, keepdims=True)

    return statistic


def _marks(codes: np.ndarray, classes: int) -> csr_array:
    """1 where an utterance has a class, (classes, n); −1 is none of them."""
    places = np.flatnonzero(codes >= 0)
    ones = np.ones(len(places))
    return csr_array((ones, (codes[places], places)), shape=(classes, len(codes)))


def intervals(
    labels: Labels, systems: Mapping[str, pd.DataFrame], *, seed: int
) -> dict[str, dict[str, Interval]]:
    """The intervals of the metrics of `stages.core.metrics.measure`, in percent.

    Args:
        labels: of the corpus.
        systems: predictions of the same utterances, one row per seed and utterance, by
            system; columns seed, id, intent, predicted, speaker, text.
        seed: of the draws.

    Returns:
        By system and metric.
    """
    names, columns, statistics = [], [], []
    for name, rows in systems.items():
        table = rows.pivot(index="id", columns="seed", values="predicted")
        utterances = rows.drop_duplicates("id").set_index("id").loc[table.index]
        actual = np.array(list(labels.values(utterances["intent"]).values())).T
        predicted = np.array(list(labels.values(table.to_numpy().ravel()).values()))
        predicted = predicted.T.reshape(*table.shape, -1)  # (n, runs, slots)
        right = predicted == actual[:, None]
        names.append((name, "accuracy"))
        columns.append(right.all(axis=2).mean(axis=1))
        if labels.has_slots:
            names += [(name, f"{slot}_accuracy") for slot in labels.slots]
            columns += list(right.mean(axis=1).T)
        statistics.append(macro_f1(actual, predicted))
    names += [(name, "macro_f1") for name in systems]
    statistics.insert(0, means(np.column_stack(columns)))
    ends = percentiles(
        lambda weights: np.concatenate([one(weights) for one in statistics]),
        clusters(utterances),
        seed=seed,
    )
    found: dict[str, dict[str, Interval]] = {name: {} for name in systems}
    for (name, metric), (low, high) in zip(names, ends, strict=True):
        found[name][metric] = (round(100 * low, 4), round(100 * high, 4))
    return found
