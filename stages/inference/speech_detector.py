"""The voice activity detector silero-vad, run without torch."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from stages.core.errors import ConfigurationError, needs_extra
from stages.core.runtime import open_onnx
from stages.inference.segmentation import WINDOW
from stages.speech.loading import SAMPLE_RATE

_CONTEXT = 64
"""Samples of the previous window that the model gets again."""


class SpeechDetector:
    """How likely each window of a stream is speech; see `segmentation.Detector`.

    Raises:
        ConfigurationError: silero-vad is not installed, or has no model.
    """

    def __init__(self) -> None:
        self._session = open_onnx(_model_file())
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def __call__(self, window: np.ndarray) -> float:
        """How likely the next window, (WINDOW,) float32 at 16 kHz, is speech."""
        assert window.shape == (WINDOW,)
        given = np.concatenate([self._context, window])[None]  # (1, 576)
        self._context = window[-_CONTEXT:]
        rate = np.array(SAMPLE_RATE, np.int64)
        likely, self._state = self._session.run(
            None, {"input": given, "state": self._state, "sr": rate}
        )
        return float(likely[0, 0])


def _model_file() -> Path:
    """The ONNX model in silero-vad's wheel.

    The package itself imports torch, which this does not need, so it is not imported.
    """
    with needs_extra("listen"):
        spec = find_spec("silero_vad")
        if spec is None:
            raise ImportError(name="silero-vad")
    path = Path((spec.submodule_search_locations or [""])[0], "data", "silero_vad.onnx")
    if not path.is_file():
        raise ConfigurationError(
            "silero-vad has no ONNX model",
            path=path,
            fix="pip install 'silero-vad>=6.2'",
        )
    return path
