"""Speed of extraction, compared with the encoder as its authors published it.

Writes a corpus of noise of the size of Fluent Speech Commands, 30,043 recordings of
2.3 s on average, and measures

    reference    the published way: PyTorch, zero-padded batches of 64, the sinc layer's
                 convolution once for each of its 80 filters; encoding only, on a
                 sample, recordings already in memory
    hoisted      the same with each convolution once
    extraction   all of `aln-pipeline extract-acoustic`, a process for each core: start,
                 read, hash, decode, encode, write the cache and the digest
    again        the same command with nothing to do
    one percent  the same command with one new recording in a hundred

and what a single process spends its time on.

    python -m benchmarks.extraction [--utterances N] [--sample N] [--folder DIR]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import soundfile
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.acoustic.checkpoint import Checkpoint, load_checkpoint
from stages.acoustic.encoder import Encoder, SincFilters
from stages.acoustic.encoding import feature_header
from stages.acoustic.frames import SINC_STRIDE
from stages.acoustic.graph import build_graph
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.acoustic.params import AcousticParams
from stages.acoustic.run import run
from stages.cache.store import CacheWriter
from stages.core.corpus_files import CorpusFiles
from stages.core.hashing import hash_file
from stages.core.manifest import COLUMNS, write_manifest
from stages.core.runtime import RunOptions, progress
from stages.speech.loading import SAMPLE_RATE, load_audio

_MEAN_SECONDS = 2.3
_BATCH = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=30_043)
    parser.add_argument("--sample", type=int, default=1280)
    parser.add_argument("--folder", type=Path, help="where the corpus is written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        _measure(Path(folder), arguments.utterances, arguments.sample)


def _measure(folder: Path, utterances: int, sample: int) -> None:
    checkpoint = load_checkpoint(Path(AcousticParams().encoder))
    encoder = checkpoint.encoder
    table = _speak(folder / "audio", utterances + utterances // 100)
    hours = table["seconds"][:utterances].sum() / 3600
    print(f"{utterances} recordings, {hours:.1f} h; {torch.get_num_threads()} threads")
    few = table[:sample]
    seconds = float(few["seconds"].sum())
    waves = [load_audio(folder / "audio" / path) for path in few["path"]]
    paces = {
        "reference": seconds / _encode_padded(publish(encoder), waves),
        "hoisted": seconds / _encode_padded(_copy(encoder), waves),
    }

    def timed(rows: pd.DataFrame) -> float:
        write_manifest(folder / "manifest.csv", rows)
        # In its own process, to measure its memory.
        code = f"from benchmarks.extraction import extract; extract({str(folder)!r})"
        began = time.perf_counter()
        with psutil.Popen([sys.executable, "-c", code]) as process:
            peaks.append(_watch(process))
        assert process.returncode == 0
        return time.perf_counter() - began

    peaks: list[float] = []
    took = timed(table[:utterances])
    paces["extraction"] = 3600 * hours / took
    again = timed(table[:utterances])
    more = timed(table)
    for name, pace in paces.items():
        ratio = pace / paces["reference"]
        print(f"{name:12} {pace:6.0f} x real time  {ratio:5.1f} x reference")
    print(f"again        {again:6.1f} s, {100 * again / took:.1f}% of extraction")
    print(f"one percent  {more:6.1f} s, {100 * more / took:.1f}% of extraction")
    print(f"peak memory  {peaks[0] / 1e9:.2f} GB, all processes together")
    print("one process spends")
    for name, share in _shares(folder, few, checkpoint, waves).items():
        print(f"  {name:20} {100 * share:5.1f}%")


def _watch(process: psutil.Popen) -> float:
    """Peak memory in bytes of a process and its children, until it ends."""
    most = 0
    while process.poll() is None:
        total = 0
        try:
            for one in (process, *process.children(recursive=True)):
                # Unique memory, since processes share the pages of libraries.
                total += one.memory_full_info().uss
        except psutil.NoSuchProcess:
            pass
        most = max(most, total)
        time.sleep(0.5)
    return most


def extract(folder: str) -> None:
    """Run the stage on the manifest and the recordings in `folder`."""
    run(
        AcousticParams(),
        CorpusFiles(Path(folder)),
        audio=Path(folder) / "audio",
        cache=Path(folder) / "acoustic",
        options=RunOptions(device="cpu", workers=torch.get_num_threads()),
    )


def _speak(folder: Path, count: int) -> pd.DataFrame:
    """Write noise of the lengths of short commands; returns its manifest."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.1, 60 * SAMPLE_RATE)
    rows = []
    for number in progress(range(count), description="writing recordings"):
        seconds = float(np.clip(generator.gamma(12, _MEAN_SECONDS / 12), 0.6, 8))
        start = int(generator.integers(len(noise) - 8 * SAMPLE_RATE))
        wave = noise[start : start + int(seconds * SAMPLE_RATE)]
        path = folder / f"{number:06d}.wav"
        soundfile.write(path, wave, SAMPLE_RATE, "PCM_16")
        rows.append(
            (
                f"noise/{number:06d}",
                path.name,
                ("valid", "test", "train")[min(number, 2)],
                "",
                "noise",
                "noise",
                len(wave) / SAMPLE_RATE,
                hash_file(path),
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


class _Published(SincFilters):
    """The sinc layer that computes the whole convolution once for each filter."""

    def forward(self, wave: Tensor) -> Tensor:
        bank = self.filter_bank()
        for _ in bank:
            found = functional.conv1d(
                wave[:, None], bank, stride=SINC_STRIDE, padding=self.taps // 2
            )
        return found


def publish(encoder: Encoder) -> Encoder:
    """A copy of `encoder` with the sinc layer as its authors published it."""
    layer = _Published(encoder.configuration.filters, encoder.configuration.taps)
    network = _copy(encoder)
    layer.load_state_dict(network.phoneme_layers["0"].state_dict())
    network.phoneme_layers["0"] = layer
    return network


def _copy(encoder: Encoder) -> Encoder:
    network = Encoder(encoder.configuration).eval()
    network.load_state_dict(encoder.state_dict())
    return network


@torch.inference_mode()
def _encode_padded(network: Encoder, waves: list[np.ndarray]) -> float:
    """Seconds for zero-padded batches in the corpus's order, without masking."""
    began = time.perf_counter()
    for start in range(0, len(waves), _BATCH):
        batch = [torch.from_numpy(wave) for wave in waves[start : start + _BATCH]]
        network(nn.utils.rnn.pad_sequence(batch, batch_first=True))
    return time.perf_counter() - began


def _shares(
    folder: Path, rows: pd.DataFrame, checkpoint: Checkpoint, waves: list[np.ndarray]
) -> dict[str, float]:
    """Shares of a single process's time."""
    graph = folder / "encoder.onnx"
    graph.write_bytes(build_graph(checkpoint.encoder))
    encoder = OnnxEncoder(graph)
    order = np.argsort([len(wave) for wave in waves], kind="stable")
    features: list[np.ndarray] = []
    paths = [folder / "audio" / path for path in rows["path"]]

    def encode() -> None:
        for start in range(0, len(order), 8):
            features.extend(
                encoder.encode([waves[i] for i in order[start : start + 8]])
            )

    def write() -> None:
        header = feature_header(checkpoint, AcousticParams())
        with CacheWriter(folder / "other", header) as writer:
            for place, one in zip(order, features, strict=True):
                writer.add(rows["id"][place], rows["audio_sha256"][place], one)

    seconds = {
        "reading and hashing": _seconds(lambda: [hash_file(path) for path in paths]),
        # Reads the file again, from memory.
        "decoding": _seconds(lambda: [load_audio(path) for path in paths]),
        "encoding": _seconds(encode),
        "writing": _seconds(write),
    }
    total = sum(seconds.values())
    return {name: value / total for name, value in seconds.items()}


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
