"""What every speech recogniser here has in common."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stages.baseline1.params import REVISION
from stages.core.hashing import fingerprint
from stages.core.runtime import one_thread
from stages.speech.loading import RESAMPLING

Transcribe = Callable[[np.ndarray], str]
"""From a wave, (samples,) float32 at 16 kHz, to its text, possibly empty."""

LEAST_SAMPLES = 400
"""Receptive field of wav2vec2's convolutions: 25 ms. Shorter waves have no frame."""


@dataclass(frozen=True)
class Recogniser:
    """A speech recogniser, not loaded yet; it can be sent to another process.

    Attributes:
        name: for people, with the texts of the corpus that it knows, if any.
        fingerprint: of everything that its text depends on but the wave.
        on_cpu: whether most of its work is on the CPU whatever the device.
        load: loads it to a device.
    """

    name: str
    fingerprint: str
    on_cpu: bool
    load: Callable[[torch.device], Transcribe] = field(compare=False)


def recogniser_fingerprint(kind: str, **values: Any) -> str:
    """The fingerprint of a recogniser of `kind` that `values` describe."""
    return fingerprint(
        {
            "recogniser": kind,
            "resampling": RESAMPLING,
            "revision": REVISION,
            **values,
        }
    )


def cpu_on_one_thread(device: torch.device) -> AbstractContextManager[None]:
    """One thread on a CPU, so that results do not depend on the number of threads."""
    return one_thread() if device.type == "cpu" else nullcontext()
