"""Run jobs in a pool of worker processes, results in order."""

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

# Jobs queued for each worker, so none is idle.
_AHEAD = 3

# Seconds between two updates of the progress bar.
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
    """Yield the result of `function` for each job, in order.

    Workers stop when the generator is closed and when this process is killed.

    Args:
        function: at the top level of a module, so it can be pickled.
        jobs: read as needed.
        processes: number of workers.
        preload: modules imported once, before the workers are forked.
        begin: called first in each worker.
        bar: a progress bar; each `count_step` in a worker advances it.

    Raises:
        PipelineError: a worker died. Exceptions of `function` are raised here too.
    """
    # Not "fork": it would copy the state of torch's threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    # Ctrl-C is sent to all processes of a terminal. Workers ignore it from the start;
    # this process stops them.
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


# Number of steps of all workers of the pool; None outside a worker.
_steps: Any = None


def count_step() -> None:
    """In a worker: advance the progress bar of the pool by one step."""
    with _steps.get_lock():
        _steps.value += 1


def _begin(first: Callable[[], None] | None, steps: Any) -> None:
    global _steps
    _steps = steps
    _follow_parent()
    if first is not None:
        first()


def _follow_parent() -> None:
    """Exit when the parent does; a killed parent cannot stop its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
