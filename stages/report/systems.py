"""A system: what a student or the teacher left in its folder, read and checked.

Whatever the report shows is computed from predictions, so a folder made from another
manifest, another α or half of its seeds must not get past this module.
"""

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from stages.core.errors import CacheError, ConfigurationError

TITLES = {
    "baseline1_text": "Baseline-1, ground-truth text",
    "baseline1_asr": "Baseline-1, recognised text",
    "baseline2": "Baseline-2, acoustic embeddings",
    "aln_linguistic": "ALN linguistic",
    "aln": "ALN",
}
HEARD = ("valid", "test")
TRANSFER_KINDS = ("aln_linguistic", "aln")
STUDENT_KINDS = ("baseline2", *TRANSFER_KINDS)
# Which epoch of a run is kept, by the student's parameter `selection`.
SELECTIONS = {
    "best_valid": "the epoch with the highest accuracy on valid (of equals that with "
    "the lower intent loss there, then the earlier one)",
    "last": "the last epoch",
}
STUDENT_FIX = "run `dvc repro student`"
TEACHER_FIX = "run `dvc repro teacher`"
BASELINE1_FIX = "run `dvc repro baseline1`"
HISTORY_COLUMNS = (
    "seed",
    "epoch",
    "loss",
    "transfer_loss",
    "intent_loss",
    "train_accuracy",
    "valid_accuracy",
    "valid_macro_f1",
)
_PREDICTION_COLUMNS = ("id", "split", "intent", "predicted", "confidence")
# Percentage points: below one utterance of the largest corpus, above any rounding.
_AGREEMENT = 0.01


@dataclass(frozen=True)
class System:
    """One row of the results.

    Attributes:
        name: as in the grid, `aln-0.8`.
        kind: the system without its α, `aln`.
        alpha: weight of the transfer loss, None where there is none.
        predictions: one row a seed and utterance of valid and test; columns seed, id,
            split, intent, predicted, confidence (the probability of what is
            predicted), and what `utterances` adds. The teacher's one run has seed 0.
        history: one row a seed and epoch, columns `HISTORY_COLUMNS`; empty for the
            teacher, on whatever text.
        selection: which epoch of a run is kept, a key of `SELECTIONS`; None for the
            teacher.
    """

    name: str
    kind: str
    alpha: float | None
    predictions: pd.DataFrame
    history: pd.DataFrame
    selection: str | None = None

    @property
    def title(self) -> str:
        """What a reader calls the system."""
        title = TITLES[self.kind]
        return title if self.alpha is None else f"{title}, α {self.alpha:g}"

    @property
    def seeds(self) -> list[int]:
        """The seeds it was trained with, sorted."""
        return sorted(int(seed) for seed in self.predictions["seed"].unique())


@dataclass(frozen=True)
class Embeddings:
    """Sentence embeddings of valid utterances: the teacher's and the student's.

    Attributes:
        ids: of n utterances.
        teacher: E_lang, (n, hidden).
        first: pooled ê_lang after the first epoch, (n, hidden).
        last: pooled ê_lang after the last epoch, (n, hidden).
    """

    ids: np.ndarray
    teacher: np.ndarray
    first: np.ndarray
    last: np.ndarray


def parse_name(name: str) -> tuple[str, float | None]:
    """`aln-0.8` -> ("aln", 0.8); `baseline2` -> ("baseline2", None).

    Raises:
        ConfigurationError: not the name of a student.
    """
    kind, dash, text = name.partition("-")
    try:
        alpha = float(text) if dash else None
        known = kind in STUDENT_KINDS and (alpha is not None) == (
            kind in TRANSFER_KINDS
        )
    except ValueError:
        known = False
    if not known:
        raise ConfigurationError(
            "unknown student",
            found=repr(name),
            expected="baseline2, aln_linguistic-<alpha> or aln-<alpha>",
        )
    return kind, alpha


