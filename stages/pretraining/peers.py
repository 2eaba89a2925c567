"""Processes that train one network together: each has a share of every batch.

Processes, since torch's threads gain little on the small products of recurrent layers.
They are on one machine and meet over its loopback interface.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.multiprocessing import ProcessContext
from torch.multiprocessing.spawn import ProcessException

from stages.core.errors import PipelineError

# Between the death of a process and its parent's knowing the cause.
_SECONDS_TO_TELL = 10.0
_SECONDS_TO_END = 10.0


class Peers:
    """The processes of a training, as each of them sees them; here, one alone.

    Attributes:
        rank: this process's number; 0 is the one that tells and writes.
        count: how many there are.
    """

    rank, count = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """Replace `values`, on the CPU, by their sum over all processes.

        Returns:
            `values`.

        Raises:
            PipelineError: one of the processes died.
        """
        return values


class _Died(PipelineError):
    def __init__(self, found: str) -> None:
        super().__init__(
            "a process of the training died",
            found=found,
            fix="mend that, or run the same command again, with fewer --workers if "
            "memory was short; it goes on from its last checkpoint",
        )


class _Lost(_Died):
    """Another process is gone, which is all that is known."""


class _ConnectedPeers(Peers):
    def __init__(self, rank: int, count: int, store: distributed.Store) -> None:
        self.rank, self.count = rank, count
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)

    def sum(self, values: Tensor) -> Tensor:
        try:
            distributed.all_reduce(values)
        except RuntimeError as error:
            raise _Lost(str(error).splitlines()[0]) from error
        return values


@contextmanager
def accompanied(
    count: int, work: Callable[..., None], *arguments: Any
) -> Iterator[Peers]:
    """`count` processes: this one, and others that run `work(peers, *arguments)`.

    They share this one's threads, and end with it or with the block.

    Raises:
        PipelineError: one of them died or failed; it tells of what.
    """
    if count == 1:
        yield Peers()
        return
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        others = torch.multiprocessing.spawn(
            _accompany,
            (count, meeting, share, work, arguments),
            nprocs=count - 1,
            join=False,
            daemon=True,
        )
        try:
            torch.set_num_threads(share)
            yield _meet(count, meeting, others)
        except _Lost as lost:
            _tell_why(others, lost)
            raise
        except ProcessException as error:
            raise _Died(_cause(error)) from error
        finally:
            torch.set_num_threads(threads)
            # Without this one the others end by themselves, and leave nothing behind.
            if distributed.is_initialized():
                distributed.destroy_process_group()
            for process in others.processes:
                process.join(_SECONDS_TO_END)
                process.terminate()
                process.join()


def _meet(count: int, meeting: str, others: ProcessContext) -> Peers:
    """Connect to the others once all of them are there, or tell why one is not."""
    store = distributed.FileStore(meeting, count)
    while not store.check([f"here {rank}" for rank in range(1, count)]):
        others.join(timeout=0.05)  # raises if one has ended
    return _ConnectedPeers(0, count, store)


def _tell_why(others: ProcessContext, lost: _Lost) -> None:
    """Raise what ended the other process, if it is known; `lost` only tells that."""
    try:
        others.join(timeout=_SECONDS_TO_TELL)
    except ProcessException as error:
        raise _Died(_cause(error)) from lost


def _cause(error: ProcessException) -> str:
    """The last line of a traceback, or with which status the process ended."""
    return str(error).strip().splitlines()[-1]


def _accompany(
    number: int,
    count: int,
    meeting: str,
    threads: int,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    rank = number + 1
    torch.set_num_threads(threads)
    store = distributed.FileStore(meeting, count)
    store.set(f"here {rank}", "")
    # The first process tells whose death it was; this one only ends.
    with suppress(_Lost):
        work(_ConnectedPeers(rank, count, store), *arguments)
    distributed.destroy_process_group()
