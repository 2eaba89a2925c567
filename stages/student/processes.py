"""Training many students from one copy of the features, in one process or in several.

Several map that copy, and so does one that has not enough memory; see `Inputs.load`.
A unit of work is a job and some of its seeds. Each seed trains on one thread, so that
results do not depend on how units are shared out. On CUDA, or where it is asked for,
students of one shape are trained together; which ones, does not depend on it either.
"""

import multiprocessing
import signal
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from stages.core.errors import PipelineError
from stages.core.hashing import fingerprint
from stages.core.runtime import choose_device, one_thread
from stages.student.batches import Utterances
from stages.student.inputs import Inputs, Job, parameters_without
from stages.student.together import Failure, Member, train_together
from stages.student.training import Student, classify, train_student

# Students at once: with batches of 64 their products fill a large GPU, and with the
# paper's sizes their parameters and states a few gigabytes.
_TOGETHER = 32


class Unit(NamedTuple):
    """What one process trains at a stretch."""

    number: int  # by which results are told apart
    job: Job
    seeds: Sequence[int]


class Result(NamedTuple):
    """A seed of a unit that has been trained."""

    number: int
    student: Student
    on_test: np.ndarray  # logits of test (U, intents)


Messages = Generator[Result | Failure | None, None, None]
"""What training tells: None after each epoch, a result for each seed."""


def train_all(
    shared: Job,
    inputs: Inputs,
    groups: Sequence[Sequence[Unit]],
    *,
    workers: int,
    together: bool | None,
) -> Messages:
    """Train the units of `groups`, in this process if `workers` is 1.

    Args:
        shared: whose features and targets all units read, and in whose folder for what
            is unfinished those that are trained together are kept.
        inputs: of `shared`.
        groups: as `group` makes them.
        workers: processes at most; one where students train together on a GPU.
        together: as of `choose_together`.
    """
    together = choose_together(shared.device, together)
    if together and choose_device(shared.device).type == "cuda":
        workers = 1
    workers = min(workers, len(groups))
    if workers == 1 and inputs.fits():
        yield from train_groups(shared, inputs, groups, together)
        return
    if shared.unfinished is not None:
        shared.unfinished.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="features-", dir=shared.unfinished) as folder:
        mapped = Path(folder)
        if workers == 1:
            yield from train_groups(shared, inputs, groups, together, mapped)
        else:
            yield from train_in_processes(
                shared, inputs, groups, workers, together, mapped
            )


def choose_together(device: str, together: bool | None) -> bool:
    """Whether students of one shape are trained together; None for on CUDA."""
    if together is None:
        return choose_device(device).type == "cuda"
    return together


