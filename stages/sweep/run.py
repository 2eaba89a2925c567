"""Sweep: a grid of students trained from one copy of the features in memory.

Reads what a student reads, once per process. Writes a ledger entry for each student as
soon as all of its seeds are trained. A student that has an entry is not trained again.
Each student is the one that `train-student` gives, and a sweep that was killed resumes
to the same bits.
"""

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from stages.core.errors import PipelineError
from stages.core.files import locked
from stages.core.results import name_of
from stages.core.runtime import RunOptions
from stages.student import ledger as entries
from stages.student.inputs import Inputs, Sources
from stages.student.params import (
    RECOMMENDED,
    RecommendedParams,
    StudentParams,
    Variant,
)
from stages.student.run import score
from stages.student.scheduling import remove_checkpoints, train_variants
from stages.sweep.params import SweepParams


@dataclass(frozen=True)
class Summary:
    """What a sweep trained."""

    ledger: Path
    entries: list[dict[str, Any]]  # of every variant, in the grid's order
    students: int  # distinct ones
    trained: int  # of them now

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.ledger}: {self.students} students, {self.trained} trained now"


def expand(
    params: StudentParams, grid: SweepParams, recommended: RecommendedParams
) -> list[Variant]:
    """Every combination of the grid; where it is empty, the value in `params`.

    The student `recommended` has the α of the grid, too.
    """
    names = ("learning_rate", "batch_size", "gru_width", "dropout")
    values = [getattr(grid, name) or (getattr(params, name),) for name in names]
    variants = []
    for combination in product(*values):
        changed = replace(params, **dict(zip(names, combination, strict=True)))
        for system in grid.systems:
            if system == "baseline2":
                variants.append(Variant(system, None, changed))
            elif system == RECOMMENDED:
                variants += [
                    replace(recommended, alpha=alpha).variant(changed)
                    for alpha in grid.alpha or (recommended.alpha,)
                ]
            else:
                alphas = grid.alpha or params.alpha
                variants += [Variant(system, alpha, changed) for alpha in alphas]
    return variants


def run(
    variants: Sequence[Variant],
    sources: Sources,
    *,
    ledger: Path,
    unfinished: Path,
    options: RunOptions,
) -> Summary:
    """Train the variants that the ledger does not have, and record them.

    Args:
        variants: the students.
        sources: what they are trained from.
        ledger: folder of the scores.
        unfinished: folder of checkpoints, from which a killed sweep resumes; used by
            one sweep at a time.
        options: how it runs.

    Raises:
        PipelineError: inputs that are missing or do not fit; another sweep running; or,
            once all others are trained and recorded, students whose loss became NaN.
    """
    identities = [sources.identify(variant) for variant in variants]
    names = [name_of(identity) for identity in identities]
    # Equal variants, such as α 1 and 1.0, have one identity.
    distinct = dict(zip(names, zip(variants, identities, strict=True), strict=True))
    found = {
        name: None if options.force else entries.find(ledger, identity)
        for name, (_, identity) in distinct.items()
    }
    missing = [name for name, entry in found.items() if entry is None]
    for name in found.keys() - set(missing):
        remove_checkpoints(unfinished, distinct[name][1])
    failures: list[str] = []
    if missing:
        inputs = Inputs(sources, [distinct[name][0] for name in missing])
        with locked(unfinished):
            results = train_variants(
                [distinct[name] for name in missing],
                inputs,
                unfinished=unfinished,
                options=options,
                description="sweep",
            )
            with closing(results):
                for name, result in zip(missing, results, strict=True):
                    variant, identity = distinct[name]
                    if isinstance(result, PipelineError):
                        failures.append(f"{variant}: {result}")
                    else:
                        scores = score(inputs, result)
                        found[name] = entries.record(ledger, identity, scores)
            shutil.rmtree(unfinished, ignore_errors=True)
    if failures:
        raise PipelineError(
            f"{len(failures)} of {len(distinct)} students could not be trained, the "
            "others are recorded",
            found="; ".join(failures),
        )
    every = [entry for name in names if (entry := found[name]) is not None]
    return Summary(ledger, every, len(distinct), len(missing))
