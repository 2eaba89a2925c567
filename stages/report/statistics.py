"""Differences between systems, their significance, and calibration, on test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from stages.core.metrics import BINS, calibration_error, find_bins
from stages.report.intervals import Interval, mean_intervals
from stages.report.systems import System


@dataclass(frozen=True)
class Comparison:
    """Two systems on the test utterances.

    Attributes:
        first: name of a system.
        second: name of the other.
        seeds: how many pairs of runs are compared.
        first_alone: utterances that only `first` gets right, mean over seeds.
        first_alone_std: its standard deviation over seeds; 0 for one seed.
        second_alone: utterances that only `second` gets right, mean over seeds.
        second_alone_std: its standard deviation over seeds; 0 for one seed.
        p: of the hypothesis that both are right equally often, over all seeds.
        difference: of the accuracy of `second` from that of `first`, in points, mean
            over seeds.
        difference_interval: its interval, paired by utterance.
        unseen_difference: on the wordings unseen in training; None without any.
        unseen_difference_interval: its interval.
    """

    first: str
    second: str
    seeds: int
    first_alone: float
    first_alone_std: float
    second_alone: float
    second_alone_std: float
    p: float
    difference: float
    difference_interval: Interval
    unseen_difference: float | None
    unseen_difference_interval: Interval | None


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation, which is 0 for one value."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean()), float(deviation)


def hits(system: System) -> pd.DataFrame:
    """Which predictions on test are right: (utterances, seeds), both ascending."""
    right = system.test.assign(right=system.test["intent"] == system.test["predicted"])
    return right.pivot(index="id", columns="seed", values="right")


def mcnemar(first_alone: int, second_alone: int) -> float:
    """The two-sided p of McNemar's test (1947), exact: binomial, not chi-squared.

    Args:
        first_alone: how many cases only the first classifier gets right.
        second_alone: how many only the second one gets right.
    """
    discordant = first_alone + second_alone
    return float(binomtest(first_alone, discordant).pvalue) if discordant else 1.0


def combine(p_values: Sequence[float]) -> float:
    """One p-value from those of several seeds: twice their median, at most 1.

    Valid for any dependence between the p-values: under the hypothesis, the probability
    that k of n are t or less is at most t·n/k, and half of them are not above their
    median (Rüger 1978, «Das maximale Signifikanzniveau des Tests: Lehne H0 ab, wenn k
    unter n gegebenen Tests zur Ablehnung führen», Metrika 25, 171-178). A single
    p-value is returned unchanged.
    """
    if len(p_values) == 1:
        return p_values[0]
    return min(1.0, 2 * float(np.median(p_values)))


def differences(pairs: Sequence[tuple[System, System]]) -> list[dict[str, Any]]:
    """How much more accurate the second system of each pair is, in points.

    All seeds of both count.

    Args:
        pairs: systems with predictions of the same utterances.

    Returns:
        Keys difference, difference_interval, and the same on the wordings unseen in
        training with `unseen_` before them, None if there are none.
    """
    test = pairs[0][0].test.drop_duplicates("id").sort_values("id")
    # (utterances, pairs)
    values = np.column_stack(
        [
            100 * (hits(second).to_numpy().mean(1) - hits(first).to_numpy().mean(1))
            for first, second in pairs
        ]
    )
    unseen = (test["wording"] == "unseen").to_numpy()
    names = ("difference", "difference_interval")
    found: list[dict[str, Any]] = [{} for _ in pairs]
    for prefix, chosen in (("", np.ones_like(unseen)), ("unseen_", unseen)):
        keys = [prefix + name for name in names]
        if not chosen.any():
            for row in found:
                row |= dict.fromkeys(keys)
            continue
        own = values[chosen]
        ends = mean_intervals(own, test[chosen])
        for row, mean, interval in zip(found, own.mean(axis=0), ends, strict=True):
            low, high = interval
            shown = round(float(mean), 4), (round(low, 4), round(high, 4))
            row |= dict(zip(keys, shown, strict=True))
    return found


def compare(first: System, second: System, difference: Mapping[str, Any]) -> Comparison:
    """McNemar's test between two systems, seed by seed.

    Seeds are paired by their place. A system with a single run is compared with every
    seed of the other; else the seeds that one has more of are not compared.

    Args:
        first: a system.
        second: the other.
        difference: of the two, of `differences`.
    """
    one, other = hits(first), hits(second)
    assert one.index.equals(other.index)
    if 1 not in (one.shape[1], other.shape[1]):
        seeds = min(one.shape[1], other.shape[1])
        one, other = one.iloc[:, :seeds], other.iloc[:, :seeds]
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
        **difference,
    )


def compare_all(systems: Sequence[System], best: Mapping[str, str]) -> list[Comparison]:
    """Compare every pair of systems, those with an α only at their best one.

    Args:
        systems: in the order to show them.
        best: the name of the system with the better α, by kind.
    """
    compared = [
        system
        for system in systems
        if system.alpha is None or system.name in best.values()
    ]
    pairs = list(combinations(compared, 2))
    measured = differences(pairs)
    return [compare(*pair, found) for pair, found in zip(pairs, measured, strict=True)]


def calibrate(system: System) -> dict[str, float]:
    """A system's calibration on test, in percent.

    Returns:
        Keys test_confidence (probability of the predicted intent, mean over test and
        seeds), test_calibration_error (mean over seeds), and for both `<name>_std`, the
        deviation over seeds.
    """
    runs = [run for _, run in system.test.groupby("seed")]
    means = np.array([run["confidence"].mean() for run in runs])
    errors = [
        calibration_error(
            run["confidence"].to_numpy(float),
            (run["intent"] == run["predicted"]).to_numpy(float),
        )
        for run in runs
    ]
    confidence, error = spread(100 * means), spread(100 * np.array(errors))
    return {
        "test_confidence": round(confidence[0], 4),
        "test_confidence_std": round(confidence[1], 4),
        "test_calibration_error": round(error[0], 4),
        "test_calibration_error_std": round(error[1], 4),
    }


def calibration_bins(system: System) -> list[dict[str, float | None]]:
    """The reliability diagram on test (Guo et al. 2017), over all seeds together.

    Returns:
        For each bin of `calibration_error`: low and high (0 to 1), utterances (mean
        over seeds), and their mean confidence and accuracy in percent, None in an empty
        bin.
    """
    test = system.test
    rows = pd.DataFrame(
        {
            "confidence": 100 * test["confidence"],
            "accuracy": 100.0 * (test["intent"] == test["predicted"]),
        }
    ).groupby(find_bins(test["confidence"].to_numpy(float)))
    sizes, means = rows.size(), rows.mean().round(4)
    return [
        {
            "low": round(place / BINS, 4),
            "high": round((place + 1) / BINS, 4),
            "utterances": round(int(sizes.get(place, 0)) / len(system.seeds), 4),
            "confidence": float(means["confidence"][place]) if place in sizes else None,
            "accuracy": float(means["accuracy"][place]) if place in sizes else None,
        }
        for place in range(BINS)
    ]
