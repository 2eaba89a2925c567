"""How a stage runs: seed, device, threads, progress. The only module that seeds."""

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.core.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class RunOptions:
    """How a stage runs. Changes no result beyond rounding, so it is in no identity.

    Attributes:
        device: auto, cpu or cuda.
        workers: processes or threads at once.
        backend: of the frozen encoder: onnx, torch or auto.
        force: make the result again even where it is there.
    """

    device: str = "auto"
    workers: int = 1
    backend: str = "auto"
    force: bool = False


def seed_everything(seed: int) -> "torch.Generator":
    """Seed Python, numpy and torch; return a CPU generator for explicit shuffles."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def choose_device(name: str = "auto") -> "torch.device":
    """The torch device called `name`; `auto` is CUDA where there is one.

    Raises:
        ConfigurationError: an unknown name, or CUDA asked for and absent.
    """
    import torch

    if name not in DEVICES:
        raise ConfigurationError(
            "unknown device", found=repr(name), expected=f"one of {', '.join(DEVICES)}"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "no CUDA device is visible to torch", fix="use --device cpu or auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread.

    Sums over several depend on their number, and the small products of this project's
    networks lose more by waiting for a second thread than they gain.
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
    """Keep transformers from writing its own bars and load reports to stderr."""
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
    """A progress bar on stderr, silent where stderr is no terminal or not `shown`."""
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
