"""pocketsphinx as a recogniser."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import numpy as np
import torch

from stages.baseline1.recogniser import Transcribe, recogniser_fingerprint
from stages.core.errors import ConfigurationError
from stages.speech.loading import SAMPLE_RATE


@dataclass(frozen=True)
class PocketsphinxRecogniser:
    """pocketsphinx with the English model in its wheel."""

    on_cpu: ClassVar[bool] = True
    name: str
    fingerprint: str

    def open(self, device: torch.device) -> Transcribe:
        """Load the model; it runs on the CPU whatever the device."""
        import pocketsphinx  # type: ignore[import-untyped]

        decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

        def transcribe(wave: np.ndarray) -> str:
            samples = (np.clip(wave, -1, 1) * 32767).astype(np.int16)
            decoder.start_utt()
            decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
            decoder.end_utt()
            hypothesis = decoder.hyp()
            return hypothesis.hypstr if hypothesis is not None else ""

        return transcribe


def pocketsphinx_recogniser() -> PocketsphinxRecogniser:
    """The recogniser of the installed version.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import pocketsphinx  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "the recogniser needs pocketsphinx",
            fix="pip install -e '.[pocketsphinx]'",
        ) from None
    number = version("pocketsphinx")
    return PocketsphinxRecogniser(
        name=f"pocketsphinx {number}",
        fingerprint=recogniser_fingerprint("pocketsphinx", version=number),
    )
