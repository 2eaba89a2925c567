"""A pool of processes that begin clean, end with the first one, and keep the order."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any, TypeVar

from stages.errors import PipelineError

# Jobs that wait for a process, for each of them: enough that none stands idle.
_AHEAD = 3

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_in_processes(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    processes: int,
    *,
    preload: str,
    begin: Callable[[], None] | None = None,
) -> Generator[Result, None, None]:
    """What `function` makes of each job, in order.

    Args:
        function: of a module, so that it can be sent to another process.
        jobs: read as they are needed.
        processes: how many.
        preload: the module that processes begin with, imported once for all.
        begin: what each process does first.

    Raises:
        PipelineError: a process died, or what `function` raised.
    """
    # Not forked from here: a fork inherits the state of torch's threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    # Ctrl-C reaches every process of a terminal; all but this one leave it alone, from
    # their first moment on, and this one ends the others.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    pool = ProcessPoolExecutor(processes, context, _begin, (begin,))
    waiting: deque[Future[Any]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) > _AHEAD * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise PipelineError(
            "a process of the pool died",
            found="killed from outside, perhaps for want of memory",
            fix="run the same command again, with fewer --workers; what is finished is "
            "kept",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(first: Callable[[], None] | None) -> None:
    _follow_parent()
    if first is not None:
        first()


def _follow_parent() -> None:
    """End with the first process, which cannot end the others if it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
