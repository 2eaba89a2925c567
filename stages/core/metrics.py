"""How good predictions are: accuracy and macro-F1, in percent.

Where most utterances share one intent, as in ATIS, accuracy is high for a model that
knows nothing else; macro-F1 counts every intent alike.
"""

from collections.abc import Sequence

import numpy as np

Labels = Sequence | np.ndarray
"""Names or numbers of intents, (n,), n at least 1."""


def measure(actual: Labels, predicted: Labels) -> dict[str, float]:
    """Both metrics by name, as they stand in every table of scores."""
    return {
        "accuracy": accuracy(actual, predicted),
        "macro_f1": macro_f1(actual, predicted),
    }


def accuracy(actual: Labels, predicted: Labels) -> float:
    """Percent of n labels that are right; both (n,), n at least 1."""
    return 100 * float(np.mean(np.asarray(actual) == np.asarray(predicted)))


def macro_f1(actual: Labels, predicted: Labels) -> float:
    """Mean F1 in percent over the intents that `actual` has; both (n,), n at least 1.

    An intent that is never predicted counts with 0. One that is predicted but never
    there lowers the precision of no other and is not averaged, so that every system
    divides by the same number.
    """
    names, numbers = np.unique([*actual, *predicted], return_inverse=True)
    true, guess = numbers[: len(actual)], numbers[len(actual) :]
    there = np.bincount(true, minlength=len(names))
    guessed = np.bincount(guess, minlength=len(names))
    hits = np.bincount(true[true == guess], minlength=len(names))
    kept = there > 0
    return 100 * float(np.mean(2 * hits[kept] / (there + guessed)[kept]))
