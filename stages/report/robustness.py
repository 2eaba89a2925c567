"""The students' scores on degraded recordings, from the robustness stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core.labels import Labels
from stages.report.scores import measure
from stages.report.systems import System, read_table

CLEAN = "clean"
_COLUMNS = {
    "degradation": str,
    "snr": float,
    "system": str,
    "seed": int,
    "id": str,
    "intent": str,
    "predicted": str,
}


@dataclass(frozen=True)
class DegradedScores:
    """The students on test recordings that were degraded in one way.

    Attributes:
        degradation: `clean`, a noise, or reverberation.
        snr: signal-to-noise ratio in decibels; None without noise.
        rows: `measure` of each student, by name.
    """

    degradation: str
    snr: float | None
    rows: dict[str, dict[str, Any]]

    @property
    def title(self) -> str:
        """The name that readers see."""
        if self.snr is None:
            return self.degradation
        return f"{self.degradation}, {self.snr:g} dB"


def read_robustness(
    path: Path,
    students: Sequence[System],
    labels: Labels,
    utterances: pd.DataFrame,
) -> list[DegradedScores]:
    """The scores for every degradation in `path`, in its order.

    Args:
        path: `predictions.csv` of the robustness stage.
        students: in the order to show them.
        labels: of the corpus.
        utterances: columns id, speaker and text.
    """
    table = read_table(path, _COLUMNS)
    table = table.merge(utterances[["id", "speaker", "text"]], on="id")
    found = []
    for (degradation, ratio), rows in table.groupby(
        ["degradation", "snr"], sort=False, dropna=False
    ):
        own = {one.name: rows[rows["system"] == one.name] for one in students}
        snr = None if np.isnan(ratio) else float(ratio)
        measured = measure(labels, own, intervals=True)
        found.append(DegradedScores(str(degradation), snr, measured))
    return found
