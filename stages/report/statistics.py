"""Bootstrap intervals, significance tests between systems, and calibration, on test.

All of these are about the sample of utterances: what another sample could have given.
What other seeds could have given is the deviation over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from stages.core.labels import Labels
from stages.core.metrics import calibration_error
from stages.report.systems import System

LEVEL = 0.95
INTERVAL = f"{100 * LEVEL:.0f}% interval"
DRAWS = 10_000
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
_DRAWS_AT_ONCE = 1000  # for memory


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
    """

    first: str
    second: str
    seeds: int
    first_alone: float
    first_alone_std: float
    second_alone: float
    second_alone_std: float
    p: float


def spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation, which is 0 for one value."""
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return float(values.mean()), float(deviation)


def hits(system: System) -> pd.DataFrame:
    """Which predictions on test are right: (utterances, seeds), both ascending."""
    right = system.test.assign(right=system.test["intent"] == system.test["predicted"])
    return right.pivot(index="id", columns="seed", values="right")


def bootstrap_interval(values: np.ndarray, *, seed: int) -> tuple[float, float]:
    """The 95% interval of the mean of `values`, (n,), by the percentile bootstrap.

    A resample of n values is drawn as the count of each distinct value, which is
    multinomial: the same distribution as drawing values one by one, but faster, since
    there are few distinct values (Efron and Tibshirani 1993, chapter 13).
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
    """The 95% interval of the macro-F1, mean over slots and runs, as a share.

    By the percentile bootstrap over utterances, each with the predictions of every
    run. Equal utterances are drawn together, as in `bootstrap_interval`. The mean is
    over the values that occur in a resample, as in `stages.core.metrics`.

    Args:
        actual: values of n utterances, (n, slots).
        predicted: by each run, (n, runs, slots).
        seed: of the draws.
    """
    number, runs, slots = predicted.shape
    values = np.concatenate([actual[:, None], predicted], axis=1)
    classes = np.stack(
        [
            np.unique(values[..., slot], return_inverse=True)[1].reshape(number, -1)
            for slot in range(slots)
        ],
        axis=2,
    )
    kinds, counts = np.unique(classes, axis=0, return_counts=True)
    columns = [_marks(kinds[..., slot]) for slot in range(slots)]
    generator = np.random.default_rng(seed)
    means = []
    for first in range(0, DRAWS, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, DRAWS - first)
        drawn = generator.multinomial(number, counts / number, size=size)
        drawn = drawn.astype(np.float32)
        means.append(np.mean([_mean_f1(drawn, slot, runs) for slot in columns], axis=0))
    low, high = np.quantile(np.concatenate(means), _ENDS)
    return float(low), float(high)


def _marks(kinds: np.ndarray) -> np.ndarray:
    """Where a class is actual, predicted, both: 0 or 1 (kinds, 1 + 2 runs, classes).

    Args:
        kinds: class numbers, the actual one and those of each run (kinds, 1 + runs).
    """
    # Single precision counts exactly up to 2**24.
    there = np.eye(kinds.max() + 1, dtype=np.float32)[kinds]
    return np.concatenate([there, there[:, :1] * there[:, 1:]], axis=1)


def _mean_f1(drawn: np.ndarray, marks: np.ndarray, runs: int) -> np.ndarray:
    """The macro-F1 of resamples (size, kinds), mean over runs: (size,)."""
    # (size, 1 + 2 runs, classes): how many are actual, predicted, both.
    found = np.tensordot(drawn, marks, axes=1)
    true, guessed, both = np.split(found, [1, 1 + runs], axis=1)
    f1 = 2 * both / np.maximum(true + guessed, 1)  # 0 where nothing is true
    sums = f1.sum(axis=2, dtype=np.float64).mean(axis=1)
    means: np.ndarray = sums / (true[:, 0] > 0).sum(axis=1)
    return means


def intervals(
    labels: Labels, rows: pd.DataFrame, *, seed: int
) -> dict[str, tuple[float, float]]:
    """The intervals of the metrics of `stages.core.metrics.measure`, in percent.

    The bootstrap draws utterances, each with the predictions of every seed.

    Args:
        labels: of the corpus.
        rows: one per seed and utterance; columns seed, id, intent, predicted.
        seed: of the draws.
    """
    table = rows.pivot(index="id", columns="seed", values="predicted")
    frames = rows.drop_duplicates("id").set_index("id")["intent"].loc[table.index]
    actual = np.array(list(labels.values(frames).values())).T  # (n, slots)
    predicted = np.array(list(labels.values(table.to_numpy().ravel()).values()))
    predicted = predicted.T.reshape(*table.shape, -1)  # (n, runs, slots)
    right = predicted == actual[:, None]
    found = {
        "accuracy": bootstrap_interval(right.all(axis=2).mean(axis=1), seed=seed),
        "macro_f1": macro_f1_interval(actual, predicted, seed=seed),
    }
    if labels.has_slots:
        for place, slot in enumerate(labels.slots):
            hit = right[..., place].mean(axis=1)
            found[f"{slot}_accuracy"] = bootstrap_interval(hit, seed=seed)
    return {
        metric: (round(100 * low, 4), round(100 * high, 4))
        for metric, (low, high) in found.items()
    }


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


def compare(first: System, second: System) -> Comparison:
    """McNemar's test between two systems, seed by seed.

    A system with a single run is compared with every seed of the other.
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
    """Compare every pair of systems, those with an α only at their best one."""
    compared = [
        system
        for system in systems
        if system.alpha is None or system.name in best.values()
    ]
    return [compare(first, second) for first, second in combinations(compared, 2)]


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
