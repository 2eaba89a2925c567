"""Processes that train together: they add up, and the death of one is told."""

import os
import time

import psutil
import pytest
import torch

from stages.core.errors import PipelineError
from stages.pretraining.peers import Peers, accompanied


def add(peers: Peers, values: list[float]) -> None:
    for value in values:
        peers.sum(torch.tensor([value * peers.rank]))


def die(peers: Peers) -> None:
    os._exit(7)


def fail(peers: Peers) -> None:
    raise ValueError("the disk is full")


def sleep(peers: Peers) -> None:
    time.sleep(600)


def test_one_process_adds_nothing() -> None:
    with accompanied(1, die) as peers:
        assert (peers.rank, peers.count) == (0, 1)
        assert peers.sum(torch.tensor([2.5])).tolist() == [2.5]


def test_processes_add_up_and_give_the_threads_back() -> None:
    threads = torch.get_num_threads()
    with accompanied(3, add, [1.0, 10.0]) as peers:
        assert (peers.rank, peers.count) == (0, 3)
        assert [peers.sum(torch.tensor([0.5])).item() for _ in range(2)] == [3.5, 30.5]
    assert torch.get_num_threads() == threads
    with accompanied(2, add, [4.0]) as peers:
        assert peers.sum(torch.tensor([1.0])).item() == 5.0


@pytest.mark.parametrize(
    ("work", "told"), [(die, "exit code 7"), (fail, "the disk is full")]
)
def test_the_death_of_one_is_told(work, told: str) -> None:
    with (
        pytest.raises(PipelineError, match="process of the training died") as caught,
        accompanied(2, work) as peers,
    ):
        peers.sum(torch.ones(1))
    assert told in str(caught.value)


def test_one_that_never_comes_is_told() -> None:
    # What it is to do cannot be sent to it.
    with (
        pytest.raises(PipelineError, match="process of the training died"),
        accompanied(2, add, Unsendable()) as peers,
    ):
        peers.sum(torch.ones(1))


class Unsendable:
    """Ends the process that receives it."""

    def __reduce__(self) -> tuple:
        return os._exit, (3,)


def test_no_process_outlives_the_block() -> None:
    with pytest.raises(KeyboardInterrupt), accompanied(2, sleep):
        children = psutil.Process().children(recursive=True)
        assert children
        raise KeyboardInterrupt
    _, alive = psutil.wait_procs(children, timeout=5)
    left = [one for one in alive if "spawn_main" in " ".join(one.cmdline())]
    assert not left
