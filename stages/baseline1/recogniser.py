"""What every speech recogniser here has in common."""

from collections.abc import Callable
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

_LEAST_SAMPLES = 400
"""Receptive field of wav2vec2's convolutions: 25 ms. Shorter waves have no frame."""


@dataclass(frozen=True)
class Recogniser:
    """A speech recogniser, not loaded yet; it can be sent to another process.

    Attributes:
        name: for people, with the texts of the corpus that it knows, if any.
        fingerprint: of everything that its text depends on but the wave.
        on_cpu: whether most of its work is on the CPU whatever the device.
        loader: loads it to a device; its text can have any white space.
    """

    name: str
    fingerprint: str
    on_cpu: bool
    loader: Callable[[torch.device], Transcribe] = field(compare=False)

    def load(self, device: torch.device) -> Transcribe:
        """Load it to `device`."""
        recognise = self.loader(device)

        def transcribe(wave: np.ndarray) -> str:
            if len(wave) < _LEAST_SAMPLES:
                return ""
            # So that results do not depend on the number of threads.
            with one_thread(), torch.inference_mode():
                return " ".join(recognise(wave).split())

        return transcribe


def recogniser_fingerprint(kind: str, **values: Any) -> str:
    """The fingerprint of a recogniser of `kind` that `values` describe."""
    common = {"recogniser": kind, "resampling": RESAMPLING, "revision": REVISION}
    return fingerprint({**common, **values})
