"""Accuracy and macro-F1 in percent.

If most utterances have the same intent, as in ATIS, a model that always predicts it has
a high accuracy; macro-F1 weights all intents equally.
"""

from collections.abc import Sequence

import numpy as np

Labels = Sequence | np.ndarray
"""Names or class numbers of intents, (n,), n at least 1."""


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
