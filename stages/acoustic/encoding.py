"""Running the frozen encoder over recordings: which one, on what, in which batches."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import torch

from stages.acoustic.checkpoint import Checkpoint, load_checkpoint
from stages.acoustic.encoder import Encoder
from stages.acoustic.frames import LEAST_SECONDS, frame_count
from stages.acoustic.params import AcousticParams
from stages.cache.format import Header, unwritable
from stages.core.errors import (
    CacheError,
    ConfigurationError,
    RecordingError,
)
from stages.core.files import atomic_path
from stages.core.hashing import fingerprint
from stages.core.runtime import choose_device, one_thread
from stages.speech.loading import (
    RESAMPLING,
    SAMPLE_RATE,
    Change,
    encode_good,
    try_audio,
)

if TYPE_CHECKING:
    from stages.acoustic.pretrained import PretrainedEncoder


# Seconds of audio encoded at once; utterances of one batch are of similar length.
_BATCH_SECONDS = {"cpu": 15.0, "cuda": 1200.0}


# Seconds of audio that are worth the start of processes.
_PROCESSES_SECONDS = 900.0


BACKENDS = ("auto", "onnx", "torch")


# Checkpoints of the phoneme/word encoder; anything else is a model of transformers.
_CHECKPOINTS = (".safetensors", ".pth", ".pt")


FrozenEncoder: TypeAlias = "Checkpoint | PretrainedEncoder"


Encode = Callable[[list[np.ndarray]], list[np.ndarray]]


Features = Generator[tuple[Any, np.ndarray | RecordingError], None, None]


"""Rows of the manifest, each with its features (frames, D) or what is wrong with it."""


def load_encoder(params: AcousticParams) -> FrozenEncoder:
    """The encoder that the parameters name, frozen.

    Raises:
        ConfigurationError: parameters that this kind of encoder does not have.
        InputError: there is none, or it is damaged.
    """
    if Path(params.encoder).suffix in _CHECKPOINTS:
        given = (params.layer, params.pooling, params.revision)
        if given != (-1, 1, ""):
            raise ConfigurationError(
                "layer, pooling and revision are of encoders of transformers",
                found=f"encoder {params.encoder}",
                fix="leave out acoustic.layer, acoustic.pooling and acoustic.revision",
            )
        return load_checkpoint(Path(params.encoder))
    # Not above: transformers takes seconds to import.
    from stages.acoustic.pretrained import load_pretrained

    return load_pretrained(
        params.encoder,
        revision=params.revision,
        layer=params.layer,
        pooling=params.pooling,
    )


def feature_header(encoder: FrozenEncoder, params: AcousticParams) -> Header:
    """What the cache says of these features; its fingerprint is their identity."""
    identity = {
        "encoder": encoder.fingerprint,
        "resampling": RESAMPLING,
        "sample_rate": SAMPLE_RATE,
        "dtype": params.dtype,
    }
    if params.precision != "float32":
        identity["precision"] = params.precision
    return Header(
        kind="acoustic",
        encoder=encoder.description,
        fingerprint=fingerprint(identity),
        parameters={**identity, **encoder.parameters},
        dim=encoder.dim,
        dtype=params.dtype,
        frame_step=encoder.frame_step,
    )


def check_features(
    digest: Path, found: Header, expected: Header, *, encoder: str, fix: str
) -> None:
    """See that cached features are those that an encoder gives.

    Args:
        digest: of the features.
        found: its header.
        expected: of `feature_header`.
        encoder: what acoustic.encoder says.
        fix: what to do if they are others.

    Raises:
        CacheError: they are of another encoder, or stored otherwise.
    """
    if found.fingerprint != expected.fingerprint:
        raise CacheError(
            "features of another encoder than acoustic.encoder, or stored otherwise",
            path=digest,
            found=f"{found.encoder} {found.fingerprint[:12]}",
            expected=f"{expected.encoder} {expected.fingerprint[:12]}, of {encoder}",
            fix=fix,
        )


def as_stored(features: np.ndarray, dtype: str) -> np.ndarray:
    """`features` as `dtype`; a value too large becomes infinite, which is refused."""
    with np.errstate(over="ignore"):
        return features.astype(dtype)


@dataclass(frozen=True)
class Runtime:
    """What an encoder runs in. Changes a feature by rounding at most."""

    device: torch.device
    backend: str  # onnx or torch
    workers: int
    tf32: bool


def choose_runtime(
    encoder: FrozenEncoder,
    params: AcousticParams,
    device: str,
    backend: str,
    workers: int,
) -> Runtime:
    """The runtime that a person asked for; see `run`.

    Raises:
        ConfigurationError: a device, backend or precision that does not go with the
            rest.
    """
    target = choose_device(device)
    chosen = _choose_backend(backend, target, encoder)
    _check_precision(params, target, encoder)
    return Runtime(target, chosen, workers, params.precision == "tf32")


def encode_recordings(
    todo: pd.DataFrame,
    audio: Path,
    encoder: FrozenEncoder,
    runtime: Runtime,
    *,
    graphs: Path,
    change: Change | None = None,
) -> Features:
    """Features of each recording, as if it were alone; to be closed if not exhausted.

    Args:
        todo: rows of the manifest, by rising length.
        audio: the folder that their paths are relative to.
        encoder: frozen.
        runtime: of `choose_runtime`.
        graphs: folder for the encoder's ONNX graph.
        change: what is done to each recording before; picklable.
    """
    if isinstance(encoder, Checkpoint) and runtime.backend == "onnx":
        return _by_onnx(todo, audio, graphs, encoder, runtime.workers, change)
    return _by_torch(todo, audio, encoder, runtime, change)


@torch.inference_mode()
def encode(
    encoder: Encoder, waves: list[np.ndarray], *, tf32: bool = False
) -> list[np.ndarray]:
    """e_acoust of each wave, (frames, 256) float32, as if it were alone.

    Args:
        encoder: frozen, on any device.
        waves: each (samples,) float32 at 16 kHz.
        tf32: whether CUDA may round the factors of products.
    """
    assert not encoder.training
    device = next(encoder.parameters()).device
    lengths = torch.tensor([len(wave) for wave in waves])
    # Pinned memory is copied to the device while this thread goes on.
    pinned = device.type == "cuda"
    batch = torch.zeros(len(waves), int(lengths.max()), pin_memory=pinned)
    for row, wave in enumerate(waves):
        batch[row, : len(wave)] = torch.from_numpy(wave)
    alike = bool((lengths == lengths[0]).all())
    counts = None if alike else lengths.to(device)
    # By default cuDNN rounds to TF32, whose error is a thousand times float32's.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
        features = encoder(batch.to(device, non_blocking=True), counts).cpu().numpy()
    return [
        features[row, : frame_count(len(wave))].copy() for row, wave in enumerate(waves)
    ]


def _choose_backend(name: str, device: torch.device, encoder: FrozenEncoder) -> str:
    if name not in BACKENDS:
        raise ConfigurationError(
            "unknown backend",
            found=repr(name),
            expected=f"one of {', '.join(BACKENDS)}",
        )
    if name == "onnx" and device.type != "cpu":
        raise ConfigurationError(
            "the onnx backend runs on the CPU alone",
            found=f"device {device.type}",
            fix="use --backend torch, or --device cpu",
        )
    ours = isinstance(encoder, Checkpoint)
    if name == "onnx" and not ours:
        raise ConfigurationError(
            "the onnx backend runs the phoneme/word encoder alone",
            found=encoder.description,
            fix="use --backend torch",
        )
    if name == "auto":
        name = "onnx" if device.type == "cpu" and ours else "torch"
    return name


def _check_precision(
    params: AcousticParams, device: torch.device, encoder: FrozenEncoder
) -> None:
    ours = isinstance(encoder, Checkpoint)
    if params.precision == "tf32" and not (ours and device.type == "cuda"):
        raise ConfigurationError(
            "precision tf32 is for the phoneme/word encoder on CUDA",
            found=f"{encoder.description} on {device.type}",
            fix="set acoustic.precision to float32",
        )


def _graph(cache: Path, checkpoint: Checkpoint) -> Path:
    """The encoder's ONNX graph, beside the parts in place of another's."""
    from stages.acoustic.graph import build_graph

    path = cache / f"encoder-{checkpoint.fingerprint[:32]}.onnx"
    graph = build_graph(checkpoint.encoder)
    # Built anew in hundredths of a second, since a damaged file would give features
    # that nobody could tell from right ones.
    if not path.is_file() or path.read_bytes() != graph:
        try:
            for other in cache.glob("encoder-*.onnx"):
                other.unlink()
            with atomic_path(path) as beside:
                beside.write_bytes(graph)
        except OSError as error:
            raise unwritable(path, error) from error
    return path


def _by_onnx(
    todo: pd.DataFrame,
    audio: Path,
    graphs: Path,
    checkpoint: Checkpoint,
    workers: int,
    change: Change | None,
) -> Features:
    from stages.acoustic.onnx_encoder import Session, encode_in_processes

    if todo.empty:
        return
    graph = _graph(graphs, checkpoint)
    batches = _batches(todo, _BATCH_SECONDS["cpu"])
    if workers == 1 or todo["seconds"].sum() < _PROCESSES_SECONDS:
        yield from _encode_here(batches, audio, Session(graph).encode, 1, change)
        return
    recordings = (
        [(audio / row.path, row.audio_sha256) for row in batch] for batch in batches
    )
    encoded = encode_in_processes(recordings, graph, workers, change)
    with closing(encoded):
        for batch, features in zip(batches, encoded, strict=True):
            yield from zip(batch, features, strict=True)


def _by_torch(
    todo: pd.DataFrame,
    audio: Path,
    encoder: FrozenEncoder,
    runtime: Runtime,
    change: Change | None,
) -> Features:
    device, threads = runtime.device, runtime.workers
    batches = _batches(todo, _BATCH_SECONDS[device.type])
    if not isinstance(encoder, Checkpoint):
        theirs = encoder.to(device).encode
        yield from _encode_here(batches, audio, theirs, threads, change)
        return
    ours = encoder.encoder.to(device)
    with one_thread():
        run = partial(encode, ours, tf32=runtime.tf32)
        yield from _encode_here(batches, audio, run, threads, change)


def _batches(todo: pd.DataFrame, seconds: float) -> list[list[Any]]:
    """Rows, by rising length, in batches of about so many seconds with padding."""
    batches: list[list[Any]] = [[]]
    for row in todo.itertuples(index=False):
        longest = max(row.seconds, LEAST_SECONDS)
        if batches[-1] and (len(batches[-1]) + 1) * longest > seconds:
            batches.append([])
        batches[-1].append(row)
    return batches if batches[-1] else []


def _encode_here(
    batches: Sequence[list[Any]],
    audio: Path,
    encode: Encode,
    threads: int,
    change: Change | None,
) -> Features:
    """Encode in this process, while threads read the batch after."""
    with ThreadPoolExecutor(threads) as pool:

        def start(batch: list[Any]) -> list[Any]:
            return [
                pool.submit(try_audio, audio / row.path, row.audio_sha256, change)
                for row in batch
            ]

        ahead = start(batches[0]) if batches else []
        try:
            for batch, after in pairwise([*batches, []]):
                loaded = [future.result() for future in ahead]
                ahead = start(after)
                yield from zip(batch, encode_good(encode, loaded), strict=True)
        finally:
            for future in ahead:
                future.cancel()
