"""pocketsphinx as a recogniser, with the English model in its wheel."""

from importlib.metadata import version

import numpy as np
import torch

from stages.baseline1.recogniser import Recogniser, Transcribe, recogniser_fingerprint
from stages.core.errors import needs_extra
from stages.speech.loading import SAMPLE_RATE


def pocketsphinx_recogniser() -> Recogniser:
    """The recogniser of the installed version.

    Raises:
        ConfigurationError: it is not installed.
    """
    with needs_extra("pocketsphinx"):
        import pocketsphinx  # noqa: F401
    number = version("pocketsphinx")
    return Recogniser(
        name=f"pocketsphinx {number}",
        fingerprint=recogniser_fingerprint("pocketsphinx", version=number),
        on_cpu=True,
        loader=_load,
    )


def _load(device: torch.device) -> Transcribe:
    """Load the model; it runs on the CPU whatever the device."""
    import pocketsphinx

    decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

    def transcribe(wave: np.ndarray) -> str:
        samples = (np.clip(wave, -1, 1) * 32767).astype(np.int16)
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""

    return transcribe
