"""How fast is an epoch in random order? The cache compared to one dataset an utterance.

Writes noise of the size of Fluent Speech Commands (30,043 utterances with 15.5 frames
on average, 256 float32 values a frame) once for each of

    mapped       `CacheReader[key]`, an utterance at a time, memory-mapped from parts of
                 the usual size
    loaded       as students do: `CacheReader.load` once, which counts as opening, then
                 batches through `Utterances.gather`
    lhotse       its NumpyHdf5Writer and NumpyHdf5Reader: a dataset an utterance
    speechbrain  its CachedHDF5DynamicItem: the same, but checks first if it is cached
    datasets     a dataset an utterance through h5py alone
    contiguous   one dataset and its offsets through h5py: a part that is not mapped

and checks that each returns what was written. An epoch copies every value into batches
of 64 utterances, in random order, on one thread. Each competitor has its own files and
process and keeps its files open. The columns:

    write        seconds until everything is on disk
    disk         megabytes on disk
    open, first  seconds until utterances can be read, and for the first epoch, without
                 the files in the page cache
    epoch        seconds for a later epoch, median; the competitors take turns
    times        the same divided by an epoch of `mapped`, median; least: the minimum
    memory       peak megabytes above those before opening, without mapped files, which
                 the system can evict

    python -m benchmarks.cache [--utterances N] [--epochs N] [--folder DIR]

Competitors that are not installed are skipped; `pip install -e '.[bench]'` installs
them.
"""

import argparse
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import psutil
import torch

from stages.acoustic.frames import FRAME_STEP
from stages.cache.format import Header
from stages.cache.store import CacheReader, CacheWriter
from stages.core.hashing import hash_array, hash_bytes
from stages.core.runtime import one_thread
from stages.student.batches import Utterances

_MEAN_FRAMES = 15.5
_DIM = 256
_BATCH = 64

Epoch = Callable[[int], Iterator[tuple[Sequence[int], np.ndarray]]]
"""From a seed the batches of an epoch: rows (batch) and padded frames (batch, T, D)."""


@dataclass(frozen=True)
class Corpus:
    """U utterances, and the hashes of what must be read back."""

    ids: list[str]
    keys: list[str]
    lengths: list[int]  # frames
    hashes: list[str]  # of the features


@dataclass(frozen=True)
class Competitor:
    """How features (T, D) are written to a folder and read in an epoch."""

    write: Callable[[Path, Corpus, list[np.ndarray]], None]
    open: Callable[[Path, Corpus], Epoch]
    module: str = "h5py"  # that it needs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=30_043)
    parser.add_argument("--epochs", type=int, default=7, help="after the first")
    parser.add_argument("--folder", type=Path, help="where the features are written")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        _measure(Path(folder), arguments.utterances, arguments.epochs)


def _measure(folder: Path, utterances: int, epochs: int) -> None:
    corpus, features = _draw(utterances)
    total = sum(one.nbytes for one in features) / 1e6
    print(f"{utterances} utterances, {sum(corpus.lengths)} frames, {total:.0f} MB")
    names = []
    for name, competitor in COMPETITORS.items():
        if find_spec(competitor.module.partition(".")[0]):
            names.append(name)
        else:
            print(f"{name} is skipped: `pip install -e '.[bench]'` installs it")
    table = pd.DataFrame(index=names)
    for name in names:
        (folder / name).mkdir()
        table.loc[name, "write"] = _write(folder / name, name, corpus, features)
        sizes = [path.stat().st_size for path in (folder / name).iterdir()]
        table.loc[name, "disk"] = sum(sizes) / 1e6
    del features
    for name in names:
        _check(COMPETITORS[name].open(folder / name, corpus), corpus)
    with ExitStack() as stack:
        readers: dict[str, Connection] = {}
        for name in names:
            for path in (folder / name).iterdir():
                _flush(path, forget=True)
            reader = stack.enter_context(_reader(folder / name, name, corpus))
            table.loc[name, "open"], _ = reader.recv()
            reader.send(0)
            table.loc[name, "first"], _ = reader.recv()
            readers[name] = reader
        turns = pd.DataFrame(index=range(1, epochs + 1), columns=names, dtype=float)
        for seed in turns.index:
            # In random order, so that none always runs after the same one.
            for name in np.random.default_rng(seed).permutation(names):
                readers[name].send(seed)
                turns.loc[seed, name], table.loc[name, "memory"] = readers[name].recv()
    times = turns.div(turns["mapped"], axis=0)
    table["epoch"] = turns.median()
    table["times"], table["least"] = times.median(), times.min()
    table["memory"] = table.pop("memory")  # to the right
    formats = dict.fromkeys(table, "{:.2f}".format)
    formats |= dict.fromkeys(("disk", "memory"), "{:.0f}".format)
    print(table.to_string(formatters=formats))


