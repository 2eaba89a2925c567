"""Parameters of extraction."""

from dataclasses import dataclass

from stages.core.rules import TEXT_OR_NOTHING, among, between, check_rules

REVISION = 2
"""Bump it when the same inputs and parameters give another result; features cached
before are then no longer used."""

DTYPES = ("float32", "float16")
PRECISIONS = ("float32", "tf32")


@dataclass(frozen=True)
class AcousticParams:
    """Which features are extracted.

    Attributes:
        encoder: checkpoint of the phoneme/word encoder, our safetensors or a public
            `model_state.pth`, relative to the repository; or a speech encoder of
            transformers (wav2vec2, HuBERT, WavLM, Whisper …): a folder or a name on the
            hub.
        revision: transformers only: commit, tag or branch on the hub; empty for the
            newest.
        layer: transformers only: which hidden states, from 0 (the input of the first
            layer) to the number of layers; negative numbers count from the last.
        pooling: transformers only: number of frames averaged into one. With 8, the
            20 ms of wav2vec2 become the paper's 160 ms.
        dtype: how features are stored; float32 in the paper.
        precision: of matrix products on CUDA: float32, or tf32, which is faster and
            rounds factors to 11 bits. Its features have a fingerprint of their own.
    """

    encoder: str = "data/demo/encoder.safetensors"
    revision: str = ""
    layer: int = -1
    pooling: int = 1
    dtype: str = "float32"
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the parameter and what it can be.
        """
        rules = {
            "revision": TEXT_OR_NOTHING,
            "layer": between(-1000, 1000),
            "pooling": between(1, 1000),
            "dtype": among(DTYPES),
            "precision": among(PRECISIONS),
        }
        check_rules("acoustic", self, rules)
