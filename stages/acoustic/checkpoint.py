"""Encoder checkpoints: ours in safetensors, and the public `model_state.pth` files.

Ours have the weights under the public names, in float16 except the frequencies of the
sinc filters, and as metadata the configuration and the names of the classes, phonemes
and words. Public files have weights only, under the prefix `pretrained_model.` in files
of whole understanding models; the sizes are read from the weights.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stages.acoustic.encoder import Encoder, EncoderConfiguration
from stages.acoustic.frames import FRAME_STEP
from stages.acoustic.params import REVISION
from stages.core.errors import InputError, PipelineError
from stages.core.files import atomic_path
from stages.core.hashing import fingerprint, fingerprint_arrays

_FORMAT = "acoustic-linguistic encoder"
_VERSION = "1"
_PUBLIC_PREFIX = "pretrained_model."
_HEADS = ("phoneme_linear.", "word_linear.", "ctc_linear.")


@dataclass(frozen=True)
class Checkpoint:
    """A frozen encoder and the names of its classes.

    Attributes:
        encoder: the model in eval mode, float32, on the CPU.
        phonemes: names of the phoneme classes; empty for public files.
        words: names of the word classes; empty for public files.
        fingerprint: of everything that determines e_acoust: the weights of both
            modules, sizes and front end, but not the classifiers.
        frame_step: samples at 16 kHz between two frames.
        longest_seconds: the longest recording; None, since any length works.
    """

    encoder: Encoder
    phonemes: tuple[str, ...]
    words: tuple[str, ...]
    fingerprint: str

    frame_step: ClassVar[int] = FRAME_STEP
    longest_seconds: ClassVar[None] = None

    @property
    def description(self) -> str:
        """A short name for people."""
        return f"lugosch {self.encoder.configuration.front_end}"

    @property
    def parameters(self) -> dict[str, Any]:
        """A description for people, JSON-able."""
        return {"configuration": asdict(self.encoder.configuration)}

    @property
    def dim(self) -> int:
        """Values in a frame."""
        return self.encoder.dim


def save_checkpoint(
    path: Path, encoder: Encoder, phonemes: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Write our safetensors format, whole or not at all."""
    weights = {
        name: (value if ".filt_" in name else value.half()).contiguous()
        for name, value in encoder.state_dict().items()
    }
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "configuration": json.dumps(asdict(encoder.configuration), sort_keys=True),
        "phonemes": json.dumps(phonemes),
        "words": json.dumps(words),
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(_sorted_header(save(weights, metadata)))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read either kind of checkpoint; code in the file is never run.

    Raises:
        InputError: no such file, not a checkpoint, or weights whose names or dimensions
            are not the encoder's.
    """
    if not path.is_file():
        raise InputError(
            "no such encoder checkpoint",
            path=path,
            fix="set acoustic.encoder (of a recogniser: baseline1.model) to a "
            ".safetensors or model_state.pth file",
        )
    if path.suffix == ".safetensors":
        return _load_ours(path)
    return _load_public(path)


def frozen_encoder(configuration: EncoderConfiguration, seed: int) -> Checkpoint:
    """A randomly initialised encoder, the control for pretraining."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(configuration)
    return _frozen(encoder, (), ())


def _sorted_header(file: bytes) -> bytes:
    """Sort the JSON header of a safetensors file; the library's order varies."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.dumps(
        json.loads(file[8:end]), sort_keys=True, separators=(",", ":")
    ).encode()
    # The format pads the header with spaces to a multiple of 8.
    header = header.ljust(-(-len(header) // 8) * 8)
    return len(header).to_bytes(8, "little") + header + file[end:]


def _load_ours(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"not a readable safetensors file ({error})", path=path) from (
            error
        )
    found = (metadata.get("format"), metadata.get("version"))
    if found != (_FORMAT, _VERSION):
        raise InputError(
            "not an encoder checkpoint of this project",
            path=path,
            found=f"format {found[0]!r} version {found[1]!r}",
            expected=f"format {_FORMAT!r} version {_VERSION!r}",
        )
    try:
        described = EncoderConfiguration(**json.loads(metadata["configuration"]))
        encoder = Encoder(described)
        phonemes = tuple(json.loads(metadata["phonemes"]))
        words = tuple(json.loads(metadata["words"]))
    except (KeyError, TypeError, ValueError, PipelineError) as error:
        raise InputError(f"unusable metadata ({error})", path=path) from error
    return _frozen(_filled(path, encoder, weights), phonemes, words)


def _load_public(path: Path) -> Checkpoint:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    # torch raises almost any exception for a damaged file.
    except Exception as error:
        raise InputError(
            "not a complete file of plain weights",
            path=path,
            found=type(error).__name__,
            expected="a state dictionary written by torch.save",
            fix="copy the file again; only tensors are loaded",
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in weights.items()
    ):
        raise InputError("not a state dictionary of plain weights", path=path)
    if any(name.startswith(_PUBLIC_PREFIX) for name in weights):
        weights = {
            name.removeprefix(_PUBLIC_PREFIX): value
            for name, value in weights.items()
            if name.startswith(_PUBLIC_PREFIX)
        }
    try:
        described = EncoderConfiguration(
            front_end="raw",
            filters=weights["phoneme_layers.5.weight"].shape[1],
            channels=weights["phoneme_layers.5.weight"].shape[0],
            kernel=weights["phoneme_layers.5.weight"].shape[2],
            hidden=weights["phoneme_layers.14.weight_hh_l0"].shape[1],
            phonemes=weights["phoneme_linear.weight"].shape[0],
            words=weights["word_linear.weight"].shape[0],
        )
        encoder = Encoder(described)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            "not a phoneme/word encoder",
            path=path,
            found=f"no usable weight ({error})",
            expected="a model_state.pth of Lugosch et al. 2019",
        ) from error
    return _frozen(_filled(path, encoder, weights), (), ())


def _filled(path: Path, encoder: Encoder, weights: dict[str, Tensor]) -> Encoder:
    """Load `weights` into `encoder`; every name and shape must match."""
    expected = encoder.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            where = "missing from" if name not in weights else "unexpected in"
            raise InputError(f"weight {name} is {where} the checkpoint", path=path)
        if weights[name].shape != expected[name].shape:
            raise InputError(
                f"weight {name} has other dimensions",
                path=path,
                found=tuple(weights[name].shape),
                expected=tuple(expected[name].shape),
                fix="use a checkpoint of the encoder that its configuration describes",
            )
        if not weights[name].isfinite().all():
            raise InputError(
                f"weight {name} contains NaN or infinite values",
                path=path,
                fix="copy the checkpoint again, or train it with a lower learning rate",
            )
    encoder.load_state_dict(weights)
    return encoder


def _frozen(
    encoder: Encoder, phonemes: tuple[str, ...], words: tuple[str, ...]
) -> Checkpoint:
    encoder = encoder.eval().requires_grad_(False)
    arrays = {
        name: value.numpy()
        for name, value in encoder.state_dict().items()
        if not name.startswith(_HEADS)
    }
    c = encoder.configuration
    identity = fingerprint(
        {
            "weights": fingerprint_arrays(arrays),
            "front_end": c.front_end,
            "taps": c.taps,
            "revision": REVISION,
        }
    )
    return Checkpoint(encoder, phonemes, words, identity)
