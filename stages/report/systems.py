"""The systems that the report compares, read from the folders their stages wrote.

Every figure of the report is computed from predictions, so each run must cover exactly
the manifest's valid and test utterances.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.errors import CacheError

TITLES = {
    "baseline1_text": "Baseline-1, ground-truth text",
    "baseline1_asr": "Baseline-1, recognised text",
    "baseline2": "Baseline-2, acoustic embeddings",
    "aln_linguistic": "ALN linguistic",
    "aln": "ALN",
}
SCORED = ("valid", "test")
STUDENT_KINDS = ("baseline2", "aln_linguistic", "aln")
# Which epoch a run keeps, by the student's parameter `selection`.
SELECTIONS = {
    "best_valid": "the epoch with the highest valid accuracy (ties: the lower valid "
    "intent loss, then the earlier epoch)",
    "last": "the last epoch",
}
STUDENT_FIX = "run `dvc repro student`"
TEACHER_FIX = "run `dvc repro teacher`"
BASELINE1_FIX = "run `dvc repro baseline1`"
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
        alpha: weight of the transfer loss; None for systems without one.
        predictions: one row per seed and utterance of valid and test; columns seed,
            id, split, intent, predicted, confidence (the probability of the predicted
            intent) and those of `utterances`. Baseline-1 has a single run, seed 0.
        history: one row per seed and epoch, columns `HISTORY_COLUMNS`; empty for
            Baseline-1.
        selection: which epoch a run keeps, a key of `SELECTIONS`; None for Baseline-1.
    """

    name: str
    kind: str
    alpha: float | None
    predictions: pd.DataFrame
    history: pd.DataFrame
    selection: str | None = None

    @property
    def title(self) -> str:
        """The name that readers see."""
        return title_of(self.name)

    @property
    def seeds(self) -> list[int]:
        """The seeds it was trained with, sorted."""
        return sorted(int(seed) for seed in self.predictions["seed"].unique())

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

    Raises:
        CacheError: a file is missing, damaged or from another manifest.
    """
    kind, alpha = parse_name(name)
    metrics = read_json(folder / "metrics.json", STUDENT_FIX)
    history = read_table(folder / "history.csv", HISTORY_COLUMNS, STUDENT_FIX)
    path = folder / "predictions.csv"
    rows = read_table(path, {"seed": int, **_PREDICTION_COLUMNS}, STUDENT_FIX)
    return System(
        name,
        kind,
        alpha,
        _join(path, rows, utterances, STUDENT_FIX),
        history.sort_values(["seed", "epoch"], ignore_index=True),
        metrics["parameters"]["selection"],
    )


def read_baseline1(
    kind: str,
    folder: Path,
    utterances: pd.DataFrame,
    fix: str,
    *,
    left_out: Iterable[str] = (),
) -> System:
    """The teacher's predictions from text, from `predictions.csv` in `folder`.

    Args:
        kind: `baseline1_text` or `baseline1_asr`.
        folder: of the teacher, or of the stage baseline1.
        utterances: as in `read_student`.
        fix: for error messages.
        left_out: ids whose predictions are ignored.

    Raises:
        CacheError: the file is missing, damaged or from another manifest.
    """
    path = folder / "predictions.csv"
    rows = read_table(path, _PREDICTION_COLUMNS, fix)
    rows = rows[~rows["id"].isin(list(left_out))]
    rows.insert(0, "seed", 0)
    return System(
        kind,
        kind,
        None,
        _join(path, rows, utterances, fix),
        pd.DataFrame(columns=list(HISTORY_COLUMNS), dtype=float),
    )


def check_comparable(students: Sequence[System]) -> None:
    """Check that all students have the same seeds and select epochs in the same way.

    Raises:
        CacheError: two students differ.
    """
    first = students[0]
    for student in students[1:]:
        for what in ("seeds", "selection"):
            found, expected = getattr(student, what), getattr(first, what)
            if found != expected:
                raise CacheError(
                    f"{student.name} and {first.name} differ in student.{what}",
                    found=found,
                    expected=expected,
                    fix=STUDENT_FIX,
                )


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CacheError: the file is missing or not JSON.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheError("no such file", path=path, fix=fix) from None
    except ValueError as error:
        raise CacheError(f"not JSON ({error})", path=path, fix=fix) from error
    return value


def read_table(path: Path, columns: Mapping[str, type], fix: str) -> pd.DataFrame:
    """A CSV file with exactly `columns`, by name and type; an empty float is NaN.

    Raises:
        CacheError: the file is missing, has other columns, or a value that is not of
            its column's type.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if list(table.columns) != list(columns):
            raise CacheError(
                "unexpected columns",
                path=path,
                found=", ".join(table.columns),
                expected=", ".join(columns),
                fix=fix,
            )
        for name, kind in columns.items():
            if kind is not str:
                table[name] = [kind(text or "nan") for text in table[name]]
    except FileNotFoundError:
        raise CacheError("no such file", path=path, fix=fix) from None
    except ValueError as error:
        raise CacheError(
            f"not a readable table ({error})", path=path, fix=fix
        ) from error
    return table


def check_cover(
    path: Path,
    rows: pd.DataFrame,
    expected: pd.DataFrame,
    keys: list[str],
    *,
    what: str,
    fix: str,
) -> None:
    """Check that `rows` has each row of `expected`, compared by `keys`, exactly once.

    Raises:
        CacheError: it does not; the message starts with `what` the rows are.
    """
    found, wanted = (
        set(table[keys].itertuples(index=False, name=None))
        for table in (rows, expected)
    )
    different = sorted(found ^ wanted)
    if different or len(rows) != len(expected):
        first = "".join(f"; first difference: {one[0]}" for one in different[:1])
        raise CacheError(
            f"{what} for other utterances than the manifest's",
            path=path,
            found=f"{len(rows)} rows{first}",
            expected=f"{len(expected)} rows",
            fix=fix,
        )


def _join(
    path: Path, rows: pd.DataFrame, utterances: pd.DataFrame, fix: str
) -> pd.DataFrame:
    """`rows` with the columns of `utterances`, which every seed must cover."""
    keys = ["id", "split", "intent"]
    for seed, run in rows.groupby("seed"):
        what = f"predictions of seed {seed}"
        check_cover(path, run, utterances, keys, what=what, fix=fix)
    return rows.merge(utterances, on=keys, validate="many_to_one")
