"""Checkpoints of a training: what an interrupted one goes on from, to the same bits.

A checkpoint is the SHA-256 of all that follows (32 bytes), and what `torch.save` writes
of a dictionary: the state, and the `identity` of what is trained.
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
    """Write `state`, tensors and plain values, to `path`, whole or not at all.

    Args:
        path: the file, replaced if it is there.
        identity: of all that decides what is trained.
        state: what training goes on from.
    """
    buffer = io.BytesIO()
    torch.save({**state, "identity": identity}, buffer)
    content = buffer.getbuffer()
    with atomic_path(path) as beside, beside.open("wb") as stream:
        stream.write(hashlib.sha256(content).digest())
        stream.write(content)


def read_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """The state in `path`, tensors on the CPU; None if there is none of `identity`.

    A damaged checkpoint is named in a warning and not used.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    # torch.load believes most of what it reads.
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        logger.warning(
            "%s: damaged checkpoint; training starts from the beginning", path
        )
        return None
    state: dict[str, Any] = torch.load(
        io.BytesIO(content[32:]), map_location="cpu", weights_only=True
    )
    return state if state["identity"] == identity else None
