"""Which student to use where only one is wanted."""

import json
from collections.abc import Mapping
from pathlib import Path

from stages.core.errors import CacheError


def choose_student(students: Mapping[str, Path]) -> tuple[str, int]:
    """The student with the best accuracy on valid, and of it the best seed.

    Of equal students the first one, by its mean over seeds; of equal seeds the lowest.

    Args:
        students: folder by name, in the report's order.

    Returns:
        The name, and the seed.

    Raises:
        CacheError: a student is missing.
    """
    scores = {name: _read(folder) for name, folder in students.items()}
    name = max(scores, key=lambda one: scores[one]["valid_accuracy"])
    seeds = sorted(scores[name]["seeds"], key=lambda one: one["seed"])
    best = max(seeds, key=lambda one: one["valid_accuracy"])
    return name, int(best["seed"])


def _read(folder: Path) -> dict:
    path = folder / "metrics.json"
    try:
        found: dict = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        raise CacheError(
            "no student's scores", path=path, fix="run `aln-pipeline train-student`"
        ) from None
    return found
