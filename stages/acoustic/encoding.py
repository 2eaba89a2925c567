"""Running a frozen encoder on recordings: which encoder, where, in which batches."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
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
from stages.cache.digest import digest_path, write_digest
from stages.cache.format import Header, unwritable
from stages.cache.store import CacheWriter
from stages.core.errors import CacheError, ConfigurationError, RecordingError
from stages.core.files import atomic_path
from stages.core.hashing import fingerprint
from stages.core.runtime import RunOptions, choose_device, one_thread, progress
from stages.speech.loading import (
    RESAMPLING,
    SAMPLE_RATE,
    Change,
    encode_good,
    try_audio,
)

if TYPE_CHECKING:
    from stages.acoustic.pretrained import PretrainedEncoder

BACKENDS = ("auto", "onnx", "torch")

# Seconds of audio in a batch; a batch has utterances of similar length.
_BATCH_SECONDS = {"cpu": 15.0, "cuda": 1200.0}

# Worker processes are started for at least this many seconds of audio.
_PROCESSES_SECONDS = 900.0

# Checkpoints of the phoneme/word encoder; anything else is a model of transformers.
_CHECKPOINTS = (".safetensors", ".pth", ".pt")

FrozenEncoder: TypeAlias = "Checkpoint | PretrainedEncoder"

Encode = Callable[[list[np.ndarray]], list[np.ndarray]]

Features = Generator[tuple[Any, np.ndarray | RecordingError], None, None]
"""Manifest rows, each with its features (frames, D) or the error of its recording."""


def load_encoder(params: AcousticParams) -> FrozenEncoder:
    """Load the encoder that the parameters name, frozen.

    Raises:
        ConfigurationError: parameters that this kind of encoder does not have.
        InputError: the encoder is missing or damaged.
    """
    if Path(params.encoder).suffix in _CHECKPOINTS:
        if (params.layer, params.pooling, params.revision) != (-1, 1, ""):
            raise ConfigurationError(
                "layer, pooling and revision are for encoders of transformers",
                found=f"encoder {params.encoder}",
                fix="leave out acoustic.layer, acoustic.pooling and acoustic.revision",
            )
        return load_checkpoint(Path(params.encoder))
    # Imported late: transformers takes seconds.
    from stages.acoustic.pretrained import load_pretrained

    return load_pretrained(
        params.encoder,
        revision=params.revision,
        layer=params.layer,
        pooling=params.pooling,
    )


def feature_header(encoder: FrozenEncoder, params: AcousticParams) -> Header:
    """The cache header of an encoder's features; its fingerprint identifies them."""
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
    """Check that cached features come from the configured encoder.

    Args:
        digest: path of the digest, for the error.
        found: its header.
        expected: the header that `feature_header` gives.
        encoder: the value of acoustic.encoder.
        fix: what to do if they differ.

    Raises:
        CacheError: they come from another encoder, or have another dtype.
    """
    if found.fingerprint != expected.fingerprint:
        raise CacheError(
            "features of another encoder than acoustic.encoder, or of another dtype",
            path=digest,
            found=f"{found.encoder} {found.fingerprint[:12]}",
            expected=f"{expected.encoder} {expected.fingerprint[:12]}, of {encoder}",
            fix=fix,
        )


def as_stored(features: np.ndarray, dtype: str) -> np.ndarray:
    """`features` as `dtype`. Too large a value becomes infinite; caches refuse that."""
    with np.errstate(over="ignore"):
        return features.astype(dtype)


@dataclass(frozen=True)
class Runtime:
    """What an encoder runs on. Changes features by rounding at most.

    Attributes:
        device: CPU or CUDA.
        backend: onnx or torch.
        workers: processes (onnx), or threads that read recordings.
        tf32: whether CUDA can round the factors of products.
    """

    device: torch.device
    backend: str
    workers: int
    tf32: bool


