"""How the students reject what is none of the intents, from the rejection stage."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.report.statistics import spread
from stages.report.systems import System

KINDS = ("speech", "noise", "silence")
FIGURES = ("false_accepts", "auroc", "false_accepts_per_hour")
_OWN = (
    "temperature",
    "valid_ece",
    "valid_ece_calibrated",
    "test_ece",
    "test_ece_calibrated",
    "test_accuracy",
    "test_rejected",
    "test_accuracy_with_rejection",
)


@dataclass(frozen=True)
class Rejection:
    """The students' calibration and rejection.

    Attributes:
        share: of the valid commands that may be rejected.
        others: utterances and seconds by kind, of those measured.
        rows: of each student, by name: seeds (how many), score (by how many seeds it is
            used), and of each figure the mean and `<name>_std` over seeds. Those on
            others are called `speech_auroc`.
        ensembles: the same figures of all seeds together, without deviations.
        curves: of each student, by name, and kind: [[accepted commands, false accepts],
            …] in percent, the mean over seeds where as many commands are accepted.
        exported: name, seed and test accuracies of the student that `export` takes.
    """

    share: float
    others: Mapping[str, Mapping[str, float]]
    rows: Mapping[str, Mapping[str, Any]]
    ensembles: Mapping[str, Mapping[str, Any]]
    curves: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
    exported: Mapping[str, Any]


def read_rejection(
    path: Path, students: Sequence[System], chosen: tuple[str, int]
) -> Rejection:
    """The contents of `rejection.json`.

    Args:
        path: of the rejection stage.
        students: in the order to show them.
        chosen: name and seed of the student that `export` takes.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    entries = {one.name: found["students"][one.name] for one in students}
    name, seed = chosen
    entry = entries[name]["seeds"][str(seed)]
    accepted = entry["others"]
    measured = ("test_accuracy", "test_accuracy_with_rejection")
    return Rejection(
        share=found["share"],
        others={
            kind: {key: accepted[kind][key] for key in ("utterances", "seconds")}
            for kind in KINDS
            if kind in accepted
        },
        rows={name: _over_seeds(one["seeds"]) for name, one in entries.items()},
        ensembles={name: _flat(one["ensemble"]) for name, one in entries.items()},
        curves={name: _mean_curves(one["seeds"]) for name, one in entries.items()},
        exported={"student": name, "seed": seed, **{k: entry[k] for k in measured}},
    )


def _over_seeds(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    flat = [_flat(entry) for entry in entries.values()]
    counted = Counter(one["score"] for one in flat)
    row: dict[str, Any] = {"seeds": len(flat), "score": dict(counted.most_common())}
    for name in flat[0]:
        if name != "score":
            mean, deviation = spread(np.array([one[name] for one in flat]))
            row |= {name: round(mean, 4), f"{name}_std": round(deviation, 4)}
    return row


def _mean_curves(
    entries: Mapping[str, Mapping[str, Any]],
) -> dict[str, list[list[float]]]:
    curves = [entry["curve"] for entry in entries.values()]
    return {
        kind: np.mean([one[kind] for one in curves], axis=0).round(4).tolist()
        for kind in KINDS
        if kind in curves[0]
    }


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an entry, by name."""
    others = {
        f"{kind}_{name}": entry["others"][kind][name]
        for kind in KINDS
        if kind in entry["others"]
        for name in FIGURES
    }
    return {"score": entry["score"], **{name: entry[name] for name in _OWN}, **others}
