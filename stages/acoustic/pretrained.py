"""Speech encoders of transformers, in place of the phoneme/word encoder.

Reads a folder with `config.json`, `preprocessor_config.json` and `model.safetensors`
(or `pytorch_model.bin`), or the same files by their name on the hub:

    wave -> input normalisation, or Whisper's log-mel spectrogram of a whole window
         -> convolutions, and transformer layers up to the wanted one
         -> mean of each `pooling` frames

The model is frozen, and cut after the wanted layer. Utterances run one by one, so that
no bit of a feature depends on other utterances: group norm takes its statistics over
padding too, and matrix products of other sizes sum in another order.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    PreTrainedConfig,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from stages.core.errors import ConfigurationError, InputError
from stages.core.hashing import fingerprint, fingerprint_arrays
from stages.core.runtime import quiet_transformers
from stages.speech.loading import SAMPLE_RATE

SUPPORTED = (
    "data2vec-audio",
    "hubert",
    "unispeech",
    "unispeech-sat",
    "wav2vec2",
    "wavlm",
    "whisper",
)
"""Values of `model_type` in config.json."""

# Entries of config.json that change features, but not the weights' names or dimensions.
_SETTINGS = (
    "activation_function",
    "conv_stride",
    "do_stable_layer_norm",
    "feat_extract_activation",
    "hidden_act",
    "layer_norm_eps",
    "max_bucket_distance",
    "num_attention_heads",
)

# The same in preprocessor_config.json.
_WAVE_INPUT = ("do_normalize",)
_WHISPER_INPUT = ("chunk_length", "hop_length", "n_fft", "padding_value")

# Replaces masked frames in training; many files do not have it.
_UNUSED = "masked_spec_embed"

# The manifest rounds seconds to 0.1 ms and resampling rounds up, so a recording of the
# window's length can have this many samples more, which are cut.
_ROUNDING = 2

_FIX = (
    "set acoustic.encoder to a local folder with config.json, preprocessor_config.json "
    "and model.safetensors, or to a hub name while online (HF_HUB_OFFLINE unset)"
)
_FIX_WEIGHTS = "copy the checkpoint again, or use one with all weights"


@dataclass(frozen=True, eq=False)
class PretrainedEncoder:
    """A frozen speech encoder whose features are one of its hidden layers.

    Attributes:
        model: of transformers, in eval mode, float32, cut after `layer`.
        extractor: of transformers; normalises a wave or makes its spectrogram.
        layer: whose hidden states, from 0.
        pooling: frames of the model averaged into one.
        fingerprint: of everything that determines features: weights up to the layer,
            the settings that go with them, input normalisation, layer and pooling; not
            of the path.
    """

    model: Any = field(repr=False)
    extractor: Any = field(repr=False)
    layer: int
    pooling: int
    fingerprint: str

    @property
    def description(self) -> str:
        """A short name for people."""
        config = self.model.config
        pooled = f", mean of {self.pooling} frames" if self.pooling > 1 else ""
        layers = config.num_hidden_layers
        return f"{config.model_type} layer {self.layer} of {layers}{pooled}"

    @property
    def parameters(self) -> dict[str, Any]:
        """A description for people, JSON-able."""
        config = self.model.config
        return {
            "model": config.model_type,
            "layer": self.layer,
            "layers": config.num_hidden_layers,
            "pooling": self.pooling,
            "hidden_size": config.hidden_size,
            "feature_extractor": _input_settings(self.extractor),
        }

    @property
    def dim(self) -> int:
        """Values in a frame."""
        return int(self.model.config.hidden_size)

    @property
    def _model_step(self) -> int:
        """Samples at 16 kHz between two frames of the model."""
        if _is_whisper(self.extractor):
            return 2 * int(self.extractor.hop_length)  # the second convolution's stride
        return math.prod(self.model.config.conv_stride)

    @property
    def frame_step(self) -> int:
        """Samples at 16 kHz between two frames."""
        return self._model_step * self.pooling

    @property
    def longest_seconds(self) -> float | None:
        """The longest recording: Whisper's window; None if any length works."""
        if _is_whisper(self.extractor):
            return float(self.extractor.n_samples / SAMPLE_RATE)
        return None

    @property
    def least_samples(self) -> int:
        """Shorter waves are padded to this length, which gives one frame."""
        if _is_whisper(self.extractor):
            return 1  # padded to the window already
        config = self.model.config
        samples = 1  # the receptive field of the convolutions: 400 for wav2vec2
        for kernel, stride in zip(
            reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        return samples

    def to(self, device: torch.device | str) -> Self:
        """This encoder, moved to `device`."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """Features of each wave, (frames, dim) float32, as if it were encoded alone.

        At least one frame; the last one can be the mean of fewer than `pooling`.

        Args:
            waves: each (samples,) float32 at 16 kHz, not empty.
        """
        assert not self.model.training
        # By default cuDNN rounds to TF32, whose error is a thousand times that of
        # float32.
        with torch.backends.cudnn.flags(
            enabled=True, deterministic=True, allow_tf32=False
        ):
            return [self._encode(wave) for wave in waves]

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        window = self.longest_seconds
        if window is not None:
            samples = round(window * SAMPLE_RATE)
            assert len(wave) <= samples + _ROUNDING, "a recording beyond the window"
            wave = wave[:samples]
        # The last hidden state, (1, frames, dim), first of what the model returns.
        hidden = self.model(self._inputs(wave).to(self.model.device))[0]
        frames = hidden[0].cpu().numpy()
        if window is not None:
            # Without the frames of the padding.
            frames = frames[: -(-len(wave) // self._model_step)]
        return _pooled(frames, self.pooling)

    def _inputs(self, wave: np.ndarray) -> Tensor:
        """(1, samples), or Whisper's (1, mel bands, frames of 10 ms)."""
        made = self.extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        inputs = made[self.model.main_input_name]
        return functional.pad(inputs, (0, max(0, self.least_samples - len(wave))))


def load_pretrained(
    name: str, *, revision: str = "", layer: int = -1, pooling: int = 1
) -> PretrainedEncoder:
    """Load an encoder, frozen, on the CPU; code that comes with it is never run.

    Args:
        name: local folder or hub name.
        revision: of a hub name: commit, tag or branch; empty for its main branch.
        layer: which hidden states: 0 for the input of the first layer, k for the output
            of layer k, for the last one after the final layer norm if the model has
            one. Negative numbers count from the last.
        pooling: number of frames averaged into one.

    Raises:
        ConfigurationError: an unsupported kind of model, or no such layer.
        InputError: files that are missing, unreachable or unusable; weights that are
            missing, of other dimensions, NaN or infinite; another sample rate.
    """
    revision = revision or "main"
    config = _load_config(name, revision)
    layers = config.num_hidden_layers
    if not -layers - 1 <= layer <= layers:
        raise ConfigurationError(
            f"{name} has no such layer",
            found=layer,
            expected=f"0 to {layers}, or -{layers + 1} to -1 from the last",
        )
    layer %= layers + 1
    extractor = _load_extractor(name, revision, config)
    model = _load_model(name, revision, config, layer)
    weights = {key: value.numpy() for key, value in _used(model).items()}
    identity = {
        "model": config.model_type,
        "weights": fingerprint_arrays(weights),
        # None where this type of model does not have it.
        "configuration": {key: getattr(config, key, None) for key in _SETTINGS},
        "feature_extractor": _input_settings(extractor),
        "layer": layer,
        "layers": layers,
        "pooling": pooling,
    }
    return PretrainedEncoder(model, extractor, layer, pooling, fingerprint(identity))


def _is_whisper(extractor: Any) -> bool:
    return isinstance(extractor, WhisperFeatureExtractor)


def _input_settings(extractor: Any) -> dict[str, Any]:
    """The extractor's settings that change features."""
    names = _WHISPER_INPUT if _is_whisper(extractor) else _WAVE_INPUT
    return {name: getattr(extractor, name) for name in names}


@contextmanager
def loading(name: str, what: str, *, fix: str) -> Iterator[None]:
    """Load `what` from the path or hub name `name`, without the library's output.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        with quiet_transformers():
            yield
    # transformers and torch raise almost any exception for a damaged file.
    except Exception as error:
        sentence = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise InputError(
            f"cannot load {what}",
            path=name,
            found=f"{type(error).__name__} ({sentence})",
            fix=fix,
        ) from error


def _load_config(name: str, revision: str) -> Any:
    with loading(name, "config.json", fix=_FIX):
        entries, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    if not entries:
        raise InputError("no config.json", path=name, fix=_FIX)
    # Checked before AutoConfig, whose error for unknown types is another one.
    if entries.get("model_type") not in SUPPORTED:
        raise ConfigurationError(
            f"{name} is not a supported speech encoder",
            found=f"model_type {entries.get('model_type')!r}",
            expected=f"one of {', '.join(SUPPORTED)}",
        )
    with loading(name, "config.json", fix=_FIX):
        config = AutoConfig.from_pretrained(
            name, revision=revision, trust_remote_code=False
        )
    # An adapter comes after the last layer and changes the number of frames.
    if getattr(config, "add_adapter", False):
        config.add_adapter = False
    return config


def _load_extractor(name: str, revision: str, config: PreTrainedConfig) -> Any:
    """The feature extractor of preprocessor_config.json, checked against `config`."""
    with loading(name, "preprocessor_config.json", fix=_FIX):
        extractor = AutoFeatureExtractor.from_pretrained(
            name, revision=revision, trust_remote_code=False
        )
    whisper = config.model_type == "whisper"
    kind = WhisperFeatureExtractor if whisper else Wav2Vec2FeatureExtractor
    if not isinstance(extractor, kind):
        raise InputError(
            "preprocessor_config.json is for another kind of model",
            path=name,
            found=type(extractor).__name__,
            expected=kind.__name__,
        )
    if extractor.sampling_rate != SAMPLE_RATE:
        raise InputError(
            "the encoder has another sample rate",
            path=name,
            found=f"{extractor.sampling_rate} Hz",
            expected=f"{SAMPLE_RATE} Hz",
        )
    if isinstance(extractor, WhisperFeatureExtractor):
        found = (extractor.feature_size, extractor.nb_max_frames, extractor.dither)
        expected = (config.num_mel_bins, 2 * config.max_source_positions, 0)
        if found != expected:
            text = "{} mel bands, {} frames a window, dither {:g}"
            raise InputError(
                "preprocessor_config.json does not match config.json",
                path=name,
                found=text.format(*found),
                expected=text.format(*expected),
            )
    return extractor


def _load_model(name: str, revision: str, config: PreTrainedConfig, layer: int) -> Any:
    """The model up to `layer`, frozen; every weight comes from the checkpoint."""
    with loading(name, "the weights", fix=_FIX):
        model, report = AutoModel.from_pretrained(
            name,
            revision=revision,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            # Reported below; the library's error refers to a report that is hidden.
            ignore_mismatched_sizes=True,
        )
    prefix = ""
    if config.model_type == "whisper":
        model, prefix = model.get_encoder(), "encoder."
    model = _cut(model, config, layer).eval().requires_grad_(False)
    check_weights(name, model, report, prefix)
    return model


def check_weights(name: str, model: Any, report: Any, prefix: str = "") -> None:
    """Check that the checkpoint `name` has every weight of `model`.

    Args:
        name: local folder or hub name.
        model: loaded from it.
        report: the library's, with the checkpoint's missing and mismatched keys.
        prefix: of the model's names in the report.

    Raises:
        InputError: a weight is missing, has other dimensions, or is NaN or infinite.
    """
    shapes = {key: (found, wanted) for key, found, wanted in report["mismatched_keys"]}
    for key, value in sorted(_used(model).items()):
        key = prefix + key
        what, found, expected = None, None, None
        # transformers fills in random values for missing weights.
        if key in report["missing_keys"]:
            what = "is missing from the checkpoint"
        elif key in shapes:
            what, (found, expected) = "has other dimensions", map(tuple, shapes[key])
        elif not value.isfinite().all():
            what = "contains NaN or infinite values"
        if what:
            raise InputError(
                f"weight {key} {what}",
                path=name,
                found=found,
                expected=expected,
                fix=_FIX_WEIGHTS,
            )


def _cut(model: Any, config: PreTrainedConfig, layer: int) -> Any:
    """`model` with its first `layer` layers only."""
    whisper = config.model_type == "whisper"
    encoder = model if whisper else model.encoder
    if layer == len(encoder.layers):
        return model
    encoder.layers = encoder.layers[:layer]
    # The final layer norm. Elsewhere, and always in data2vec, `layer_norm` comes before
    # the first layer.
    stable = getattr(config, "do_stable_layer_norm", False)
    if whisper or (stable and config.model_type != "data2vec-audio"):
        encoder.layer_norm = nn.Identity()
    return model


def _used(model: nn.Module) -> dict[str, Tensor]:
    """The weights that features depend on, by name."""
    weights = model.state_dict()
    return {key: weights[key] for key in weights if key.split(".")[-1] != _UNUSED}


def _pooled(frames: np.ndarray, group: int) -> np.ndarray:
    """Mean of each `group` frames: (frames, dim) -> (ceil(frames / group), dim)."""
    starts = np.arange(0, len(frames), group)
    members = np.diff(starts, append=len(frames)).astype(frames.dtype)
    return np.add.reduceat(frames, starts, axis=0) / members[:, None]