def _draw(utterances: int) -> tuple[Corpus, list[np.ndarray]]:
    """Noise with the lengths of short commands."""
    generator = np.random.default_rng(0)
    drawn = generator.gamma(12, _MEAN_FRAMES / 12, utterances).clip(4, 50)
    lengths = drawn.round().astype(np.int64)
    frames = generator.standard_normal((lengths.sum(), _DIM), dtype=np.float32)
    features = np.split(frames, lengths.cumsum()[:-1])
    keys = [hash_bytes(b"%d" % number) for number in range(utterances)]
    corpus = Corpus(
        # As in Fluent Speech Commands.
        ids=[str(uuid.UUID(key[:32])) for key in keys],
        keys=keys,
        lengths=lengths.tolist(),
        hashes=[hash_array(one) for one in features],
    )
    return corpus, features


def _write(
    folder: Path, name: str, corpus: Corpus, features: list[np.ndarray]
) -> float:
    """Write `features`; return the seconds until they are on disk."""
    import_module(COMPETITORS[name].module)
    began = time.perf_counter()
    COMPETITORS[name].write(folder, corpus, features)
    for path in folder.iterdir():
        _flush(path)
    return time.perf_counter() - began


def _flush(path: Path, *, forget: bool = False) -> None:
    """Flush a file to disk; with `forget` also drop it from the page cache."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        if forget:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _check(epoch: Epoch, corpus: Corpus) -> None:
    """Check that an epoch returns every utterance as it was written."""
    seen: list[int] = []
    for rows, batch in epoch(0):
        for row, frames in zip(rows, batch, strict=True):
            features = frames[: corpus.lengths[row]]
            assert hash_array(features) == corpus.hashes[row], corpus.ids[row]
        seen += rows
    assert sorted(seen) == list(range(len(corpus.ids)))


@contextmanager
def _reader(folder: Path, name: str, corpus: Corpus) -> Iterator[Connection]:
    """A process that runs `_serve`, so that competitors do not share memory."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, folder, name, corpus))
    process.start()
    theirs.close()
    with ours:
        try:
            yield ours
        finally:
            process.terminate()
            process.join()


def _serve(pipe: Connection, folder: Path, name: str, corpus: Corpus) -> None:
    """Open, then run an epoch for each seed received, until the process is terminated.

    Sends the seconds of each, and the peak of the megabytes in use so far.
    """
    import_module(COMPETITORS[name].module)
    before, most = _memory(), 0
    with one_thread():
        began = time.perf_counter()
        epoch = COMPETITORS[name].open(folder, corpus)
        while True:
            seconds = time.perf_counter() - began
            most = max(most, _memory() - before)
            pipe.send((seconds, most / 1e6))
            seed = pipe.recv()
            began = time.perf_counter()
            for _ in epoch(seed):
                pass


def _memory() -> int:
    """Bytes that only this process uses, without mapped files."""
    found = psutil.Process().memory_info()
    return found.rss - found.shared


def _one_by_one(read: Callable[[int], np.ndarray], corpus: Corpus) -> Epoch:
    """Epochs of a competitor that returns the features (T, D) of one utterance."""
    shape = (_BATCH, max(corpus.lengths), _DIM)
    batch = np.zeros(shape, dtype=np.float32)

    def epoch(seed: int) -> Iterator[tuple[list[int], np.ndarray]]:
        order = np.random.default_rng(seed).permutation(len(corpus.ids)).tolist()
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            for place, row in enumerate(rows):
                features = read(row)
                batch[place, : len(features)] = features
            yield rows, batch[: len(rows)]

    return epoch