def group(units: Sequence[Unit], together: bool = True) -> list[list[Unit]]:
    """What is trained one after another, or by several processes.

    Together, the seeds of `units`, in a list those of one shape, with as many steps an
    epoch. Those of one seed stand side by side, since their batches are the same and
    need no padding for each other. Else a list for each unit.
    """
    if not together:
        return [[unit] for unit in units]
    alike: dict[str, list[Unit]] = {}
    for number, job, seeds in units:
        values = parameters_without(
            job.params, "alpha", "seeds", "learning_rate", "dropout"
        )
        ones = alike.setdefault(repr((job.system, values)), [])
        ones += [Unit(number, job, (seed,)) for seed in seeds]
    groups = []
    for ones in alike.values():
        ones.sort(key=lambda unit: unit.seeds[0])
        count = -(-len(ones) // _TOGETHER)
        size = -(-len(ones) // count)
        groups += [ones[start : start + size] for start in range(0, len(ones), size)]
    return groups


def train_groups(
    shared: Job,
    inputs: Inputs,
    groups: Sequence[Sequence[Unit]],
    together: bool,
    mapped: Path | None = None,
) -> Messages:
    """Train one group after another here; test is read after the first.

    Args:
        shared: whose features and targets all units read.
        inputs: of `shared`.
        groups: of units; unless together, their units are trained one by one.
        together: whether the units of a group are trained together.
        mapped: the folder of features that are mapped; None for features in memory.
    """
    device = choose_device(shared.device)
    train_group = _train_together if together else _train_alone
    with one_thread():
        train, valid = (
            inputs.load(split, device, mapped) for split in ("train", "valid")
        )
        test = None
        for units in groups:
            trained = yield from train_group(shared, inputs, units, train, valid)
            for number, student in trained:
                test = test or inputs.load("test", device, mapped)
                logits = classify(student.model(device), test).numpy()
                yield Result(number, student, logits)


Trained = Generator[Failure | None, None, list[tuple[int, Student]]]
"""Returns the students of units that did not fail, with their units' numbers."""


def _train_alone(
    shared: Job,
    inputs: Inputs,
    units: Sequence[Unit],
    train: Utterances,
    valid: Utterances,
) -> Trained:
    trained = []
    for number, job, seeds in units:
        students = []
        try:
            for seed in seeds:
                student = yield from train_student(
                    job.params,
                    network=inputs.network(job),
                    alpha=job.alpha,
                    seed=seed,
                    train=train,
                    valid=valid,
                    checkpoint=job.checkpoint(f"seed-{seed}"),
                    identity=job.identity(seed),
                )
                students.append((number, student))
        except PipelineError as error:
            yield Failure(number, error)
            continue
        trained += students
    return trained


def _train_together(
    shared: Job,
    inputs: Inputs,
    units: Sequence[Unit],
    train: Utterances,
    valid: Utterances,
) -> Trained:
    members = [
        Member(
            number=number,
            params=job.params,
            network=inputs.network(job),
            alpha=job.alpha,
            seed=seed,
        )
        for number, job, seeds in units
        for seed in seeds
    ]
    # By rounding, each depends on which others it is trained with.
    identity = fingerprint(
        {"together": [job.identity(seed) for _, job, seeds in units for seed in seeds]}
    )
    students = yield from train_together(
        members,
        train=train,
        valid=valid,
        checkpoint=shared.checkpoint(f"together-{identity[:24]}"),
        identity=identity,
    )
    pairs = [
        (one.number, student) for one, student in zip(members, students, strict=True)
    ]
    failed = {number for number, student in pairs if student is None}
    return [(n, student) for n, student in pairs if student and n not in failed]


def train_in_processes(
    shared: Job,
    inputs: Inputs,
    groups: Sequence[Sequence[Unit]],
    workers: int,
    together: bool,
    mapped: Path,
) -> Messages:
    """Share `groups` out to `workers` processes; whatever happens, none outlives this.

    Arguments as of `train_groups`.

    Raises:
        PipelineError: inputs that do not fit, or a process that died.
    """
    # Not forked from here, since a fork inherits the state of torch's threads and of
    # CUDA, but from a process that has imported all of it, once, and run nothing.
    context = multiprocessing.get_context("forkserver")
    # (torch imports the second, which takes seconds, with the first optimiser.)
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    processes: dict[Any, Any] = {}  # by the end of the pipe that each one writes to
    try:
        for number in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            processes[receiver] = context.Process(
                target=_work,
                args=(
                    sender,
                    shared,
                    inputs,
                    groups[number::workers],
                    together,
                    mapped,
                ),
                daemon=True,
            )
            processes[receiver].start()
            sender.close()  # or the pipe would stay open when the process ends
        at_work = set(processes)
        while at_work:
            speaking: Any
            for speaking in wait(at_work):
                try:
                    message = speaking.recv()
                except EOFError:
                    at_work.remove(speaking)
                    _check_end(processes[speaking])
                    continue
                if isinstance(message, PipelineError):
                    raise message
                yield message
    finally:
        for process in processes.values():
            if process.pid is not None:
                process.terminate()
                process.join()


def _work(
    sender: Connection,
    shared: Job,
    inputs: Inputs,
    groups: Sequence[Sequence[Unit]],
    together: bool,
    mapped: Path,
) -> None:
    """Train `groups` in a process of their own."""
    # Ctrl-C reaches every process of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for message in train_groups(shared, inputs, groups, together, mapped):
            sender.send(message)
    except PipelineError as error:
        sender.send(error)
    except BrokenPipeError:  # the first process was killed
        raise SystemExit(1) from None


def _check_end(process: Any) -> None:
    """Wait for the end of a process that has said its last.

    Raises:
        PipelineError: it was killed or broke down.
    """
    process.join()
    if process.exitcode != 0:
        raise PipelineError(
            "a training process died",
            found=f"exit code {process.exitcode}",
            fix="see its message above, if any; with one worker less memory is needed",
        )
