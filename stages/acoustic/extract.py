"""Extraction: every recording of the manifest through the frozen encoder, once.

Reads the manifest, the recordings that are not cached yet, and the encoder. Writes
parts of the feature cache, its digest, and `quarantine.csv`: the recordings that were
set aside. A recording is known by the hash of its bytes and the encoder by the
fingerprint of its weights, front end and resampling; what is cached for that pair is
never computed again. An interrupted run keeps its finished parts, and the next one goes
on from there.
"""

import logging
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

from stages.acoustic.audio import RESAMPLING, Change, encode_good, try_audio
from stages.acoustic.checkpoint import Checkpoint, load_checkpoint
from stages.acoustic.encoder import Encoder
from stages.acoustic.frames import LEAST_SECONDS, SAMPLE_RATE, frame_count
from stages.acoustic.params import AcousticParams
from stages.atomic import atomic_path
from stages.cache import CacheWriter, Header, unwritable, write_digest
from stages.errors import CacheError, ConfigurationError, InputError, RecordingError
from stages.manifest import read_manifest, write_quarantine
from stages.provenance import fingerprint
from stages.runtime import choose_device, one_thread, progress

if TYPE_CHECKING:
    from stages.acoustic.huggingface import PretrainedEncoder

log = logging.getLogger(__name__)

# About 20 minutes of speech, 8 MB: what a killed run loses at most.
PART_FRAMES = 8192

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


@dataclass(frozen=True)
class Summary:
    """What the stage wrote."""

    cache: Path
    utterances: int
    extracted: int
    kept: int
    frames: int
    set_aside: int
    quarantine: Path

    def __str__(self) -> str:
        told = (
            f"{self.cache}: {self.utterances} utterances, {self.extracted} extracted "
            f"now ({self.frames} frames), {self.kept} kept"
        )
        if shared := self.utterances - self.extracted - self.kept:
            told += f", {shared} of the same bytes as another"
        if self.set_aside:
            told += f"; {self.set_aside} set aside, named in {self.quarantine}"
        return told


def run(
    params: AcousticParams,
    *,
    manifest: Path,
    audio: Path,
    cache: Path,
    digest: Path,
    quarantine: Path,
    on_error: str = "stop",
    longest_seconds: float = 120.0,
    device: str = "auto",
    workers: int = 2,
    backend: str = "auto",
) -> Summary:
    """Bring the cache up to the manifest, then write the digest.

    Args:
        params: encoder and storage.
        manifest: the utterance table.
        audio: the folder that its paths are relative to.
        cache: folder of the part files.
        digest: file that later stages depend on.
        quarantine: file that names the recordings set aside.
        on_error: what to do about a recording that is no audio, empty or too long:
            stop, or quarantine it.
        longest_seconds: of a recording.
        device: auto, cpu or cuda.
        workers: processes that read, resample and encode; on CUDA, threads that read
            and resample while the device encodes.
        backend: onnx (ONNX Runtime, on the CPU), torch, or auto: onnx for the
            phoneme/word encoder on the CPU, else torch. None of the three changes a
            feature by more than rounding.

    Raises:
        ConfigurationError: a backend or precision that does not go with the rest.
        InputError: no manifest, a bad checkpoint, or a recording that is missing or
            has changed; what was computed before it is kept.
        RecordingError: likewise, a recording is bad and `on_error` is stop.
        CacheError: a damaged part, or another run is writing.
    """
    table = read_manifest(manifest)
    encoder = load_encoder(params)
    header = feature_header(encoder, params)
    runtime = choose_runtime(encoder, params, device, backend, workers)
    bad: dict[str, RecordingError] = {}  # by hash of the bytes

    def refuse(row: Any, error: RecordingError) -> None:
        if on_error == "stop":
            raise error
        log.warning("set aside %s: %s", audio / row.path, error.reason)
        bad[row.audio_sha256] = error

    with CacheWriter(cache, header, part_frames=PART_FRAMES) as writer:
        # Of recordings with the same bytes, one is enough.
        distinct = table.drop_duplicates("audio_sha256").sort_values(["seconds", "id"])
        longest = min(longest_seconds, encoder.longest_seconds or longest_seconds)
        for row in distinct[distinct["seconds"] > longest].itertuples():
            error = _too_long(
                audio / row.path, row.seconds, longest_seconds, encoder.longest_seconds
            )
            refuse(row, error)
        absent = set(writer.missing(distinct["audio_sha256"])) - bad.keys()
        todo = distinct[distinct["audio_sha256"].isin(absent)]
        extracted = frames = 0
        features = encode_recordings(todo, audio, encoder, runtime, graphs=cache)
        bar = progress(total=len(todo), description="extracting", unit="file")
        # Closed at once if a feature is refused: processes may be at work for it.
        with bar, closing(features):
            for row, one in features:
                if isinstance(one, RecordingError):
                    refuse(row, one)
                else:
                    writer.add(row.id, row.audio_sha256, as_stored(one, params.dtype))
                    extracted += 1
                    frames += len(one)
                bar.update()
        writer.flush()
        good = table[~table["audio_sha256"].isin(bad)]
        _write_quarantine(quarantine, table, bad)
        if good.empty:
            raise InputError(
                "no recording of the manifest can be used",
                path=manifest,
                found=f"{len(table)} set aside",
                fix=f"see {quarantine}",
            )
        # Under the lock, since `cache gc` removes what the digest does not name.
        pairs = zip(good["id"], good["audio_sha256"], strict=True)
        write_digest(digest, cache, header.fingerprint, pairs)
    set_aside = len(table) - len(good)
    kept = good["audio_sha256"].nunique() - extracted
    return Summary(cache, len(good), extracted, kept, frames, set_aside, quarantine)


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
    from stages.acoustic.huggingface import load_pretrained

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


def _too_long(
    path: Path, seconds: float, longest: float, window: float | None
) -> RecordingError:
    """An error about a recording of more than `longest` seconds or the `window`."""
    limit = "corpus.longest_seconds"
    fix = "cut it, drop its row, raise that, or use --on-error quarantine"
    if window is not None and window <= longest:
        longest, limit = window, "the encoder's window"
        fix = "cut it, drop its row, or use --on-error quarantine"
    return RecordingError(
        "the recording is too long",
        path=path,
        found=f"{seconds:.1f} seconds",
        expected=f"at most {longest:g}, {limit}",
        fix=fix,
    )


def _write_quarantine(
    path: Path, table: pd.DataFrame, bad: dict[str, RecordingError]
) -> None:
    rows = table[table["audio_sha256"].isin(bad)]
    reasons = [bad[key].reason for key in rows["audio_sha256"]]
    write_quarantine(path, rows.assign(reason=reasons))


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
    from stages.acoustic.session import Session, encode_in_processes

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
