"""A pool of worker processes: clean start, results in order, no process left behind."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any, TypeVar

from stages.core.errors import PipelineError

# Jobs waiting for a worker, for each of them: enough that none is ever idle.
_AHEAD = 3

# Seconds between two looks at what the workers have counted.
_TICK = 0.2

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_in_processes(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    processes: int,
    *,
    preload: Sequence[str],
    begin: Callable[[], None] | None = None,
    bar: Any = None,
) -> Generator[Result, None, None]:
    """What `function` makes of each job, in order; close it to stop the workers.

    Args:
        function: of a module, so that it can be sent to another process.
        jobs: read as they are needed.
        processes: how many workers.
        preload: modules that workers start with, imported once for all of them.
        begin: what each worker does first.
        bar: a progress bar, moved by what the workers count with `count_step`.

    Raises:
        PipelineError: a worker died, or what `function` raised.
    """
    # Not forked from here: a fork inherits the state of torch's threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    # Ctrl-C reaches every process of a terminal. Workers ignore it from their first
    # moment on, and this process stops them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    steps = context.Value("q")
    pool = ProcessPoolExecutor(processes, context, _begin, (begin, steps))
    waiting: deque[Future[Any]] = deque()
    finished = False

    def result() -> Any:
        future = waiting.popleft()
        while bar is not None and not future.done():
            wait([future], timeout=_TICK)
            bar.update(steps.value - bar.n)
        return future.result()

    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) > _AHEAD * processes:
                yield result()
        while waiting:
            yield result()
        finished = True
    except BrokenProcessPool:
        raise PipelineError(
            "a worker process died",
            found="killed from outside, possibly out of memory",
            fix="run the same command again, with fewer --workers; finished work is "
            "kept",
        ) from None
    finally:
        if not finished:  # a job can take hours
            for process in list((pool._processes or {}).values()):
                process.terminate()
        pool.shutdown(cancel_futures=True)


# Steps counted by all workers of the pool; None outside of a worker.
_steps: Any = None


def count_step() -> None:
    """In a worker, count a step of the job in hand, for the pool's progress bar."""
    with _steps.get_lock():
        _steps.value += 1


def _begin(first: Callable[[], None] | None, steps: Any) -> None:
    global _steps
    _steps = steps
    _follow_parent()
    if first is not None:
        first()


def _follow_parent() -> None:
    """End with the first process, which cannot end its workers if it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
