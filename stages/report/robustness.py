"""What the robustness stage left: the students' accuracy by condition."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.core.errors import CacheError
from stages.report import scores
from stages.report.systems import System, read_table

FIX = "run `dvc repro robustness`"
CLEAN = "clean"
_COLUMNS = ("condition", "snr", "system", "seed", "id", "intent", "predicted")
# Percent of predictions: more than rounding moves, which the device may.
_AGREEMENT = 1.0


@dataclass(frozen=True)
class Spoilt:
    """The students on test under one condition.

    Attributes:
        kind: `clean`, a noise, or a reverberation.
        snr: decibels; None without noise.
        rows: `scores.measure` of each system on test, by name.
    """

    kind: str
    snr: float | None
    rows: dict[str, dict[str, Any]]

    @property
    def title(self) -> str:
        """What a reader calls the condition."""
        return self.kind if self.snr is None else f"{self.kind}, {self.snr:g} dB"


def read_robustness(
    path: Path, systems: Sequence[System], *, seed: int
) -> list[Spoilt]:
    """Every condition in `path`, in its order, held against the students' own results.

    Args:
        path: predictions of `systems` on test under each condition.
        systems: the students.
        seed: of the draws for the intervals.

    Raises:
        CacheError: the file is missing, damaged, or of other students, seeds or
            utterances; or `clean` is not what the students themselves predict.
    """
    table = read_table(path, _COLUMNS, FIX)
    try:
        table["seed"] = table["seed"].astype(int)
        table["ratio"] = table["snr"].replace("", "nan").astype(float)
    except ValueError as error:
        raise CacheError(
            f"seed or snr that is no number ({error})", path=path, fix=FIX
        ) from None
    if not {CLEAN} < set(table["condition"]) or table["ratio"].isna().all():
        raise CacheError(
            "not the predictions of the robustness stage",
            path=path,
            found=f"conditions {', '.join(table['condition'].unique())}",
            expected=f"{CLEAN}, and a noise at least",
            fix=FIX,
        )
    found = []
    for (kind, ratio), rows in table.groupby(
        ["condition", "ratio"], sort=False, dropna=False
    ):
        by_system = dict(list(rows.groupby("system")))
        for system in systems:
            if system.name not in by_system:
                raise CacheError(
                    f"no predictions of {system.name} under every condition",
                    path=path,
                    found=", ".join(by_system),
                    expected=", ".join(one.name for one in systems),
                    fix=FIX,
                )
            _check(path, system, by_system[system.name], clean=kind == CLEAN)
        snr = None if np.isnan(ratio) else float(ratio)
        measured = {
            s.name: scores.measure(by_system[s.name], seed=seed) for s in systems
        }
        found.append(Spoilt(str(kind), snr, measured))
    return found


def _check(path: Path, system: System, rows: pd.DataFrame, *, clean: bool) -> None:
    """Hold predictions under a condition against the student's own of test."""
    own = system.predictions[system.predictions["split"] == "test"]
    keys = ["seed", "id", "intent"]
    both = own.merge(rows, on=keys, suffixes=("", "_here"), validate="one_to_many")
    if not len(own) == len(rows) == len(both):
        raise CacheError(
            f"predictions of {system.name} on other utterances or seeds than its own",
            path=path,
            found=f"{len(rows)}, {len(both)} of them its own",
            expected=f"{len(own)}",
            fix=FIX,
        )
    share = 100 * float((both["predicted"] != both["predicted_here"]).mean())
    if clean and share > _AGREEMENT:
        raise CacheError(
            f"predictions of another {system.name} than the one that is reported",
            path=path,
            found=f"{share:.1f}% of the clean ones differ",
            expected=f"at most {_AGREEMENT:g}%",
            fix=FIX,
        )
