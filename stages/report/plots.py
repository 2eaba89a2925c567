"""The data of DVC's plots, as CSV."""

import pandas as pd

from stages.report.findings import Findings
from stages.report.scores import by_slot
from stages.report.systems import SCORED


def plots(found: Findings) -> dict[str, bytes]:
    """Each plot's data, by file name."""
    accuracy = pd.DataFrame(
        [
            {
                "system": system.name,
                "split": split,
                "accuracy": found.rows[system.name][f"{split}_accuracy"],
                "std": found.rows[system.name][f"{split}_accuracy_std"],
                "macro_f1": found.rows[system.name][f"{split}_macro_f1"],
            }
            for split in SCORED
            for system in found.systems
        ]
    )
    test = found.detailed.test.sort_values(["seed", "id"])
    confusion = pd.concat(
        rows[["intent", "predicted"]].radd(
            f"{slot}: " if found.labels.has_slots else ""
        )
        for slot, rows in by_slot(found.labels, test).items()
    )
    history = pd.concat(
        [student.history.assign(system=student.name) for student in found.students]
    )
    history.insert(0, "system", history.pop("system"))
    return {
        "plots/accuracy.csv": _csv(accuracy),
        "plots/confusion.csv": _csv(confusion.rename(columns={"intent": "actual"})),
        "plots/history.csv": _csv(history),
    }


def _csv(table: pd.DataFrame) -> bytes:
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return text.encode()
