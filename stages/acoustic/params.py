"""Parameters of extraction and of pretraining."""

from dataclasses import dataclass

from stages.core.errors import ConfigurationError

DTYPES = ("float32", "float16")


PRECISIONS = ("float32", "tf32")


@dataclass(frozen=True)
class AcousticParams:
    """What features are extracted.

    Attributes:
        encoder: checkpoint of the phoneme/word encoder, our safetensors or a public
            `model_state.pth`, relative to the repository; or a speech encoder of
            transformers (wav2vec2, HuBERT, WavLM, Whisper …): a folder, or its name on
            the hub.
        revision: of transformers only: commit, tag or branch on the hub; the newest if
            empty.
        layer: of transformers only: which hidden states, from 0, what enters the first
            layer, to the number of layers; negative ones count from the last.
        pooling: of transformers only: each so many frames become one, their mean. With
            8, the 20 ms of wav2vec2 become the paper's 160 ms.
        dtype: how features are stored; the paper's are float32.
        precision: of the products on CUDA: float32, or tf32, which is faster and rounds
            their factors to 11 bits. It makes other features, known as such.
    """

    encoder: str = "data/demo/encoder.safetensors"
    revision: str = ""
    layer: int = -1
    pooling: int = 1
    dtype: str = "float32"
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dtype", self.dtype, DTYPES),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise ConfigurationError(
                    f"unknown acoustic.{name}",
                    found=repr(value),
                    expected=f"one of {', '.join(known)}",
                )
        if self.pooling < 1:
            raise ConfigurationError(
                "acoustic.pooling cannot be used",
                found=self.pooling,
                expected="1 frame or more",
            )
