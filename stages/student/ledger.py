"""The ledger: what each student that was trained on a corpus came to, a file each.

`<folder>/<identity>.json` is named after all that decided the student, so that it has
one entry whoever trained it: a stage, a sweep, or a DVC experiment in a copy of the
repository. An entry holds system, alpha, parameters, inputs (hashes of what was read),
revision (of the code, `training.REVISION`; 1 if there is none), `seeds` with the scores
of each, and their means and deviations, in percent.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.errors import CacheError
from stages.core.files import write_json
from stages.core.hashing import fingerprint
from stages.student.inputs import Job, parameters_without
from stages.student.params import StudentParams, as_numbers
from stages.student.training import REVISION

_DECIDES = ("system", "alpha", "parameters", "inputs")
# Columns of the table, and what they show.
_SCORES = {
    "valid": "valid_accuracy",
    "valid macro-F1": "valid_macro_f1",
    "test": "test_accuracy",
    "test macro-F1": "test_macro_f1",
}


def describe(job: Job) -> dict[str, Any]:
    """What decides a student, before it is trained: the head of its entry."""
    return {
        "system": job.system,
        "alpha": None if job.alpha is None else float(job.alpha),
        # What else is tried does not change this student. As they come back from
        # JSON, with tuples as lists.
        "parameters": json.loads(json.dumps(parameters_without(job.params, "alpha"))),
        "inputs": job.inputs,
        "revision": REVISION,
    }


def record(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Write an entry, with its scores, to `folder`; returns its file."""
    path = _path(folder, entry)
    write_json(path, dict(entry))
    return path


def find(folder: Path, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of the student that `describe` describes; None if there is none."""
    for spelt in _spellings(head):
        if (path := _path(folder, spelt)).is_file():
            return _read(path)
    return None


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """All entries, sorted by file name, a student each, however it was spelt.

    Raises:
        CacheError: a file that is no entry.
    """
    entries: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        entry = _read(path)
        usual = _path(folder, entry)
        if usual == path or usual not in entries:
            entries[usual] = entry
    return list(entries.values())


def of_inputs(
    entries: Sequence[dict[str, Any]], inputs: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """The entries of students that read `inputs`, of `describe` for a transfer system.

    Those trained by this revision of the code. baseline2 reads no targets, so its
    entries fit whatever these are.
    """
    return [
        entry
        for entry in entries
        if _revision(entry) == REVISION
        and all(
            entry["inputs"][name] == value
            or (name == "targets" and entry["system"] == "baseline2")
            for name, value in inputs.items()
        )
    ]


def results_table(
    entries: Sequence[Mapping[str, Any]], params: StudentParams
) -> pd.DataFrame:
    """A row a student, the best on valid first.

    Columns: system, alpha, changes (parameters that are not those of `params`), seeds
    (how many), accuracy and macro-F1 on valid and test, `mean ± deviation` in percent,
    and best: ★ where no other student of that system is better on valid. An entry of a
    former version may have no macro-F1: it stays empty.
    """
    usual = json.loads(json.dumps(as_numbers(asdict(params))))
    rows = []
    for entry in sorted(
        entries, key=lambda entry: (-entry["valid_accuracy"], json.dumps(entry))
    ):
        changes = [
            f"{name} {value}"
            for name, value in entry["parameters"].items()
            # What this code has not is a change, too.
            if name != "seeds" and (name not in usual or value != usual[name])
        ]
        rows.append(
            {
                "system": entry["system"],
                "alpha": "" if entry["alpha"] is None else f"{entry['alpha']:g}",
                "changes": ", ".join(changes),
                "seeds": len(entry["seeds"]),
                **{name: _spread(entry, key) for name, key in _SCORES.items()},
            }
        )
    names = ["system", "alpha", "changes", "seeds", *_SCORES]
    table = pd.DataFrame(rows, columns=names)
    table["best"] = (~table["system"].duplicated()).map({True: "★", False: ""})
    return table


def _spread(entry: Mapping[str, Any], name: str) -> str:
    if name.endswith("macro_f1") and name not in entry:
        return ""
    mean, deviation = entry[name], entry[f"{name}_std"]
    return (
        f"{mean:.2f}" if len(entry["seeds"]) == 1 else f"{mean:.2f} ± {deviation:.2f}"
    )


def _path(folder: Path, entry: Mapping[str, Any]) -> Path:
    decides = {name: entry[name] for name in _DECIDES}
    if (revision := _revision(entry)) != 1:
        decides["revision"] = revision
    return folder / f"{fingerprint(decides)[:24]}.json"


def _spellings(head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """`head`, and as it was recorded before 1 in params.yaml was taken for 1.0."""
    values = {"alpha": head["alpha"], **head["parameters"]}
    shorter = {name: _shorter(value) for name, value in values.items()}
    names = [
        name for name, value in shorter.items() if repr(value) != repr(values[name])
    ]
    for count in range(len(names) + 1):
        for some in combinations(names, count):
            spelt = {**values, **{name: shorter[name] for name in some}}
            alpha = spelt.pop("alpha")
            yield {**head, "alpha": alpha, "parameters": spelt}


def _shorter(value: Any) -> Any:
    """1.0 as 1, in a list too."""
    if isinstance(value, list):
        return [_shorter(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _revision(entry: Mapping[str, Any]) -> int:
    return int(entry.get("revision", 1))


def _read(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text("utf-8"))
        for name in _SCORES.values():
            _spread(entry, name)
        if _path(path.parent, entry) != path:
            raise ValueError("not the student that its name says")
        if entry["alpha"] is not None:
            entry["alpha"] = float(entry["alpha"])
        entry["parameters"] = as_numbers(entry["parameters"])
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"not a student's results ({error})", path=path, fix="remove the file"
        ) from None
    return dict(entry)
