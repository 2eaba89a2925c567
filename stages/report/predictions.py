"""`predictions.csv` of a report: what every system predicts for each test utterance.

One row per utterance, sorted by id: id, speaker (empty if unknown), text (normalised),
intent, wording (`seen` or `unseen` in training), then for each system and seed a column
`aln-0.5/1` with the predicted intent. Baseline-1 has a single run, seed 0.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from stages.core.errors import CacheError
from stages.report.systems import HISTORY_COLUMNS, System, parse_name, title_of

_UTTERANCE = ["id", "speaker", "text", "intent", "wording"]


def predictions_csv(systems: Sequence[System]) -> bytes:
    """The file's contents; all systems have predictions of the same test utterances."""
    utterances = systems[0].test.drop_duplicates("id").set_index("id")[_UTTERANCE[1:]]
    columns = [utterances]
    for system in systems:
        runs = system.test.pivot(index="id", columns="seed", values="predicted")
        runs.columns = [f"{system.name}/{seed}" for seed in runs.columns]
        columns.append(runs)
    table = pd.concat(columns, axis=1).sort_index()
    return table.to_csv(lineterminator="\n").encode()


def read_predictions(path: Path) -> dict[str, System]:
    """The systems by name, with predictions on test alone and without confidences.

    Raises:
        CacheError: missing or not what `predictions_csv` gives.
    """
    try:
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, na_values={"speaker": [""]}
        )
        _check(table)
        return {
            name: _system(name, list(columns), table)
            for name, columns in groupby(table.columns[len(_UTTERANCE) :], _name)
        }
    except (OSError, ValueError, KeyError) as error:
        raise CacheError(
            f"not the predictions of a report ({error!r})",
            path=path,
            expected=f"columns {', '.join(_UTTERANCE)}, and system/seed of every run",
            fix="run `dvc repro report`, or `aln-pipeline report --force`",
        ) from error


def _check(table: pd.DataFrame) -> None:
    """Raise ValueError for a table that `predictions_csv` does not give."""
    names = list(table.columns)
    if names[: len(_UTTERANCE)] != _UTTERANCE or len(names) == len(_UTTERANCE):
        raise ValueError(f"columns {', '.join(names)}")
    if table.empty or table.drop(columns=["speaker", "text"]).eq("").any(axis=None):
        raise ValueError("fields are missing")
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        raise ValueError(f"two rows of {repeated.iloc[0]}")


def _name(column: str) -> str:
    return column.rpartition("/")[0]


def _system(name: str, columns: Sequence[str], table: pd.DataFrame) -> System:
    kind, alpha = parse_name(name)
    title_of(name)  # raises for another kind
    runs = [
        table[_UTTERANCE].assign(
            seed=int(column.rpartition("/")[2]),
            split="test",
            predicted=table[column],
        )
        for column in columns
    ]
    history = pd.DataFrame(columns=list(HISTORY_COLUMNS), dtype=float)
    return System(name, kind, alpha, pd.concat(runs, ignore_index=True), history)
