"""Checkpoints, to resume an interrupted training with bit-identical results.

A checkpoint file is the SHA-256 of the rest of the file (32 bytes), then a dictionary
written by `torch.save`: the state of the training and its `identity`.
"""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from stages.core.files import atomic_path

logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file; replaced if it exists.
        identity: hash of everything that determines the training.
        state: tensors and plain values that the training resumes from.
    """
    buffer = io.BytesIO()
    torch.save({**state, "identity": identity}, buffer)
    content = buffer.getbuffer()
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(hashlib.sha256(content).digest())
        stream.write(content)


def read_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """The state in `path`, tensors on the CPU.

    Returns:
        None if the file is missing, damaged (with a warning), or of another identity.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    # torch.load does not detect most damage.
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        logger.warning(
            "%s: damaged checkpoint; training starts from the beginning", path
        )
        return None
    state: dict[str, Any] = torch.load(
        io.BytesIO(content[32:]), map_location="cpu", weights_only=True
    )
    return state if state["identity"] == identity else None
