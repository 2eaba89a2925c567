"""Speech encoders of transformers, in place of the phoneme/word encoder.

Reads a folder with `config.json`, `preprocessor_config.json` and `model.safetensors`
(or `pytorch_model.bin`), or the same files by their name on the hub:

    wave -> input normalisation, or Whisper's log-mel spectrogram of a whole window
         -> convolutions, and transformer layers up to the wanted one
         -> mean of each `pooling` frames

The model is frozen, and cut after the wanted layer. Utterances run one by one: models
with group norm take their statistics over padding too, and products of other sizes sum
in another order. So not one bit of a feature depends on what else is being encoded.
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
"""What `model_type` in config.json may be."""

# Entries of config.json that change features, and that neither the names nor the
# dimensions of the weights show.
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

# Likewise of preprocessor_config.json.
_WAVE_INPUT = ("do_normalize",)
_WHISPER_INPUT = ("chunk_length", "hop_length", "n_fft", "padding_value")

# Replaces frames that SpecAugment masks, in training alone; many files lack it.
_UNUSED = "masked_spec_embed"

# The manifest's seconds are rounded to 0.1 ms and resampling rounds up, so what is not
# too long by them may be longer than the window by so many samples, which are cut.
_ROUNDING = 2

_FIX = (
    "set acoustic.encoder to a local folder with config.json, preprocessor_config.json "
    "and model.safetensors, or to a hub name while online (HF_HUB_OFFLINE unset)"
)
_FIX_WEIGHTS = "copy the checkpoint again, or use one of the whole model"


@dataclass(frozen=True, eq=False)
class PretrainedEncoder:
    """A frozen speech encoder that gives one hidden layer.

    Attributes:
        description: the name people know it by.
        fingerprint: of everything that features depend on: the weights up to the layer,
            the settings beside them, input normalisation, layer and pooling; not of
            where the files lie.
        parameters: what it is, for people to read; JSON-able.
        dim: values in a frame.
        frame_step: samples at 16 kHz between two frames.
        longest_seconds: of a recording: Whisper's window; None if any will do.
        pooling: frames of the model that become one.
        least_samples: shorter waves are padded with zeros up to here, once they are
            normalised; the least that gives one frame.
        model: of transformers, in eval mode, float32; gives (1, frames, dim).
        extractor: of transformers too; normalises a wave or makes its spectrogram.
    """

    description: str
    fingerprint: str
    parameters: dict[str, Any]
    dim: int
    frame_step: int
    longest_seconds: float | None
    pooling: int
    least_samples: int
    model: Any = field(repr=False)
    extractor: Any = field(repr=False)

    def to(self, device: torch.device | str) -> Self:
        """This encoder, moved to `device`."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def encode(self, waves: list[np.ndarray]) -> list[np.ndarray]:
        """Features of each wave, (frames, dim) float32, as if it were alone.

        There is at least one frame. The last may be the mean of fewer than `pooling`.

        Args:
            waves: each (samples,) float32 at 16 kHz, not empty.

        Raises:
            InputError: a wave is longer than `longest_seconds`.
        """
        assert not self.model.training
        # By default cuDNN rounds to TF32, whose error is a thousand times float32's.
        with torch.backends.cudnn.flags(
            enabled=True, deterministic=True, allow_tf32=False
        ):
            return [self._encode(wave) for wave in waves]

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        wave = self._within_window(wave)
        # The last hidden state, (1, frames, dim), whatever else the model gives.
        hidden = self.model(self._inputs(wave).to(self.model.device))[0]
        frames = hidden[0].cpu().numpy()
        if self.longest_seconds is not None:
            # The rest is of the silence that fills the window.
            frames = frames[: -(-len(wave) // (self.frame_step // self.pooling))]
        return _pooled(frames, self.pooling)

    def _within_window(self, wave: np.ndarray) -> np.ndarray:
        if self.longest_seconds is None:
            return wave
        window = round(self.longest_seconds * SAMPLE_RATE)
        if len(wave) > window + _ROUNDING:
            raise InputError(
                "the recording is longer than the encoder's window",
                found=f"{len(wave) / SAMPLE_RATE:.2f} seconds",
                expected=f"at most {self.longest_seconds:g}",
                fix="cut it, drop its row, or use an encoder without a window",
            )
        return wave[:window]

    def _inputs(self, wave: np.ndarray) -> Tensor:
        """(1, samples), or Whisper's (1, mel bands, frames of 10 ms)."""
        made = self.extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        inputs = made[self.model.main_input_name]
        return functional.pad(inputs, (0, max(0, self.least_samples - len(wave))))


def load_pretrained(
    name: str, *, revision: str = "", layer: int = -1, pooling: int = 1
) -> PretrainedEncoder:
    """The encoder called `name`, frozen, on the CPU; no code with it is ever run.

    Args:
        name: local folder or hub name.
        revision: of a hub name: commit, tag or branch; empty for its main branch.
        layer: which hidden states: 0 is what enters the first layer, k what leaves
            layer k, the last of them after the final layer norm if the model has one
            there. Negative ones count from the last.
        pooling: frames that become one, their mean.

    Raises:
        ConfigurationError: a kind of model that is not supported, no such layer, or no
            such pooling.
        InputError: nothing usable there, or not reachable; weights that are missing, of
            other dimensions or no numbers; another sample rate.
    """
    if pooling < 1:
        raise ConfigurationError(
            "frames cannot be pooled so", found=pooling, expected="1 frame or more"
        )
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
    whisper = config.model_type == "whisper"
    if whisper:
        step = 2 * extractor.hop_length  # the second convolution's stride
        longest = extractor.n_samples / SAMPLE_RATE
    else:
        step = math.prod(config.conv_stride)
        longest = None
    input_settings = {
        key: getattr(extractor, key)
        for key in (_WHISPER_INPUT if whisper else _WAVE_INPUT)
    }
    identity = {
        "model": config.model_type,
        "weights": fingerprint_arrays(
            {key: value.numpy() for key, value in _used(model).items()}
        ),
        # None is what this type of model does not have.
        "configuration": {key: getattr(config, key, None) for key in _SETTINGS},
        "feature_extractor": input_settings,
        "layer": layer,
        "layers": layers,
        "pooling": pooling,
    }
    pooled = f", mean of {pooling} frames" if pooling > 1 else ""
    return PretrainedEncoder(
        description=f"{config.model_type} layer {layer} of {layers}{pooled}",
        fingerprint=fingerprint(identity),
        parameters={
            "model": config.model_type,
            "layer": layer,
            "layers": layers,
            "pooling": pooling,
            "hidden_size": config.hidden_size,
            "feature_extractor": input_settings,
        },
        dim=config.hidden_size,
        frame_step=step * pooling,
        longest_seconds=longest,
        pooling=pooling,
        least_samples=1 if whisper else _receptive_field(config),
        model=model,
        extractor=extractor,
    )


@contextmanager
def loading(name: str, what: str, *, fix: str) -> Iterator[None]:
    """Load without the library's bars and reports; make its errors ours.

    Args:
        name: local folder or hub name.
        what: is loaded from there.
        fix: what to do if it cannot be.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        with quiet_transformers():
            yield
    # transformers and torch meet a damaged file with almost any exception.
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
        entries, _ = PreTrainedConfig.get_config_dict(name, revision=revision or "main")
    if not entries:
        raise InputError("no config.json there", path=name, fix=_FIX)
    # Before AutoConfig, which knows most types and has another error for the rest.
    if entries.get("model_type") not in SUPPORTED:
        raise ConfigurationError(
            f"{name} is no speech encoder that can be used",
            found=f"model_type {entries.get('model_type')!r}",
            expected=f"one of {', '.join(SUPPORTED)}",
        )
    with loading(name, "config.json", fix=_FIX):
        config = AutoConfig.from_pretrained(
            name, revision=revision or "main", trust_remote_code=False
        )
    # An adapter comes after the last layer and has frames of its own.
    if getattr(config, "add_adapter", False):
        config.add_adapter = False
    return config


def _load_extractor(name: str, revision: str, config: PreTrainedConfig) -> Any:
    """What preprocessor_config.json describes, once it is held against `config`."""
    with loading(name, "preprocessor_config.json", fix=_FIX):
        extractor = AutoFeatureExtractor.from_pretrained(
            name, revision=revision or "main", trust_remote_code=False
        )
    whisper = config.model_type == "whisper"
    kind = WhisperFeatureExtractor if whisper else Wav2Vec2FeatureExtractor
    if not isinstance(extractor, kind):
        raise InputError(
            "preprocessor_config.json is of another kind of model",
            path=name,
            found=type(extractor).__name__,
            expected=kind.__name__,
        )
    if extractor.sampling_rate != SAMPLE_RATE:
        raise InputError(
            "the encoder is of another sample rate",
            path=name,
            found=f"{extractor.sampling_rate} Hz",
            expected=f"{SAMPLE_RATE} Hz",
        )
    if isinstance(extractor, WhisperFeatureExtractor):
        _check_window(name, extractor, config)
    return extractor


def _check_window(
    name: str, extractor: WhisperFeatureExtractor, config: PreTrainedConfig
) -> None:
    found = (extractor.feature_size, extractor.nb_max_frames, extractor.dither)
    expected = (config.num_mel_bins, 2 * config.max_source_positions, 0)
    if found != expected:
        said = "{} mel bands, {} frames a window, dither {:g}"
        raise InputError(
            "preprocessor_config.json does not go with config.json",
            path=name,
            found=said.format(*found),
            expected=said.format(*expected),
        )


def _load_model(name: str, revision: str, config: PreTrainedConfig, layer: int) -> Any:
    """The model up to `layer`, frozen; every weight comes from the checkpoint."""
    with loading(name, "the weights", fix=_FIX):
        model, report = AutoModel.from_pretrained(
            name,
            revision=revision or "main",
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            # Else the error refers to a report that nobody sees.
            ignore_mismatched_sizes=True,
        )
    prefix = ""
    if config.model_type == "whisper":
        model, prefix = model.get_encoder(), "encoder."
    model = _cut(model, config, layer).eval().requires_grad_(False)
    other = {key: (found, wanted) for key, found, wanted in report["mismatched_keys"]}
    for key, value in sorted(_used(model).items()):
        where = prefix + key
        # transformers would make up what is not there.
        if where in report["missing_keys"]:
            raise InputError(
                f"weight {where} is missing from the checkpoint",
                path=name,
                fix=_FIX_WEIGHTS,
            )
        if where in other:
            raise InputError(
                f"weight {where} has other dimensions",
                path=name,
                found=tuple(other[where][0]),
                expected=tuple(other[where][1]),
                fix=_FIX_WEIGHTS,
            )
        if not value.isfinite().all():
            raise InputError(
                f"weight {where} holds values that are no numbers",
                path=name,
                fix=_FIX_WEIGHTS,
            )
    return model


def _cut(model: Any, config: PreTrainedConfig, layer: int) -> Any:
    """`model` with its first `layer` layers, so that its output is their output."""
    whisper = config.model_type == "whisper"
    encoder = model if whisper else model.encoder
    if layer == len(encoder.layers):
        return model
    encoder.layers = encoder.layers[:layer]
    # Elsewhere `layer_norm` comes before the first layer; in data2vec always.
    stable = getattr(config, "do_stable_layer_norm", False)
    if whisper or (stable and config.model_type != "data2vec-audio"):
        encoder.layer_norm = nn.Identity()
    return model


def _used(model: nn.Module) -> dict[str, Tensor]:
    """The weights that features depend on, by name."""
    return {key: value for key, value in model.state_dict().items() if key != _UNUSED}


def _receptive_field(config: PreTrainedConfig) -> int:
    """Samples that one frame of the convolutions is made of: 400 for wav2vec2."""
    samples = 1
    for kernel, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        samples = (samples - 1) * stride + kernel
    return samples


def _pooled(frames: np.ndarray, group: int) -> np.ndarray:
    """Mean of each `group` frames: (frames, dim) -> (ceil(frames / group), dim)."""
    starts = np.arange(0, len(frames), group)
    members = np.diff(starts, append=len(frames)).astype(frames.dtype)
    return np.add.reduceat(frames, starts, axis=0) / members[:, None]
