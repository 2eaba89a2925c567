"""Temperature, scores and threshold: from a network's outputs to accept or reject.

Logits are (U, C) for U utterances and C values of all slots, side by side; a corpus
without slots has one, the intent. Both scores are higher the more an utterance is like
a command:

    max_probability   the largest softmax(logits / T) (Hendrycks and Gimpel 2017)
    energy            logsumexp(logits), without T (Liu et al. 2020)

The first is multiplied over slots, the second summed.
"""

from collections.abc import Sequence

import numpy as np

from stages.core.labels import Labels, segments

SCORES = ("max_probability", "energy")

_TEMPERATURES = (0.05, 20.0)
"""The range of T: if every prediction on valid is right, the best one would be 0."""


def combine(
    outputs: Sequence[np.ndarray], labels: Labels
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (U, C) and energy (U) of several networks together, or of one.

    The logits are the logarithm of the mean probability; the energy is the mean of the
    networks' energies.

    Args:
        outputs: logits of each network, (U, C).
        labels: of the corpus.
    """
    logits = np.stack(outputs).astype(np.float64)  # (networks, U, C)
    energies = sum(_logsumexp(part) for part in segments(logits, labels.sizes))
    # 1e-300: the logarithm of 0 is not finite.
    together = np.log(np.maximum(softmax(logits, labels).mean(axis=0), 1e-300))
    return (logits[0] if len(outputs) == 1 else together), np.mean(energies, axis=0)


def softmax(logits: np.ndarray, labels: Labels, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (…, C) of each slot's values."""
    scaled = logits.astype(np.float64) / temperature
    parts = [
        np.exp(part - _logsumexp(part)[..., None])
        for part in segments(scaled, labels.sizes)
    ]
    return np.concatenate(parts, axis=-1)


def fit_temperature(logits: np.ndarray, numbers: np.ndarray, labels: Labels) -> float:
    """The T that minimises the negative log-likelihood (Guo et al. 2017).

    The likelihood, summed over slots, is concave in 1 / T, so bisection finds where its
    slope is 0.

    Args:
        logits: of valid, (U, C).
        numbers: class numbers (U, slots).
        labels: of the corpus.
    """
    logits = logits.astype(np.float64)
    places = numbers + np.array(labels.starts)  # (U, slots)
    right = np.take_along_axis(logits, places, axis=1).sum(axis=1).mean()

    def too_low(temperature: float) -> bool:
        expected = (softmax(logits, labels, temperature) * logits).sum(axis=1).mean()
        return bool(expected > right)

    low, high = _TEMPERATURES
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return middle


def scores(
    logits: np.ndarray, energy: np.ndarray, labels: Labels, temperature: float
) -> dict[str, np.ndarray]:
    """Both scores (U), by name."""
    return {
        "max_probability": labels.confidence(softmax(logits, labels, temperature)),
        "energy": energy.copy(),
    }


def threshold(commands: np.ndarray, share: float) -> float:
    """The largest threshold that rejects at most `share` of the commands.

    What scores below it is rejected.

    Args:
        commands: their scores (U).
        share: 0 to 1.
    """
    # 0.29 · 100 is 28.999…
    rejected = int(share * len(commands) + 1e-9)
    return float(np.sort(commands)[min(rejected, len(commands) - 1)])


def quietest(commands: np.ndarray) -> float:
    """The level below which a recording is silence: 20 dB below quiet commands.

    A student cannot tell: an encoder may be blind to level.

    Args:
        commands: their levels (U), of which the quietest hundredth may be silent.
    """
    return float(np.quantile(commands, 0.01)) / 10


def auroc(commands: np.ndarray, others: np.ndarray) -> float:
    """The probability that a command scores higher than another recording, 0 to 1.

    Equal scores count half. The area under the ROC curve, by Mann and Whitney's U.
    """
    ranked = np.sort(others)
    below = np.searchsorted(ranked, commands, "left")
    not_above = np.searchsorted(ranked, commands, "right")
    return float((below + not_above).mean() / (2 * len(others)))


def curve(commands: np.ndarray, others: np.ndarray) -> list[list[float]]:
    """False accepts against accepted commands, [[percent, percent], …].

    From 0, where nothing is accepted, over the highest threshold that accepts at least
    1, 2, …, 99% of the commands, to 100, where everything is.

    Args:
        commands: their scores (U).
        others: scores of other recordings (V).
    """
    shares = np.arange(1, 100)
    least = -(-shares * len(commands) // 100)  # rounded up
    thresholds = np.sort(commands)[len(commands) - least]
    below = np.searchsorted(np.sort(others), thresholds)
    accepted = np.round(100 * (1 - below / len(others)), 6)
    middle = np.column_stack([shares, accepted]).tolist()
    return [[0.0, 0.0], *middle, [100.0, 100.0]]


def _logsumexp(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    highest = logits.max(axis=-1)
    total = np.exp(logits - highest[..., None]).sum(axis=-1)
    return np.asarray(highest + np.log(total))