def read_student(name: str, folder: Path, utterances: pd.DataFrame) -> System:
    """The student called `name`, its files held against the manifest and each other.

    Args:
        name: as in the grid, `aln-0.8`.
        folder: what training wrote.
        utterances: valid and test, columns id, split, intent, and any to carry along.

    Raises:
        CacheError: a file is missing, damaged, of another system or another manifest.
    """
    kind, alpha = parse_name(name)
    metrics_path = folder / "metrics.json"
    metrics = _read_metrics(metrics_path)
    if (metrics["system"], metrics["alpha"]) != (kind, alpha):
        raise CacheError(
            "metrics of another student",
            path=metrics_path,
            found=f"system {metrics['system']}, alpha {metrics['alpha']}",
            expected=f"system {kind}, alpha {alpha}",
            fix=STUDENT_FIX,
        )
    path = folder / "predictions.csv"
    rows = _read_predictions(path, ("seed", *_PREDICTION_COLUMNS), STUDENT_FIX)
    rows["seed"] = _numbers(path, rows["seed"], int, STUDENT_FIX)
    system = System(
        name,
        kind,
        alpha,
        _join(path, rows, utterances, STUDENT_FIX),
        _read_history(folder / "history.csv"),
        metrics["parameters"]["selection"],
    )
    _check_agreement(metrics_path, metrics, system)
    return system


@dataclass(frozen=True)
class Recognition:
    """What a recogniser wrote down, and what it is called.

    Attributes:
        recogniser: its name.
        transcripts: valid and test, a row an utterance: id, split, intent, text (the
            reference) and transcript.
    """

    recogniser: str
    transcripts: pd.DataFrame


def read_recognised(
    folder: Path, utterances: pd.DataFrame
) -> tuple[System, Recognition]:
    """Baseline-1 on recognised text: the teacher's predictions, and the text.

    Args:
        folder: what `transcribe` wrote.
        utterances: as in `read_student`.

    Raises:
        CacheError: a file is missing, damaged or of another manifest.
    """
    system = _read_run("baseline1_asr", folder, utterances, (), BASELINE1_FIX)
    path = folder / "transcripts.csv"
    rows = read_table(path, ("id", "split", "text", "transcript"), BASELINE1_FIX)
    _check_cover(
        path,
        "transcripts of other utterances or texts",
        rows,
        utterances,
        ["id", "split", "text"],
        BASELINE1_FIX,
    )
    path = folder / "scores.json"
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
        name = str(scores["recogniser"])
        stated = {split: float(scores[f"{split}_accuracy"]) for split in HEARD}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"not the scores of a recogniser ({error!r})", path=path, fix=BASELINE1_FIX
        ) from error
    _check_accuracy(path, stated, system, BASELINE1_FIX)
    joined = rows.merge(utterances[["id", "intent"]], on="id")
    return system, Recognition(name, joined)


def read_teacher(
    folder: Path, utterances: pd.DataFrame, *, set_aside: Collection[str] = ()
) -> System:
    """Baseline-1 on ground-truth text: the fine-tuned BERT's own predictions.

    Args:
        folder: what fine-tuning wrote.
        utterances: as in `read_student`.
        set_aside: ids whose predictions are left out, their recordings being bad.

    Raises:
        CacheError: the file is missing, damaged or of another manifest.
    """
    return _read_run("baseline1_text", folder, utterances, set_aside, TEACHER_FIX)


def _read_run(
    kind: str,
    folder: Path,
    utterances: pd.DataFrame,
    set_aside: Collection[str],
    fix: str,
) -> System:
    """A system of one run without seeds or epochs, from its `predictions.csv`."""
    path = folder / "predictions.csv"
    rows = _read_predictions(path, _PREDICTION_COLUMNS, fix)
    rows = rows[~rows["id"].isin(list(set_aside))]
    rows.insert(0, "seed", 0)
    return System(
        kind,
        kind,
        None,
        _join(path, rows, utterances, fix),
        pd.DataFrame(columns=list(HISTORY_COLUMNS), dtype=float),
    )


