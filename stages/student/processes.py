"""Training many students from one copy of the features, in one process or in several.

A unit of work is a job and some of its seeds. Each seed trains on one thread, so that
results do not depend on how units are shared out.
"""

import multiprocessing
import signal
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from stages.errors import PipelineError
from stages.runtime import choose_device, one_thread
from stages.student.inputs import Inputs, Job
from stages.student.training import Student, classify, train_student


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


class Failure(NamedTuple):
    """A unit that cannot be trained; the others go on."""

    number: int
    error: PipelineError


Messages = Generator[Result | Failure | None, None, None]
"""What training tells: None after each epoch, a result for each seed."""


def train_units(shared: Job, inputs: Inputs, units: Sequence[Unit]) -> Messages:
    """Train `units` one after another in this process; test is read after the first.

    Args:
        shared: whose features and targets all units read.
        inputs: of `shared`.
        units: in the order in which they are trained.
    """
    device = choose_device(shared.device)
    with one_thread():
        train, valid = (inputs.load(split, device) for split in ("train", "valid"))
        test = None
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
                        checkpoint=job.checkpoint(seed),
                        identity=job.identity(seed),
                    )
                    students.append(student)
            except PipelineError as error:
                yield Failure(number, error)
                continue
            test = test or inputs.load("test", device)
            for student in students:
                logits = classify(student.model(device), test).numpy()
                yield Result(number, student, logits)


def train_in_processes(shared: Job, units: Sequence[Unit], workers: int) -> Messages:
    """Share `units` out to `workers` processes; whatever happens, none outlives this.

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
                args=(sender, shared, units[number::workers]),
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


def _work(sender: Connection, shared: Job, units: Sequence[Unit]) -> None:
    """Train `units` in a process of their own."""
    # Ctrl-C reaches every process of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for message in train_units(shared, Inputs(shared), units):
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
