"""How far test's figures can be trusted: intervals, tests between systems, calibration.

All of it is about the utterances of test: what another sample of the same kind could
have given. What other seeds could have given is the deviation over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from stages.report.systems import System

LEVEL = 0.95
DRAWS = 10_000
BINS = 15
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_DRAWS_AT_ONCE = 1000  # for memory


@dataclass(frozen=True)
class Comparison:
    """Two systems on the utterances of test.

    Attributes:
        first: name of a system.
        second: name of the other.
        seeds: how many pairs of runs are compared.
        first_alone: utterances that `first` gets right and `second` wrong, mean over
            seeds.
        first_alone_std: its standard deviation over seeds; 0 for one.
        second_alone: the other way round.
        second_alone_std: likewise.
        p: of the hypothesis that both are right equally often, over all seeds.
    """

    first: str
    second: str
    seeds: int
    first_alone: float
    first_alone_std: float
    second_alone: float
    second_alone_std: float
    p: float


@dataclass(frozen=True)
class Calibration:
    """How the probability of what is predicted compares with the accuracy.

    Attributes:
        seeds: how many runs it is of.
        confidence: that probability in percent, mean over test and seeds.
        confidence_std: standard deviation over seeds of its mean over test; 0 for one.
        error: expected calibration error in percentage points, mean over seeds.
        error_std: its standard deviation over seeds; 0 for one.
    """

    seeds: int
    confidence: float
    confidence_std: float
    error: float
    error_std: float


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter 0 for one value."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean()), float(deviation)


def hits(system: System) -> pd.DataFrame:
    """What is right on test, (utterances, seeds) of bool, ids and seeds ascending."""
    test = system.predictions[system.predictions["split"] == "test"]
    right = test.assign(right=test["intent"] == test["predicted"])
    return right.pivot(index="id", columns="seed", values="right")


def bootstrap_interval(values: np.ndarray, *, seed: int) -> tuple[float, float]:
    """The 95% interval of the mean of `values`, (n,), by the percentile bootstrap.

    A resample of n values is drawn as the number of times that each distinct value
    stands in it, which is multinomial: the same distribution as drawing one by one, at
    the cost of the few distinct values (Efron and Tibshirani 1993, chapter 13).
    """
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(values), counts / len(values), size=DRAWS)
    means = drawn @ distinct / len(values)
    low, high = np.quantile(means, _ENDS)
    return float(low), float(high)


def macro_f1_interval(
    actual: np.ndarray, predicted: np.ndarray, *, seed: int
) -> tuple[float, float]:
    """The 95% interval of the macro-F1, mean over runs, as a share.

    By the percentile bootstrap over utterances, each with what every run predicts. As
    in `bootstrap_interval` equal ones are drawn together. The mean is over the intents
    that a resample has, as `stages.core.metrics` takes it over those of the sample.

    Args:
        actual: intents of n utterances, (n,).
        predicted: those that each run gives them, (n, runs).
        seed: of the draws.
    """
    number, runs = predicted.shape
    names, labels = np.unique(np.column_stack([actual, predicted]), return_inverse=True)
    labels, counts = np.unique(
        labels.reshape(number, 1 + runs), axis=0, return_counts=True
    )
    # (kinds, 1 + runs, intents); single precision counts exactly up to 2**24.
    there = np.eye(len(names), dtype=np.float32)[labels]
    hits = there[:, :1] * there[:, 1:]
    columns = np.concatenate([there, hits], axis=1)
    generator = np.random.default_rng(seed)
    means = []
    for first in range(0, DRAWS, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, DRAWS - first)
        drawn = generator.multinomial(number, counts / number, size=size)
        # (size, 1 + 2 runs, intents): how many are there, are predicted, are both.
        found = np.tensordot(drawn.astype(np.float32), columns, axes=1)
        true, guessed, both = np.split(found, [1, 1 + runs], axis=1)
        f1 = 2 * both / np.maximum(true + guessed, 1)  # 0 where nothing is true
        sums = f1.sum(axis=2, dtype=np.float64).mean(axis=1)
        means.append(sums / (true[:, 0] > 0).sum(axis=1))
    low, high = np.quantile(np.concatenate(means), _ENDS)
    return float(low), float(high)


def intervals(rows: pd.DataFrame, *, seed: int) -> dict[str, tuple[float, float]]:
    """The intervals of accuracy and macro-F1 in percent, by metric.

    What is drawn are utterances, each with what every seed predicts.

    Args:
        rows: one a seed and utterance; columns seed, id, intent, predicted.
        seed: of the draws.
    """
    predicted = rows.pivot(index="id", columns="seed", values="predicted")
    actual = rows.drop_duplicates("id").set_index("id")["intent"].loc[predicted.index]
    right = predicted.eq(actual, axis="index").mean(axis="columns")
    found = {
        "accuracy": bootstrap_interval(right.to_numpy(float), seed=seed),
        "macro_f1": macro_f1_interval(
            actual.to_numpy(str), predicted.to_numpy(str), seed=seed
        ),
    }
    return {
        metric: (round(100 * low, 4), round(100 * high, 4))
        for metric, (low, high) in found.items()
    }


def mcnemar(first_alone: int, second_alone: int) -> float:
    """The two-sided p of McNemar's test (1947), exact: binomial, not chi-squared.

    Args:
        first_alone: how many cases one classifier alone gets right.
        second_alone: how many the other one alone gets right.
    """
    discordant = first_alone + second_alone
    return float(binomtest(first_alone, discordant).pvalue) if discordant else 1.0


def combine(p_values: Sequence[float]) -> float:
    """One p-value from those of several seeds: twice their median, at most 1.

    Valid however the p-values depend on each other: that k of n are t or less has a
    probability of at most t·n/k under the hypothesis, and half of them are not above
    their median (Rüger 1978, «Das maximale Signifikanzniveau des Tests: Lehne H0 ab,
    wenn k unter n gegebenen Tests zur Ablehnung führen», Metrika 25, 171-178). One
    alone is what it is.
    """
    if len(p_values) == 1:
        return p_values[0]
    return min(1.0, 2 * float(np.median(p_values)))


def compare(first: System, second: System) -> Comparison:
    """McNemar's test between two systems, seed by seed.

    A system of a single run is held against every seed of the other.
    """
    one, other = hits(first), hits(second)
    assert one.index.equals(other.index)
    one, other = np.broadcast_arrays(one.to_numpy(), other.to_numpy())
    alone = (one & ~other).sum(axis=0), (other & ~one).sum(axis=0)  # (seeds,) each
    p = combine([mcnemar(int(a), int(b)) for a, b in zip(*alone, strict=True)])
    first_alone, second_alone = (spread(counts) for counts in alone)
    return Comparison(
        first.name,
        second.name,
        seeds=one.shape[1],
        first_alone=round(first_alone[0], 4),
        first_alone_std=round(first_alone[1], 4),
        second_alone=round(second_alone[0], 4),
        second_alone_std=round(second_alone[1], 4),
        p=float(f"{p:.4g}"),
    )


def compare_all(systems: Sequence[System], best: Mapping[str, str]) -> list[Comparison]:
    """Every pair of the systems without an α and of the others at their `best` one."""
    compared = [
        system
        for system in systems
        if system.alpha is None or system.name in best.values()
    ]
    return [compare(first, second) for first, second in combinations(compared, 2)]


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3), as a share.

    The distance between accuracy and mean confidence within each of `BINS` equally wide
    bins, open below and closed above, weighted by the utterances in it.

    Args:
        confidence: probability of the predicted class, (n,).
        right: whether it is the actual one, (n,).
    """
    bounds = np.linspace(0, 1, BINS + 1)[1:-1]
    places = np.digitize(confidence, bounds, right=True)
    surplus = np.bincount(places, weights=confidence - right, minlength=BINS)
    return float(np.abs(surplus).sum() / len(confidence))


def calibrate(system: System) -> Calibration:
    """The calibration of a system on test."""
    test = system.predictions[system.predictions["split"] == "test"]
    runs = [run for _, run in test.groupby("seed")]
    means = np.array([run["confidence"].mean() for run in runs])
    errors = [
        calibration_error(
            run["confidence"].to_numpy(float),
            (run["intent"] == run["predicted"]).to_numpy(float),
        )
        for run in runs
    ]
    confidence, error = spread(100 * means), spread(100 * np.array(errors))
    return Calibration(
        seeds=len(runs),
        confidence=round(confidence[0], 4),
        confidence_std=round(confidence[1], 4),
        error=round(error[0], 4),
        error_std=round(error[1], 4),
    )
