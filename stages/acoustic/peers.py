"""Processes that train one network together: each has a share of every batch.

Processes, since torch's threads gain little on the small products of recurrent layers.
They are on one machine and meet over its loopback interface.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from stages.errors import PipelineError

_SECONDS_TO_MEET = 300


class Peers:
    """The processes of a training, as one of them sees them; this one is alone.

    Attributes:
        rank: this process's number; 0 is the one that tells and writes.
        count: how many there are.
    """

    rank, count = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in each of them.

        Raises:
            PipelineError: one of them died.
        """
        return values


class _ConnectedPeers(Peers):
    def __init__(self, rank: int, count: int, meeting: str) -> None:
        self.rank, self.count = rank, count
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group(
            "gloo",
            init_method=meeting,
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=_SECONDS_TO_MEET),
        )

    def sum(self, values: Tensor) -> Tensor:
        try:
            distributed.all_reduce(values)
        except RuntimeError as error:
            raise PipelineError(
                "a process of the training died",
                found=str(error).splitlines()[0],
                fix="run the same command again, with fewer --workers if memory was "
                "short; it goes on from its last checkpoint",
            ) from error
        return values


@contextmanager
def accompanied(
    count: int, work: Callable[..., None], *arguments: Any
) -> Iterator[Peers]:
    """`count` processes: this one, and others that run `work(peers, *arguments)`.

    They share this one's threads, and end with it or with the block.

    Raises:
        PipelineError: one of them died.
    """
    if count == 1:
        yield Peers()
        return
    threads = torch.get_num_threads()
    share = max(1, threads // count)
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        others = torch.multiprocessing.spawn(
            _accompany,
            (count, meeting, share, work, arguments),
            nprocs=count - 1,
            join=False,
        )
        try:
            torch.set_num_threads(share)
            yield _ConnectedPeers(0, count, meeting)
        finally:
            for process in others.processes:
                process.terminate()
                process.join()
            torch.set_num_threads(threads)
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _accompany(
    number: int,
    count: int,
    meeting: str,
    threads: int,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(threads)
    # The first process tells what went wrong; this one only ends.
    with suppress(PipelineError):
        work(_ConnectedPeers(number + 1, count, meeting), *arguments)
    distributed.destroy_process_group()
