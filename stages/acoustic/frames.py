"""Samples and frames of the phoneme/word encoder."""

from stages.speech.loading import SAMPLE_RATE

SINC_STRIDE = 80
FRAME_STEP = 32 * SINC_STRIDE
"""Samples between two frames of e_acoust: 2,560, which is 160 ms."""

LEAST_FRAMES = 8
LEAST_SECONDS = LEAST_FRAMES * FRAME_STEP / SAMPLE_RATE
"""ONNX Runtime gets at least 1.28 s. For shorter waves its matrix products use other
kernels, which sum in another order."""


def frame_count(samples: int) -> int:
    """Frames of e_acoust for a wave of `samples` at 16 kHz.

    Every layer rounds up, which equals rounding up once.
    """
    return -(-samples // FRAME_STEP)
