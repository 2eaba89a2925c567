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


@dataclass(frozen=True)
class Comparison:
    """Two systems on the utterances of test.

    Attributes:
        first: name of a system.
        second: name of the other.
        first_alone: utterances that `first` gets right and `second` wrong, mean over
            seeds.
        second_alone: the other way round.
        p: of the hypothesis that both are right equally often, over all seeds.
    """

    first: str
    second: str
    first_alone: float
    second_alone: float
    p: float


@dataclass(frozen=True)
class Calibration:
    """How the probability of what is predicted compares with the accuracy.

    Attributes:
        confidence: that probability in percent, mean over test and seeds.
        error: expected calibration error in percentage points, mean over seeds.
    """

    confidence: float
    error: float


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
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def accuracy_interval(system: System, *, seed: int) -> tuple[float, float]:
    """The interval of the test accuracy in percent.

    What is drawn are utterances, each with its mean over seeds.
    """
    low, high = bootstrap_interval(
        100 * hits(system).mean(axis="columns").to_numpy(float), seed=seed
    )
    return round(low, 4), round(high, 4)


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
    return Comparison(
        first.name,
        second.name,
        first_alone=round(float(alone[0].mean()), 4),
        second_alone=round(float(alone[1].mean()), 4),
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
    errors = [
        calibration_error(
            run["confidence"].to_numpy(float),
            (run["intent"] == run["predicted"]).to_numpy(float),
        )
        for _, run in test.groupby("seed")
    ]
    return Calibration(
        confidence=round(100 * float(test["confidence"].mean()), 4),
        error=round(100 * float(np.mean(errors)), 4),
    )
