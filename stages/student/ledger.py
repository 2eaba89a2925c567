"""The ledger: the scores of each student trained on a corpus, one file per student.

`<folder>/<hash of its identity>.json` has the student's identity (stage, revision,
parameters, inputs; see `stages/core/results.py`), `seeds` with the scores of each,
their means and deviations, in percent, and its own checksum. A student has one entry
whichever command trained it: a stage, a sweep, or a DVC experiment in a copy of the
repository.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.checksums import read_sealed, write_sealed
from stages.core.errors import CacheError
from stages.core.results import name_of
from stages.student.params import (
    RECOMMENDED,
    REVISION,
    RecommendedParams,
    StudentParams,
    Variant,
)

_IDENTITY = ("stage", "revision", "parameters", "inputs")
# Columns of the table, and the scores they show.
_SCORES = {
    "valid": "valid_accuracy",
    "valid macro-F1": "valid_macro_f1",
    "test": "test_accuracy",
    "test macro-F1": "test_macro_f1",
}
_OWN_COLUMNS = {"system", "alpha", "seeds"}
_OF_SLOT = re.compile("test_(.+)_accuracy")


def record(folder: Path, identity: Mapping[str, Any], scores: Mapping[str, Any]) -> Any:
    """Write the entry of a student; returns it."""
    entry = {**identity, **scores}
    write_sealed(_path(folder, identity), entry)
    return entry


def find(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of the student with this identity; None if it has none."""
    path = _path(folder, identity)
    return read_entry(path) if path.is_file() else None


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """All entries, sorted by file name.

    Raises:
        CacheError: a file is not an entry.
    """
    return [read_entry(path) for path in sorted(folder.glob("*.json"))]


def of_inputs(
    entries: Sequence[dict[str, Any]], inputs: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """The entries trained by this revision of the code from `inputs`.

    baseline2 reads no targets, so its entries fit any.

    Args:
        entries: of the ledger.
        inputs: hashes by name, `Sources.hashes()`.
    """
    return [
        entry
        for entry in entries
        if entry["revision"] == REVISION
        and all(inputs.get(name) == value for name, value in entry["inputs"].items())
    ]


def results_table(
    entries: Sequence[Mapping[str, Any]],
    params: StudentParams,
    recommended: RecommendedParams,
) -> pd.DataFrame:
    """One row per student, the best on valid first.

    Columns: system (`recommended` for what `recommended` describes, with any α), alpha,
    changes (parameters that differ from `params`, or from those of `recommended`),
    seeds (how many), accuracy and macro-F1 on valid and test as `mean ± deviation` in
    percent (with slots, accuracy is that of whole frames, and `test <slot> accuracy`
    follows), and best: ★ for the student of each system that is best on valid.
    """
    paper = Variant("baseline2", None, params)
    usual, ours = (
        json.loads(json.dumps(one.parameters()))
        for one in (paper, recommended.variant(params))
    )
    described = {field.name for field in fields(recommended)} - {"alpha"}
    keys = {key: _OF_SLOT.fullmatch(key) for entry in entries for key in entry}
    own = {f"test {slot[1]} accuracy": key for key, slot in keys.items() if slot}
    scores = _SCORES | own
    rows = []
    for entry in sorted(
        entries, key=lambda entry: (-entry["valid_accuracy"], json.dumps(entry))
    ):
        parameters = entry["parameters"]
        system, expected = parameters["system"], usual
        if all(parameters.get(name) == ours[name] for name in described):
            system, expected = RECOMMENDED, ours
        changes = [
            f"{name} {value}"
            for name, value in parameters.items()
            # A parameter that this code does not have is a change, too.
            if name not in _OWN_COLUMNS
            and (name not in expected or value != expected[name])
        ]
        alpha = parameters["alpha"]
        rows.append(
            {
                "system": system,
                "alpha": "" if alpha is None else f"{alpha:g}",
                "changes": ", ".join(changes),
                "seeds": len(entry["seeds"]),
                **{name: _spread(entry, key) for name, key in scores.items()},
            }
        )
    names = ["system", "alpha", "changes", "seeds", *scores]
    table = pd.DataFrame(rows, columns=names)
    table["best"] = (~table["system"].duplicated()).map({True: "★", False: ""})
    return table


def _spread(entry: Mapping[str, Any], name: str) -> str:
    mean, deviation = entry[name], entry[f"{name}_std"]
    if len(entry["seeds"]) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {deviation:.2f}"


def _path(folder: Path, entry: Mapping[str, Any]) -> Path:
    return folder / f"{name_of({name: entry[name] for name in _IDENTITY})}.json"


def read_entry(path: Path) -> dict[str, Any]:
    """The entry of a student.

    Raises:
        CacheError: the file is damaged, or another student's.
    """
    try:
        entry = read_sealed(path)
        if _path(path.parent, entry) != path:
            raise ValueError("its name does not match its contents")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheError(
            f"not a student's results ({error})", path=path, fix="remove the file"
        ) from None
    return entry
