"""Many students at once: a grid trained from one copy of the features in memory.

Reads what `run` reads, once a process. Writes an entry of the ledger for each student
as soon as all of its seeds are trained; a student that has one is not trained again.
Each seed of each student is what `run` makes of it alone; where students of one shape
are trained together (see together.py), up to rounding. Which ones they are decides the
rounding, so `unfinished` holds it, beside the checkpoints, in `plan.json`: a sweep that
was killed goes on with the same ones, and to the same bits.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from stages.core.errors import ConfigurationError, PipelineError
from stages.core.files import locked, write_json
from stages.core.runtime import progress
from stages.student.inputs import Inputs, Job
from stages.student.ledger import describe, find, record
from stages.student.params import StudentParams, check_system
from stages.student.processes import (
    Failure,
    Result,
    Unit,
    choose_together,
    group,
    train_all,
)
from stages.student.run import score
from stages.sweep.params import SweepParams


class Variant(NamedTuple):
    """One student of a grid; `params.alpha`, itself a grid, is not looked at."""

    system: str
    alpha: float | None
    params: StudentParams

    def __str__(self) -> str:
        """For a message, with what most often is to blame."""
        alpha = "" if self.alpha is None else f", alpha {self.alpha:g}"
        return f"{self.system}{alpha}, learning_rate {self.params.learning_rate:g}"


@dataclass(frozen=True)
class Summary:
    """What a sweep came to."""

    ledger: Path
    entries: list[dict[str, Any]]  # of every variant, in the grid's order
    trained: int  # of them now

    def __str__(self) -> str:
        """One line for the end of a command."""
        count = len({json.dumps(entry, sort_keys=True) for entry in self.entries})
        return f"{self.ledger}: {count} students, {self.trained} trained now"


def expand(params: StudentParams, grid: SweepParams) -> list[Variant]:
    """Every combination of the grid; what it leaves empty is as in `params`."""
    names = ("learning_rate", "batch_size", "gru_width", "dropout")
    values = [getattr(grid, name) or (getattr(params, name),) for name in names]
    variants = []
    for combination in product(*values):
        changed = replace(params, **dict(zip(names, combination, strict=True)))
        for system in grid.systems:
            alphas = grid.alpha or params.alpha
            variants += [
                Variant(system, alpha, changed)
                for alpha in ((None,) if system == "baseline2" else alphas)
            ]
    return variants


def run(
    variants: Sequence[Variant],
    inputs_of: Job,
    *,
    ledger: Path,
    unfinished: Path,
    workers: int = 1,
    together: bool | None = None,
) -> Summary:
    """Train what the ledger has not, and record it.

    Args:
        variants: the students.
        inputs_of: a job whose paths, targets among them, and device all of them share.
        ledger: folder of the results.
        unfinished: folder of checkpoints, from which a killed sweep goes on; of one
            sweep at a time.
        workers: processes that share the students; results do not depend on it.
        together: whether students of one shape are trained in one computation, with
            the same results up to rounding; None for on CUDA.

    Raises:
        PipelineError: inputs that are missing or do not fit; another sweep at work in
            `unfinished`; or, once all others are trained and recorded, students whose
            loss became no number.
    """
    if not variants:
        raise ConfigurationError("no student in the grid", fix="name a system")
    for system, alpha, _ in variants:
        check_system(system, alpha)
    without_targets = replace(inputs_of, targets=None, targets_digest=None)
    needed = any(system != "baseline2" for system, _, _ in variants)
    shared = replace(inputs_of if needed else without_targets, unfinished=unfinished)
    inputs = Inputs(shared)
    jobs: list[Job] = []
    places: dict[str, int] = {}  # of the job of each name in `jobs`
    rows = []  # the job of each variant: equal ones share one
    for system, alpha, params in variants:
        own = without_targets if system == "baseline2" else inputs_of
        job = replace(own, system=system, alpha=alpha, params=params)
        rows.append(places.setdefault(job.name, len(jobs)))
        if rows[-1] == len(jobs):
            jobs.append(replace(job, unfinished=unfinished / job.name))
    heads = [describe(job) for job in jobs]
    with locked(unfinished):
        found = {number: find(ledger, head) for number, head in enumerate(heads)}
        missing = {number for number, entry in found.items() if entry is None}
        names = list(places)
        planned = _plan(unfinished, names, {names[number] for number in missing})
        units = [
            Unit(number, job, job.params.seeds)
            for number, job in enumerate(jobs)
            if job.name in planned
        ]
        groups = [
            ones
            for ones in group(units, choose_together(inputs_of.device, together))
            if any(unit.number in missing for unit in ones)
        ]
        messages = train_all(shared, inputs, groups, workers=workers, together=together)
        results: dict[int, list[Result]] = {number: [] for number in missing}
        failures: dict[int, PipelineError] = {}
        epochs = sum(
            unit.job.params.epochs * len(unit.seeds) for ones in groups for unit in ones
        )
        bar = progress(total=epochs, description="sweep", unit="epoch")
        with closing(messages), bar:
            for message in messages if groups else ():
                if message is None:
                    bar.update(1)
                    continue
                if message.number not in missing:
                    continue  # trained again for the sake of the others
                if isinstance(message, Failure):
                    failures.setdefault(message.number, message.error)
                    continue
                done = results[message.number]
                done.append(message)
                seeds = jobs[message.number].params.seeds
                if len(done) == len(seeds):
                    done.sort(key=lambda result: seeds.index(result.student.seed))
                    entry = {**heads[message.number], **score(inputs, done)}
                    record(ledger, entry)
                    folder = unfinished / jobs[message.number].name
                    shutil.rmtree(folder, ignore_errors=True)
                    found[message.number] = entry
        _empty(unfinished)
    if failures:
        raise PipelineError(
            f"{len(failures)} of {len(jobs)} students could not be trained, the others "
            "are recorded",
            found="; ".join(
                f"{variants[rows.index(n)]}: {error}" for n, error in failures.items()
            ),
        )
    every = (found[number] for number in rows)
    entries = [entry for entry in every if entry is not None]
    return Summary(ledger, entries, len(missing))


def _empty(unfinished: Path) -> None:
    """Remove all but the lock, which another sweep may be about to take."""
    for path in sorted(unfinished.glob("[!.]*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _plan(unfinished: Path, names: Sequence[str], missing: set[str]) -> set[str]:
    """Names of the jobs that are to be grouped.

    Args:
        unfinished: the folder that keeps the plan of a sweep until its end.
        names: of all jobs.
        missing: of those that the ledger has not.

    Returns:
        `missing`; and where a sweep of the same jobs was killed, what was missing then.
    """
    path = unfinished / "plan.json"
    try:
        plan = json.loads(path.read_text("utf-8"))
        before = set(plan["missing"]) if plan["jobs"] == list(names) else set()
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        before = set()
    write_json(path, {"jobs": list(names), "missing": sorted(missing | before)})
    return missing | before
