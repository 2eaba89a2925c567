"""What a student's confidence is worth: an entry of `rejection.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.core import metrics
from stages.core.labels import Labels
from stages.rejection import calibration
from stages.rejection.others import SIDES

Outputs = Mapping[str, np.ndarray]
"""Logits (U, C) of one network by part: of commands `valid` and `test`, of others
`speech/valid`, `speech/test`, and the same for noise and silence."""


def measure(
    networks: Sequence[Outputs],
    labels: Labels,
    numbers: Mapping[str, np.ndarray],
    seconds: Mapping[str, float],
    levels: Mapping[str, np.ndarray],
    *,
    share: float,
) -> dict[str, Any]:
    """Fit temperature, score and threshold on valid, and measure them on test.

    Args:
        networks: one, or those of all seeds, which then decide together.
        labels: of the corpus.
        numbers: class numbers (U, slots) of `valid` and `test`.
        seconds: of the audio of each part of others.
        levels: of the recordings of a part (U); a part without is taken to be as loud
            as commands.
        share: of the valid commands that may be rejected.

    Returns:
        Percent, except temperature, threshold, quietest, AUROC, utterances and seconds;
        see `run.py`.
    """
    both = {
        part: calibration.combine([outputs[part] for outputs in networks], labels)
        for part in networks[0]
    }
    temperature = calibration.fit_temperature(
        both["valid"][0], numbers["valid"], labels
    )
    quietest = calibration.quietest(levels["valid"])
    scores = {
        part: calibration.scores(*outputs, labels, temperature)
        for part, outputs in both.items()
    }
    for part, found in levels.items():
        for values in scores[part].values():
            values[found < quietest] = -np.inf
    kinds = list(dict.fromkeys(part.partition("/")[0] for part in seconds))
    aurocs = {
        name: np.mean(
            [
                calibration.auroc(scores["valid"][name], scores[f"{kind}/valid"][name])
                for kind in kinds
            ]
        )
        for name in calibration.SCORES
    }
    score = max(calibration.SCORES, key=lambda name: aurocs[name])
    kept = {part: found[score] for part, found in scores.items()}
    # Of what is not silent, so that it is a number.
    heard = kept["valid"][np.isfinite(kept["valid"])]
    threshold = max(calibration.threshold(kept["valid"], share), float(heard.min()))
    commands = kept["test"]
    others = {kind: kept[f"{kind}/test"] for kind in kinds}
    accepted = commands >= threshold
    right = (labels.choose(both["test"][0]) == numbers["test"]).all(axis=1)
    figures = {
        **_accuracies(both, labels, numbers, temperature),
        "test_rejected": 100 * np.mean(~accepted),
        "test_accuracy_with_rejection": 100 * np.mean(right & accepted),
    }
    return {
        "temperature": temperature,
        "score": score,
        "threshold": threshold,
        "quietest": quietest,
        **_rounded(figures),
        "valid_auroc": _rounded(aurocs),
        "others": {
            kind: _false_accepts(commands, other, threshold, seconds[f"{kind}/test"])
            for kind, other in others.items()
        },
        "curve": {
            kind: calibration.curve(commands, other) for kind, other in others.items()
        },
    }


def _accuracies(
    both: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: Labels,
    numbers: Mapping[str, np.ndarray],
    temperature: float,
) -> dict[str, float]:
    """Accuracies, and the calibration error without and with the temperature."""
    found: dict[str, float] = {}
    for split in SIDES:
        logits = both[split][0]
        predicted = labels.choose(logits)
        right = (predicted == numbers[split]).all(axis=1).astype(float)
        scores = metrics.measure(labels, numbers[split], predicted)
        del scores["macro_f1"]
        found |= {f"{split}_{name}": value for name, value in scores.items()}
        for name, used in (("ece", 1.0), ("ece_calibrated", temperature)):
            probabilities = calibration.softmax(logits, labels, used)
            confidence = labels.confidence(probabilities)
            error = metrics.calibration_error(confidence, right)
            found[f"{split}_{name}"] = 100 * error
    return found


def _false_accepts(
    commands: np.ndarray, others: np.ndarray, threshold: float, seconds: float
) -> dict[str, float | int]:
    """How many of the others are taken for commands; scores (U) of both."""
    accepts = int(np.sum(others >= threshold))
    figures = {
        "seconds": seconds,
        "false_accepts": 100 * accepts / len(others),
        "false_accepts_per_hour": accepts * 3600 / seconds,
        "auroc": calibration.auroc(commands, others),
    }
    return {"utterances": len(others), **_rounded(figures)}


def _rounded(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in figures.items()}