def choose_runtime(
    encoder: FrozenEncoder, params: AcousticParams, options: RunOptions
) -> Runtime:
    """Choose device and backend for an encoder.

    Backend `auto` is onnx for the phoneme/word encoder on a CPU, otherwise torch.

    Raises:
        ConfigurationError: a device, backend or precision that cannot be combined.
    """
    device, backend = choose_device(options.device), options.backend
    ours = isinstance(encoder, Checkpoint)
    if backend not in BACKENDS:
        raise ConfigurationError(
            "unknown backend",
            found=repr(backend),
            expected=f"one of {', '.join(BACKENDS)}",
        )
    if backend == "auto":
        backend = "onnx" if device.type == "cpu" and ours else "torch"
    if backend == "onnx" and device.type != "cpu":
        raise ConfigurationError(
            "the onnx backend runs on CPUs only",
            found=f"device {device.type}",
            fix="use --backend torch, or --device cpu",
        )
    if backend == "onnx" and not ours:
        raise ConfigurationError(
            "the onnx backend runs the phoneme/word encoder only",
            found=encoder.description,
            fix="use --backend torch",
        )
    tf32 = params.precision == "tf32"
    if tf32 and not (ours and device.type == "cuda"):
        raise ConfigurationError(
            "precision tf32 is for the phoneme/word encoder on CUDA",
            found=f"{encoder.description} on {device.type}",
            fix="set acoustic.precision to float32",
        )
    return Runtime(device, backend, options.workers, tf32)


def open_encoder(
    params: AcousticParams, found: Header, features: Path, options: RunOptions
) -> tuple[FrozenEncoder, Header, Runtime]:
    """Load the encoder of features that other recordings will be compared with.

    Args:
        params: name the encoder.
        found: the header of the features.
        features: their cache.
        options: how it runs.

    Returns:
        The encoder, the header of its features, and how it runs.

    Raises:
        CacheError: the features are of another encoder.
    """
    encoder = load_encoder(params)
    header = feature_header(encoder, params)
    check_features(
        digest_path(features),
        found,
        header,
        encoder=params.encoder,
        fix="run `aln-pipeline extract-acoustic`, then train the students",
    )
    return encoder, header, choose_runtime(encoder, params, options)


def encode_recordings(
    todo: pd.DataFrame,
    audio: Path,
    encoder: FrozenEncoder,
    runtime: Runtime,
    *,
    graphs: Path,
    change: Change | None = None,
) -> Features:
    """Encode recordings in batches; close the generator if you do not exhaust it.

    Features equal those of each recording encoded alone.

    Args:
        todo: rows of the manifest, shortest recording first.
        audio: folder that their paths are relative to.
        encoder: frozen.
        runtime: from `choose_runtime`.
        graphs: folder for the encoder's ONNX graph.
        change: applied to each recording first; must be picklable.
    """
    batches = _batches(todo, _BATCH_SECONDS[runtime.device.type])
    if runtime.backend == "onnx":
        assert isinstance(encoder, Checkpoint)
        yield from _by_onnx(batches, audio, graphs, encoder, runtime.workers, change)
        return
    run = choose_encode(encoder, runtime, graphs=graphs)
    yield from _encode_here(batches, audio, run, runtime.workers, change)


def choose_encode(encoder: FrozenEncoder, runtime: Runtime, *, graphs: Path) -> Encode:
    """The function that encodes waves in this process, each as if it were alone.

    Args:
        encoder: frozen.
        runtime: from `choose_runtime`.
        graphs: folder for the encoder's ONNX graph.
    """
    if not isinstance(encoder, Checkpoint):
        return encoder.to(runtime.device).encode
    if runtime.backend == "onnx":
        from stages.acoustic.onnx_encoder import OnnxEncoder

        return OnnxEncoder(_write_graph(graphs, encoder)).encode
    network = encoder.encoder.to(runtime.device)

    def run(waves: list[np.ndarray]) -> list[np.ndarray]:
        with one_thread():
            return encode(network, waves, tf32=runtime.tf32)

    return run


def cache_waves(
    cache: Path,
    header: Header,
    encode: Encode,
    rows: Sequence[tuple[str, str]],
    waves: Callable[[list[str]], Generator[tuple[str, np.ndarray], None, None]],
) -> int:
    """Bring the cache and the digest of recordings up to date that are in no file.

    Args:
        cache: its folder; the digest is written next to it.
        header: of the features.
        encode: from `choose_encode`.
        rows: id and key of every recording.
        waves: makes the recordings of these keys: key and samples, in any order. It is
            closed if a feature is refused.

    Returns:
        How many were encoded.
    """
    ids = {key: id for id, key in rows}
    with CacheWriter(cache, header) as writer:
        absent = writer.missing(ids)
        bar = progress(total=len(absent), description=header.kind, unit="recording")
        made = waves(absent)
        with bar, closing(made):
            for key, wave in made:
                (features,) = encode([wave])
                writer.add(ids[key], key, as_stored(features, header.dtype))
                bar.update()
        writer.flush()
        write_digest(digest_path(cache), cache, header.fingerprint, rows)
    return len(absent)