def _write_parts(folder: Path, corpus: Corpus, features: list[np.ndarray]) -> None:
    header = Header(
        kind="acoustic",
        encoder="noise",
        fingerprint="noise",
        parameters={},
        dim=_DIM,
        dtype="float32",
        frame_step=FRAME_STEP,
    )
    with CacheWriter(folder, header) as writer:
        for id, key, one in zip(corpus.ids, corpus.keys, features, strict=True):
            writer.add(id, key, one)


def _open_mapped(folder: Path, corpus: Corpus) -> Epoch:
    reader = CacheReader(folder)
    return _one_by_one(lambda row: reader[corpus.keys[row]], corpus)


def _open_loaded(folder: Path, corpus: Corpus) -> Epoch:
    frames, offsets = CacheReader(folder).load(corpus.keys)
    labels = np.zeros((len(corpus.keys), 1), dtype=np.int64)
    utterances = Utterances.from_arrays(frames, offsets, labels)

    def epoch(seed: int) -> Iterator[tuple[list[int], np.ndarray]]:
        generator = torch.Generator().manual_seed(seed)
        for rows in utterances.shuffled(_BATCH, generator):
            yield rows.tolist(), utterances.gather(rows).features.numpy()

    return epoch


def _write_lhotse(folder: Path, corpus: Corpus, features: list[np.ndarray]) -> None:
    from lhotse.features.io import NumpyHdf5Writer

    with NumpyHdf5Writer(folder / "features.h5") as writer:
        for id, one in zip(corpus.ids, features, strict=True):
            writer.write(id, one)


def _open_lhotse(folder: Path, corpus: Corpus) -> Epoch:
    from lhotse.features.io import NumpyHdf5Reader

    reader = NumpyHdf5Reader(folder / "features.h5")
    return _one_by_one(lambda row: reader.read(corpus.ids[row]), corpus)


def _write_speechbrain(
    folder: Path, corpus: Corpus, features: list[np.ndarray]
) -> None:
    from speechbrain.integrations.hdf5.cached_item import CachedHDF5DynamicItem

    computed = dict(zip(corpus.ids, features, strict=True))
    item = CachedHDF5DynamicItem(
        folder, takes=["id"], func=computed.get, provides=["features"]
    )
    for id in corpus.ids:
        item(id)
    item.hdf5file.close()


def _open_speechbrain(folder: Path, corpus: Corpus) -> Epoch:
    from speechbrain.integrations.hdf5.cached_item import CachedHDF5DynamicItem

    # All are cached, so no function is needed to compute them.
    item = CachedHDF5DynamicItem(
        folder, "r", takes=["id"], func=None, provides=["features"]
    )
    return _one_by_one(lambda row: item(corpus.ids[row]), corpus)


def _write_datasets(folder: Path, corpus: Corpus, features: list[np.ndarray]) -> None:
    with h5py.File(folder / "features.h5", "w") as file:
        for id, one in zip(corpus.ids, features, strict=True):
            file.create_dataset(id, data=one)


def _open_datasets(folder: Path, corpus: Corpus) -> Epoch:
    file = h5py.File(folder / "features.h5", "r")
    return _one_by_one(lambda row: file[corpus.ids[row]][:], corpus)


def _write_contiguous(folder: Path, corpus: Corpus, features: list[np.ndarray]) -> None:
    with h5py.File(folder / "features.h5", "w") as file:
        file.create_dataset("offsets", data=np.cumsum([0, *corpus.lengths]))
        file.create_dataset("frames", data=np.concatenate(features))


def _open_contiguous(folder: Path, corpus: Corpus) -> Epoch:
    file = h5py.File(folder / "features.h5", "r")
    frames, offsets = file["frames"], file["offsets"][:].tolist()
    return _one_by_one(lambda row: frames[offsets[row] : offsets[row + 1]], corpus)


COMPETITORS = {
    "mapped": Competitor(_write_parts, _open_mapped),
    "loaded": Competitor(_write_parts, _open_loaded),
    "lhotse": Competitor(_write_lhotse, _open_lhotse, "lhotse.features.io"),
    "speechbrain": Competitor(
        _write_speechbrain,
        _open_speechbrain,
        "speechbrain.integrations.hdf5.cached_item",
    ),
    "datasets": Competitor(_write_datasets, _open_datasets),
    "contiguous": Competitor(_write_contiguous, _open_contiguous),
}


if __name__ == "__main__":
    main()
