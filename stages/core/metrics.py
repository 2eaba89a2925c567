"""Accuracy and macro-F1 in percent, and the calibration error.

If most utterances have the same intent, as in ATIS, a model that always predicts it has
a high accuracy; macro-F1 weights all intents equally.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.core.labels import Labels

Classes = Sequence | np.ndarray
"""Names or class numbers of intents, (n,), n at least 1."""

BINS = 15
"""Of `calibration_error`."""


def measure(
    labels: Labels, actual: np.ndarray, predicted: np.ndarray
) -> dict[str, float]:
    """Both metrics, by the names used in all tables of scores.

    With slots, the accuracy is that of whole frames, macro-F1 the mean over slots, and
    `<slot>_accuracy` the accuracy of each slot.

    Args:
        labels: of the corpus.
        actual: names or class numbers (n, slots).
        predicted: likewise.
    """
    pairs = list(zip(labels.slots, actual.T, predicted.T, strict=True))
    scores = {
        "accuracy": 100 * float((actual == predicted).all(1).mean()),
        "macro_f1": float(np.mean([macro_f1(true, guess) for _, true, guess in pairs])),
    }
    if labels.has_slots:
        scores |= {f"{slot}_accuracy": accuracy(*pair) for slot, *pair in pairs}
    return scores


def measure_frames(labels: Labels, table: Mapping[str, Any]) -> dict[str, float]:
    """`measure` of a table with the frames `intent` and `predicted`."""
    actual, predicted = (
        np.array(list(labels.values(table[column]).values())).T
        for column in ("intent", "predicted")
    )
    return measure(labels, actual, predicted)


def accuracy(actual: Classes, predicted: Classes) -> float:
    """Percentage of correct predictions; both (n,)."""
    return 100 * float(np.mean(np.asarray(actual) == np.asarray(predicted)))


def macro_f1(actual: Classes, predicted: Classes) -> float:
    """Mean F1 in percent over the intents in `actual`; both (n,).

    An intent that is never predicted counts as 0. One that is predicted but not in
    `actual` is not averaged, so all systems are averaged over the same intents.
    """
    names, numbers = np.unique([*actual, *predicted], return_inverse=True)
    true, guess = numbers[: len(actual)], numbers[len(actual) :]
    present = np.bincount(true, minlength=len(names))
    guessed = np.bincount(guess, minlength=len(names))
    hits = np.bincount(true[true == guess], minlength=len(names))
    kept = present > 0
    return 100 * float(np.mean(2 * hits[kept] / (present + guessed)[kept]))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3), as a share.

    The distance between accuracy and mean confidence in each of `BINS` equally wide
    bins, open below and closed above, weighted by the number of utterances in it.

    Args:
        confidence: probability of the predicted class, (n,).
        right: 1 where the prediction is right, else 0, (n,).
    """
    places = find_bins(confidence)
    surplus = np.bincount(places, weights=confidence - right, minlength=BINS)
    return float(np.abs(surplus).sum() / len(confidence))


def find_bins(confidence: np.ndarray) -> np.ndarray:
    """The number of the bin of `calibration_error` that each confidence (n,) is in."""
    bounds = np.linspace(0, 1, BINS + 1)[1:-1]
    return np.digitize(confidence, bounds, right=True)