@torch.inference_mode()
def encode(
    encoder: Encoder, waves: list[np.ndarray], *, tf32: bool = False
) -> list[np.ndarray]:
    """e_acoust of each wave, (frames, 256) float32, as if it were encoded alone.

    Args:
        encoder: frozen, on any device.
        waves: each (samples,) float32 at 16 kHz.
        tf32: whether CUDA can round the factors of products.
    """
    assert not encoder.training
    device = next(encoder.parameters()).device
    lengths = torch.tensor([len(wave) for wave in waves])
    # From pinned memory, the copy to the device is asynchronous.
    pinned = device.type == "cuda"
    batch = torch.zeros(len(waves), int(lengths.max()), pin_memory=pinned)
    for row, wave in enumerate(waves):
        batch[row, : len(wave)] = torch.from_numpy(wave)
    alike = bool((lengths == lengths[0]).all())
    counts = None if alike else lengths.to(device)
    # By default cuDNN rounds to TF32, whose error is a thousand times that of float32.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
        features = encoder(batch.to(device, non_blocking=True), counts).cpu().numpy()
    return [
        features[row, : frame_count(len(wave))].copy() for row, wave in enumerate(waves)
    ]


def _batches(todo: pd.DataFrame, seconds: float) -> list[list[Any]]:
    """Rows, shortest first, in batches of at most `seconds` of audio and padding."""
    batches: list[list[Any]] = [[]]
    for row in todo.itertuples(index=False):
        longest = max(row.seconds, LEAST_SECONDS)
        if batches[-1] and (len(batches[-1]) + 1) * longest > seconds:
            batches.append([])
        batches[-1].append(row)
    return batches if batches[-1] else []


def _by_onnx(
    batches: Sequence[list[Any]],
    audio: Path,
    graphs: Path,
    checkpoint: Checkpoint,
    workers: int,
    change: Change | None,
) -> Features:
    """Encode with ONNX Runtime, in worker processes if there is enough to do."""
    from stages.acoustic.onnx_encoder import OnnxEncoder, encode_in_processes

    if not batches:
        return
    graph = _write_graph(graphs, checkpoint)
    seconds = sum(row.seconds for batch in batches for row in batch)
    if workers == 1 or seconds < _PROCESSES_SECONDS:
        run = OnnxEncoder(graph).encode
        yield from _encode_here(batches, audio, run, 1, change)
        return
    recordings = (
        [(audio / row.path, row.audio_sha256) for row in batch] for batch in batches
    )
    with closing(encode_in_processes(recordings, graph, workers, change)) as encoded:
        for batch, features in zip(batches, encoded, strict=True):
            yield from zip(batch, features, strict=True)


def _write_graph(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the encoder's ONNX graph to `folder`, replacing another encoder's."""
    from stages.acoustic.graph import build_graph

    path = folder / f"encoder-{checkpoint.fingerprint[:32]}.onnx"
    # Building takes hundredths of a second, and a damaged graph would go unnoticed.
    graph = build_graph(checkpoint.encoder)
    if not path.is_file() or path.read_bytes() != graph:
        try:
            for other in folder.glob("encoder-*.onnx"):
                other.unlink()
            with atomic_path(path) as temporary:
                temporary.write_bytes(graph)
        except OSError as error:
            raise unwritable(path, error) from error
    return path


def _encode_here(
    batches: Sequence[list[Any]],
    audio: Path,
    encode: Encode,
    threads: int,
    change: Change | None,
) -> Features:
    """Encode in this process, while threads read the next batch."""
    with ThreadPoolExecutor(threads) as pool:

        def start(batch: list[Any]) -> list[Any]:
            return [
                pool.submit(try_audio, audio / row.path, row.audio_sha256, change)
                for row in batch
            ]

        ahead = start(batches[0]) if batches else []
        try:
            for batch, following in pairwise([*batches, []]):
                loaded = [future.result() for future in ahead]
                ahead = start(following)
                yield from zip(batch, encode_good(encode, loaded), strict=True)
        finally:
            for future in ahead:
                future.cancel()