def read_embeddings(folder: Path, ids: Sequence[str]) -> Embeddings:
    """What Figure 2 shows, from a transfer system's `embeddings.npz`.

    Args:
        folder: of the student.
        ids: the utterances of valid.

    Raises:
        CacheError: the file is missing, damaged or of other utterances.
    """
    path = folder / "embeddings.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = Embeddings(
                archive["ids"].astype(str),
                archive["teacher"],
                archive["student_first"],
                archive["student_last"],
            )
    except FileNotFoundError:
        raise CacheError("no such file", path=path, fix=STUDENT_FIX) from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise CacheError(
            f"not the embeddings of a student ({error})", path=path, fix=STUDENT_FIX
        ) from error
    shapes = {found.teacher.shape, found.first.shape, found.last.shape}
    if len(shapes) != 1 or found.teacher.ndim != 2:
        raise CacheError(
            "embeddings of different shapes",
            path=path,
            found=sorted(shapes),
            expected="one (utterances, hidden)",
            fix=STUDENT_FIX,
        )
    if not all(np.isfinite(a).all() for a in (found.teacher, found.first, found.last)):
        raise CacheError("embeddings that are not finite", path=path, fix=STUDENT_FIX)
    if sorted(found.ids) != sorted(ids) or len(found.ids) != len(found.teacher):
        raise CacheError(
            "embeddings of other utterances",
            path=path,
            found=f"{len(found.ids)} ids",
            expected=f"the {len(ids)} of valid",
            fix=STUDENT_FIX,
        )
    return found


def check_comparable(systems: Sequence[System]) -> None:
    """Every student must have the same seeds and the same rule of choosing the epoch.

    Raises:
        CacheError: two students differ.
    """
    for system in systems[1:]:
        if system.seeds != systems[0].seeds:
            raise CacheError(
                f"{system.name} and {systems[0].name} have different seeds",
                found=system.seeds,
                expected=systems[0].seeds,
                fix=STUDENT_FIX,
            )
        if system.selection != systems[0].selection:
            raise CacheError(
                f"{system.name} and {systems[0].name} have chosen their epochs "
                "differently",
                found=system.selection,
                expected=systems[0].selection,
                fix=STUDENT_FIX,
            )


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheError("no such file", path=path, fix=STUDENT_FIX) from None
    except ValueError as error:
        raise CacheError(f"not JSON ({error})", path=path, fix=STUDENT_FIX) from error
    needed = {"system", "alpha", "parameters", "seeds"}
    needed |= {"valid_accuracy", "test_accuracy"}
    if not isinstance(metrics, dict) or not needed <= metrics.keys():
        raise CacheError(
            "not the metrics of a student",
            path=path,
            expected=f"the keys {', '.join(sorted(needed))}",
            fix=STUDENT_FIX,
        )
    selection = metrics["parameters"].get("selection")
    if selection not in SELECTIONS:
        raise CacheError(
            "an unknown way to choose the epoch",
            path=path,
            found=selection,
            expected=f"one of {', '.join(SELECTIONS)}",
            fix=STUDENT_FIX,
        )
    return metrics


def _read_predictions(path: Path, columns: Sequence[str], fix: str) -> pd.DataFrame:
    """A table of predictions, `confidence` as numbers."""
    rows = read_table(path, columns, fix)
    rows["confidence"] = _numbers(path, rows["confidence"], float, fix)
    wrong = rows[~rows["confidence"].between(0, 1)]
    if not wrong.empty:
        raise CacheError(
            "column confidence holds something that is no probability",
            path=path,
            found=f"{wrong['confidence'].iloc[0]:g} for {wrong['id'].iloc[0]}",
            expected="a number from 0 to 1",
            fix=fix,
        )
    return rows


