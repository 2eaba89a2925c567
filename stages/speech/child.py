"""Synthesisers in child processes: a request in JSON, an answer in an `.npz`.

A synthesiser's state carries over from one utterance to the next, and a call can hang,
so each request has a process of its own, with a time limit. In it, `apart` gives each
utterance the state that the process began with, in a fraction of the time that a new
process takes to start.
"""

import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stages.core.errors import PipelineError

_SECONDS_TO_START = 120
"""Time limit for its start; it needs half a second on an idle machine."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def ask(
    module: str, request: Mapping[str, Any], what: str, *, seconds: float
) -> tuple[list[np.ndarray], list[Any]]:
    """The samples and the events of each text of `request`, by a fresh process.

    Args:
        module: of `stages.speech`; run as a program, it calls `answer`.
        request: what to speak, with the key `texts`.
        what: speaks as whom, for the message.
        seconds: time limit for each text.

    Raises:
        PipelineError: the child failed or hung.
    """
    speaker, _, action = what.partition(" ")
    try:
        child = subprocess.run(
            [sys.executable, "-m", f"stages.speech.{module}"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=_SECONDS_TO_START + seconds * len(request["texts"]),
            cwd=Path(__file__).resolve().parent.parent,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise PipelineError(f"{speaker} hung while {action}") from None
    except subprocess.CalledProcessError as error:
        raise PipelineError(
            f"{speaker} failed while {action}",
            found=error.stderr.decode(errors="replace").strip()[-300:],
        ) from None
    with np.load(io.BytesIO(child.stdout)) as arrays:
        samples = np.split(arrays["samples"], arrays["ends"][:-1])
        return samples, json.loads(arrays["events"].tobytes())


def answer(samples: Sequence[np.ndarray], events: Sequence[Any]) -> None:
    """In the child: write what it spoke, and each utterance's events, to stdout."""
    content = io.BytesIO()
    np.savez(
        content,
        samples=np.concatenate(samples),
        ends=np.cumsum([len(one) for one in samples]),
        events=np.frombuffer(json.dumps(list(events)).encode(), np.uint8),
    )
    sys.stdout.buffer.write(content.getvalue())


def apart(function: Callable[[Item], Result], item: Item) -> Result:
    """In the child: `function(item)` in a fork, which leaves no state behind."""
    read, write = os.pipe()
    fork = os.fork()
    if fork == 0:
        try:
            with os.fdopen(write, "wb") as stream:
                pickle.dump(function(item), stream)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        content = stream.read()
    _, status = os.waitpid(fork, 0)
    if status:
        raise SystemExit(1)
    return pickle.loads(content)
