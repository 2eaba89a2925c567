"""Seed, device, threads and progress bars. Only this module seeds a run."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.errors import ConfigurationError
from stages.core.rules import one_of

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class RunOptions:
    """How a stage runs.

    Not part of a result's identity: results differ by rounding at most.

    Attributes:
        device: auto, cpu or cuda.
        workers: number of parallel processes or threads.
        backend: runtime of the frozen encoder: onnx, torch or auto.
        force: compute the result even if it is up to date.
    """

    device: str = "auto"
    workers: int = 1
    backend: str = "auto"
    force: bool = False


def seed_everything(seed: int) -> "torch.Generator":
    """Seed Python, numpy and torch; return a CPU generator for shuffles."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def choose_device(name: str = "auto") -> "torch.device":
    """The torch device `name`; `auto` is CUDA if available, otherwise the CPU.

    Raises:
        ConfigurationError: the name is unknown, or CUDA is not available.
    """
    import torch

    if name not in DEVICES:
        raise ConfigurationError(
            "unknown device", found=repr(name), expected=one_of(DEVICES)
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "no CUDA device is visible to torch", fix="use --device cpu or auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def open_onnx(graph: bytes | Path) -> Any:
    """A session of ONNX Runtime, on one thread of a CPU.

    The products here are small: processes scale better than threads.

    Args:
        graph: a serialised model, or its file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(
        graph, options, providers=["CPUExecutionProvider"]
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread.

    The result of a sum depends on the number of threads, and this project's small
    matrix products are faster on one.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the progress bars and load reports of transformers."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def progress(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    description: str = "",
    unit: str = "it",
    shown: bool = True,
) -> Any:
    """A progress bar on stderr, only if that is a terminal and `shown` is true."""
    from tqdm import tqdm

    return tqdm(
        items,
        total=total,
        desc=description,
        unit=unit,
        file=sys.stderr,
        disable=not (shown and sys.stderr.isatty()),
        dynamic_ncols=True,
        leave=False,
    )
