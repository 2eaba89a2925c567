"""The systems that the report compares, read from the folders their stages wrote.

Every figure of the report is computed from predictions. `run.py` has checked that they
are of this manifest.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from stages.student.params import (
    RECOMMENDED,
    SYSTEMS,
    RecommendedParams,
    StudentParams,
)

TITLES = {
    "baseline1_text": "Baseline-1, ground-truth text",
    "baseline1_asr": "Baseline-1, recognised text",
    "baseline2": "Baseline-2, acoustic embeddings",
    "aln_linguistic": "ALN linguistic",
    "aln": "ALN",
    RECOMMENDED: "Recommended",
}
SCORED = ("valid", "test")
STUDENT_KINDS = (*SYSTEMS, RECOMMENDED)
# Which epoch a run keeps, by the student's parameter `selection`.
SELECTIONS = {
    "best_valid": "the epoch with the highest valid accuracy (ties: the lower valid "
    "intent loss, then the earlier epoch)",
    "last": "the last epoch",
}
HISTORY_COLUMNS = {
    "seed": int,
    "epoch": int,
    "loss": float,
    "transfer_loss": float,
    "intent_loss": float,
    "train_accuracy": float,
    "valid_accuracy": float,
    "valid_macro_f1": float,
}
_PREDICTION_COLUMNS = {
    "id": str,
    "split": str,
    "intent": str,
    "predicted": str,
    "confidence": float,
}


@dataclass(frozen=True)
class System:
    """One row of the results.

    Attributes:
        name: as in the grid, `aln-0.8`.
        kind: the system without its α, `aln`.
        alpha: weight of the transfer loss in the name; None without one.
        predictions: one row per seed and utterance of valid and test; columns seed,
            id, split, intent, predicted, confidence (the probability of the predicted
            intent) and those of `utterances`. Baseline-1 has a single run, seed 0.
        history: one row per seed and epoch, columns `HISTORY_COLUMNS`; empty for
            Baseline-1.
    """

    name: str
    kind: str
    alpha: float | None
    predictions: pd.DataFrame
    history: pd.DataFrame

    @property
    def title(self) -> str:
        """The name that readers see."""
        return title_of(self.name)

    @property
    def seeds(self) -> list[int]:
        """The seeds it was trained with, sorted."""
        return sorted(int(seed) for seed in self.predictions["seed"].unique())

    @property
    def valid(self) -> pd.DataFrame:
        """The predictions on valid."""
        return self.predictions[self.predictions["split"] == "valid"]

    @property
    def test(self) -> pd.DataFrame:
        """The predictions on test."""
        return self.predictions[self.predictions["split"] == "test"]


def parse_name(name: str) -> tuple[str, float | None]:
    """Kind and α: `aln-0.8` -> ("aln", 0.8); `baseline2` -> ("baseline2", None)."""
    kind, _, alpha = name.partition("-")
    return kind, float(alpha) if alpha else None


def title_of(name: str) -> str:
    """`aln-0.8` -> `ALN, α 0.8`."""
    kind, alpha = parse_name(name)
    return TITLES[kind] if alpha is None else f"{TITLES[kind]}, α {alpha:g}"


def read_student(name: str, folder: Path, utterances: pd.DataFrame) -> System:
    """The student called `name`, from the files of its training.

    Args:
        name: as in the grid, `aln-0.8`.
        folder: of the student.
        utterances: of valid and test; columns id, split, intent, and others to join.
    """
    kind, alpha = parse_name(name)
    columns = {"seed": int, **_PREDICTION_COLUMNS}
    predictions = _join(read_table(folder / "predictions.csv", columns), utterances)
    history = read_table(folder / "history.csv", HISTORY_COLUMNS)
    history = history.sort_values(["seed", "epoch"], ignore_index=True)
    return System(name, kind, alpha, predictions, history)


def read_recommended(folder: Path) -> dict[str, Any]:
    """What the student `recommended` in `folder` is.

    Keys system, alpha and changes: its parameters that differ from the paper's.
    """
    found = json.loads((folder / "metrics.json").read_text("utf-8"))
    paper, own = asdict(StudentParams()), found["parameters"]
    names = (field.name for field in fields(RecommendedParams) if field.name in paper)
    return {
        "system": found["system"],
        "alpha": found["alpha"],
        "changes": {
            name: own[name]
            for name in names
            if name != "alpha" and own[name] != paper[name]
        },
    }


def read_baseline1(
    kind: str,
    folder: Path,
    utterances: pd.DataFrame,
    *,
    left_out: Iterable[str] = (),
) -> System:
    """The teacher's predictions from text, from `predictions.csv` in `folder`.

    Args:
        kind: `baseline1_text` or `baseline1_asr`.
        folder: of the teacher, or of the stage baseline1.
        utterances: as in `read_student`.
        left_out: ids whose predictions are ignored.
    """
    rows = read_table(folder / "predictions.csv", _PREDICTION_COLUMNS)
    rows = rows[~rows["id"].isin(list(left_out))]
    rows.insert(0, "seed", 0)
    history = pd.DataFrame(columns=list(HISTORY_COLUMNS), dtype=float)
    return System(kind, kind, None, _join(rows, utterances), history)


def read_table(path: Path, columns: Mapping[str, type]) -> pd.DataFrame:
    """Columns of a CSV file that a stage wrote, by type; an empty number is NaN."""
    numbers = [name for name, kind in columns.items() if kind is float]
    return pd.read_csv(
        path,
        usecols=list(columns),
        dtype=dict(columns),
        keep_default_na=False,
        na_values={name: [""] for name in numbers},
    )


def _join(rows: pd.DataFrame, utterances: pd.DataFrame) -> pd.DataFrame:
    """`rows` with the columns of `utterances`."""
    keys = ["id", "split", "intent"]
    return rows.merge(utterances, on=keys, validate="many_to_one")
