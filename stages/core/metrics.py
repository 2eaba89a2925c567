"""Accuracy and macro-F1 in percent, and the calibration error.

If most utterances have the same intent, as in ATIS, a model that always predicts it has
a high accuracy; macro-F1 weights all intents equally.
"""

from collections.abc import Sequence

import numpy as np

Labels = Sequence | np.ndarray
"""Names or class numbers of intents, (n,), n at least 1."""

BINS = 15
"""Of `calibration_error`."""


def measure(actual: Labels, predicted: Labels) -> dict[str, float]:
    """Both metrics, by the names used in all tables of scores."""
    return {
        "accuracy": accuracy(actual, predicted),
        "macro_f1": macro_f1(actual, predicted),
    }


def accuracy(actual: Labels, predicted: Labels) -> float:
    """Percentage of correct predictions; both (n,)."""
    return 100 * float(np.mean(np.asarray(actual) == np.asarray(predicted)))


def macro_f1(actual: Labels, predicted: Labels) -> float:
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
    bounds = np.linspace(0, 1, BINS + 1)[1:-1]
    places = np.digitize(confidence, bounds, right=True)
    surplus = np.bincount(places, weights=confidence - right, minlength=BINS)
    return float(np.abs(surplus).sum() / len(confidence))
