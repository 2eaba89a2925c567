"""A training step on CUDA as a graph: its many small launches become one.

A graph replays the same operations on the same memory. So the step reads its batch
from buffers of a fixed shape, and the number of frames is rounded up to one of a few; a
graph is captured for each of these. What is added is padding, which enters nothing.
"""

import logging
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.core.errors import PipelineError

_LOGGER = logging.getLogger(__name__)


class Step(Protocol):
    """One step of several students at once."""

    def __call__(self, rows: Tensor, frames: int, kept: Tensor | None) -> None:
        """Take it.

        Args:
            rows: of each student's batch (S, batch), on the device; -1 for none.
            frames: to which utterances are padded.
            kept: what dropout multiplies with (S, batch, states); None for nothing.
        """


class CapturedStep:
    """`step` for batches of any size, replayed.

    Args:
        step: what is captured. It must not wait for the device, and may change only
            tensors that it keeps.
        students: S.
        batch: the largest batch.
        states: values that dropout acts on; None if there is no dropout.
        like: a tensor of the device and of dropout's dtype.
        captures: whether anything is captured; else the step runs as it is, on the
            same buffers. (For CPUs, which have no graphs.)
    """

    def __init__(
        self,
        step: Step,
        *,
        students: int,
        batch: int,
        states: int | None,
        like: Tensor,
        captures: bool = True,
    ) -> None:
        self._step = step
        self._rows = torch.full((students, batch), -1, device=like.device)
        self._kept: Tensor | None = None
        if states is not None:
            self._kept = like.new_ones(students, batch, states)
        self._captures = captures
        # By the number of frames; None where the step has run once, and not been
        # captured: libraries set themselves up at their first call.
        self._graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None

    def __call__(self, rows: Tensor, frames: int, kept: Tensor | None) -> None:
        """Take the step with this batch; arguments as of `Step`.

        Raises:
            PipelineError: the GPU's memory is too small.
        """
        width = rows.shape[1]
        self._rows[:, :width].copy_(rows)
        self._rows[:, width:].fill_(-1)
        if self._kept is not None:
            assert kept is not None
            self._kept[:, :width].copy_(kept)
        try:
            self._take(round_up(frames))
        except torch.OutOfMemoryError as error:
            raise PipelineError(
                "not enough memory on the GPU to train these students together",
                found=" ".join(str(error).split()),
                fix="use --one-by-one",
            ) from error

    def _take(self, frames: int) -> None:
        if self._captures and frames not in self._graphs:
            self._first(frames)
            return
        if self._captures and self._graphs[frames] is None:
            self._capture(frames)
        graph = self._graphs.get(frames)
        if graph is None:
            self._step(self._rows, frames, self._kept)
        else:
            graph.replay()

    def _first(self, frames: int) -> None:
        """Take the step outside a graph, but on another stream, as capturing does."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._step(self._rows, frames, self._kept)
        current.wait_stream(stream)
        self._graphs[frames] = None

    def _capture(self, frames: int) -> None:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Graphs that are never replayed at once can share their memory.
            with torch.cuda.graph(graph, pool=self._pool):
                self._step(self._rows, frames, self._kept)
        except RuntimeError as error:
            # A capture that could not be ended has not gone back to it.
            torch.cuda.set_stream(stream)
            if isinstance(error, torch.OutOfMemoryError):
                raise
            _LOGGER.warning("training without CUDA graphs: %s", error)
            self._captures = False
            self._graphs.clear()
            return
        self._pool = self._pool or graph.pool()
        self._graphs[frames] = graph


def round_up(frames: int) -> int:
    """Up to 8, then to four sizes an octave: at most a quarter of them is padding."""
    frames = max(frames, 8)
    step = 1 << (frames - 1).bit_length() - 3
    return -(-frames // step) * step