def read_table(path: Path, columns: Sequence[str], fix: str) -> pd.DataFrame:
    """A CSV file with exactly `columns`, every one as text."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise CacheError("no such file", path=path, fix=fix) from None
    except (ValueError, pd.errors.ParserError) as error:
        raise CacheError(
            f"not a readable table ({error})", path=path, fix=fix
        ) from error
    if tuple(table.columns) != tuple(columns) or table.empty:
        raise CacheError(
            "not the table it should be",
            path=path,
            found=f"{len(table)} rows of {', '.join(table.columns)}",
            expected=f"rows of {', '.join(columns)}",
            fix=fix,
        )
    return table


def _read_history(path: Path) -> pd.DataFrame:
    table = read_table(path, HISTORY_COLUMNS, STUDENT_FIX)
    for name in HISTORY_COLUMNS:
        kind = int if name in ("seed", "epoch") else float
        table[name] = _numbers(path, table[name], kind, STUDENT_FIX)
    return table.sort_values(["seed", "epoch"], ignore_index=True)


def _numbers(path: Path, column: pd.Series, kind: type, fix: str) -> pd.Series:
    """`column` as `kind`, int or float; an empty field is NaN where that is one."""
    try:
        return column.map(lambda text: kind(text or "nan"))
    except ValueError as error:
        raise CacheError(
            f"column {column.name} holds something that is no number",
            path=path,
            found=error,
            expected=kind.__name__,
            fix=fix,
        ) from error


def _join(
    path: Path, rows: pd.DataFrame, utterances: pd.DataFrame, fix: str
) -> pd.DataFrame:
    """`rows` with the columns of `utterances`; each seed must cover them exactly."""
    keys = ["id", "split", "intent"]
    for seed, group in rows.groupby("seed"):
        what = "predictions of other utterances"
        _check_cover(path, what, group, utterances, keys, fix, f" of seed {seed}")
    return rows.merge(utterances, on=keys, validate="many_to_one")


def _check_cover(
    path: Path,
    what: str,
    rows: pd.DataFrame,
    utterances: pd.DataFrame,
    keys: list[str],
    fix: str,
    whose: str = "",
) -> None:
    """`rows` are those of `utterances` in the columns `keys`, each once.

    Raises:
        CacheError: they are not; `what` says which they are.
    """
    wrong = sorted(set(_tuples(rows[keys])) ^ set(_tuples(utterances[keys])))
    if wrong or len(rows) != len(utterances):
        example = f", they differ at {wrong[0][0]}" if wrong else ""
        raise CacheError(
            f"{what} than the manifest's",
            path=path,
            found=f"{len(rows)}{whose}{example}",
            expected=f"{len(utterances)}, valid and test",
            fix=fix,
        )


def _tuples(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return list(table.itertuples(index=False, name=None))


def _check_agreement(path: Path, metrics: dict[str, Any], system: System) -> None:
    """The folder's files are of one run if the predictions give the metrics."""
    seeds = sorted(run["seed"] for run in metrics["seeds"])
    if seeds != system.seeds:
        raise CacheError(
            "the predictions are of other seeds",
            path=path,
            found=system.seeds,
            expected=seeds,
            fix=STUDENT_FIX,
        )
    stated = {split: float(metrics[f"{split}_accuracy"]) for split in HEARD}
    _check_accuracy(path, stated, system, STUDENT_FIX)


def _check_accuracy(
    path: Path, stated: Mapping[str, float], system: System, fix: str
) -> None:
    """The predictions give the accuracies in percent that are stated in `path`."""
    right = system.predictions["intent"] == system.predictions["predicted"]
    for split, expected in stated.items():
        measured = 100 * float(right[system.predictions["split"] == split].mean())
        if abs(measured - expected) > _AGREEMENT:
            raise CacheError(
                f"the predictions do not give the {split} accuracy stated here",
                path=path,
                found=f"{measured:.2f}%",
                expected=f"{expected:.2f}%",
                fix=fix,
            )
