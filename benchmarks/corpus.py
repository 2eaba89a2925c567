"""The time of `prepare-corpus`, compared with decoding every recording.

Writes a corpus in the layout of Fluent Speech Commands: three tables and recordings of
noise, by default 30,043 of 2.3 s on average. Then measures, each in a new process and
including its start:

    decoding   the usual way: decode each recording with soundfile for its length, and
               read it again for its hash, on one thread
    cold       `aln-pipeline prepare-corpus` for the first time
    warm       again, without changes
    changed    again, after 1% of the recordings changed

The files are in the system's page cache, so disk speed is not measured. All four must
find the same lengths and hashes.

    python -m benchmarks.corpus [--utterances N] [--folder DIR]
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from stages.core.hashing import hash_file
from stages.core.manifest import SPLITS, read_manifest
from stages.core.runtime import progress

_MEAN_SECONDS = 2.3
_RATE = 16_000
_ROOT = "corpus"
_HEADING = "path,speakerId,transcription,action,object,location"
_SHARES = {"train": 0.77, "valid": 0.1, "test": 0.13}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=30_043)
    parser.add_argument("--folder", type=Path, help="where to write the corpus")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        _measure(Path(folder), arguments.utterances)


def _measure(folder: Path, utterances: int) -> None:
    paths = _write(folder / _ROOT, utterances)
    (folder / "params.yaml").write_text("corpus: {name: fsc, adapter: fsc}")
    print(f"{utterances} recordings; {os.cpu_count()} CPUs")
    took = {"decoding": _timed("decode", folder)}
    took["cold"] = _timed("prepare-corpus", folder)
    _compare(folder)
    took["warm"] = _timed("prepare-corpus", folder)
    _compare(folder)
    for path in paths[::100]:
        samples, _ = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[::-1], _RATE, "PCM_16")
    took["changed"] = _timed("prepare-corpus", folder)
    _timed("decode", folder)
    _compare(folder)
    for name, seconds in took.items():
        ratio = took["decoding"] / seconds
        print(f"{name:10} {seconds:6.1f} s  {ratio:6.1f} x the speed of decoding")


def _timed(action: str, folder: Path) -> float:
    code = {
        "prepare-corpus": "from pipeline.cli import main; main()",
        "decode": "from benchmarks.corpus import decode; decode()",
    }[action]
    # The working directory is another one.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, "prepare-corpus", "--root", _ROOT],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began


def decode() -> None:
    """Write the length and hash of each recording in the working directory."""
    root = Path(_ROOT)
    rows = []
    for split in SPLITS:
        for path in pd.read_csv(root / "data" / f"{split}_data.csv")["path"]:
            samples, rate = soundfile.read(root / path, dtype="float32")
            rows.append((path, len(samples) / rate, hash_file(root / path)))
    table = pd.DataFrame(rows, columns=["path", "seconds", "audio_sha256"])
    table.to_csv("decoded.csv", index=False, float_format="%.4f")


def _compare(folder: Path) -> None:
    found = read_manifest(folder / "cache" / "fsc" / "manifest.csv")
    expected = pd.read_csv(folder / "decoded.csv")
    pd.testing.assert_frame_equal(
        found[list(expected)].sort_values("path", ignore_index=True),
        expected.sort_values("path", ignore_index=True),
    )


def _write(root: Path, count: int) -> list[Path]:
    """Write noise as long as spoken commands, and the tables."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.1, 60 * _RATE)
    (root / "data").mkdir(parents=True)
    counts = [round(share * count) for share in _SHARES.values()]
    splits = np.repeat(list(_SHARES), [count - sum(counts[1:]), *counts[1:]])
    streams = {name: (root / "data" / f"{name}_data.csv").open("w") for name in SPLITS}
    tables = {name: csv.writer(stream) for name, stream in streams.items()}
    for table in tables.values():
        table.writerow(_HEADING.split(","))
    paths = []
    for number, split in progress(
        list(enumerate(splits)), description="writing recordings"
    ):
        seconds = float(np.clip(generator.gamma(12, _MEAN_SECONDS / 12), 0.6, 8))
        start = int(generator.integers(len(noise) - 8 * _RATE))
        speaker = f"{split}-{number % 30}"
        path = f"wavs/speakers/{speaker}/{number:06d}.wav"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        wave = noise[start : start + int(seconds * _RATE)]
        soundfile.write(root / path, wave, _RATE, "PCM_16")
        action = ("make", "stop")[number % 2]
        tables[split].writerow([path, speaker, "noise", action, "noise", "none"])
        paths.append(root / path)
    for stream in streams.values():
        stream.close()
    return paths


if __name__ == "__main__":
    main()
