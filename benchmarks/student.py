"""Training speed of a student: an epoch of ALN at the size of Fluent Speech Commands.

Generates noise of the size of its train split, 23,132 utterances of 15.5 frames on
average, 256 values per frame, 31 intents, targets of 768 values for 248 texts, and
trains ALN (GRU of 128 per direction, batches of 64) for an epoch on one thread:

    student      as `aln-pipeline train-student` does: folded products, batches of
                 utterances of similar length, gathered from memory
    literal      the same with the equations as in the paper
    loader       literal, from a DataLoader over an HDF5 file with one dataset per
                 utterance, in random order, padded to the longest of a batch
    loader, 1    the same with one worker process
    in the loop  literal, with the frozen encoder inside, as published by its authors;
                 on a sample of the batches, recordings already in memory

The competitors take turns. `s per epoch` is the median over turns, `times` the median
of the ratios to `student` within a turn. With `--device cuda`, after a warm-up epoch,
only `student` and `literal` are measured.

    python -m benchmarks.student [--utterances N] [--turns N] [--sample BATCHES]
        [--device cpu|cuda]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.extraction import publish
from stages.acoustic.checkpoint import load_checkpoint
from stages.acoustic.frames import FRAME_STEP
from stages.acoustic.params import AcousticParams
from stages.core.runtime import choose_device, one_thread
from stages.student.batches import Batch, Texts, Utterances
from stages.student.model import AcousticLinguisticNetwork, Output, losses
from stages.student.params import Architecture, StudentParams, Variant
from stages.student.training import train_epoch

_MEAN_FRAMES = 15.5
_DIM, _TARGET_DIM, _INTENTS, _TEXTS = 256, 768, 31, 248
_ALPHA = 0.5

Epoch = Callable[[], float]


class _Literal(AcousticLinguisticNetwork):
    """Equations 1 to 4 without folding."""

    def folded(self, features: Tensor, means: Tensor, lengths: Tensor) -> Output:
        return self(features, lengths)


class _UtteranceFile(Dataset):
    """One HDF5 dataset per utterance; the reading process opens the file."""

    def __init__(self, path: Path, data: Utterances) -> None:
        self.path, self.count = path, len(data)
        self.labels, self.texts, self.vectors = data.labels, data.texts, data.vectors
        self.file: h5py.File | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.file is None:
            self.file = h5py.File(self.path)
        assert self.texts is not None and self.vectors is not None
        features = torch.from_numpy(self.file[str(row)][:])
        return features, self.labels[row], self.vectors[self.texts[row]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--utterances", type=int, default=23_132)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    data = _noise(arguments.utterances, device)
    competitors: dict[str, Epoch] = {
        "student": _ours(AcousticLinguisticNetwork, data),
        "literal": _ours(_Literal, data),
    }
    with tempfile.TemporaryDirectory() as folder, one_thread():
        if device.type == "cpu":
            competitors |= _others(Path(folder), data, arguments.sample)
        else:
            for epoch in competitors.values():
                epoch()
        _measure(data, competitors, arguments.turns)


def _others(folder: Path, data: Utterances, sample: int) -> dict[str, Epoch]:
    path = folder / "utterances.h5"
    with h5py.File(path, "w") as file:
        for row, (start, length) in enumerate(
            zip(data.starts.tolist(), data.lengths.tolist(), strict=True)
        ):
            file[str(row)] = data.frames[start : start + length].numpy()
    return {
        "loader": _loader(path, data, workers=0),
        "loader, 1": _loader(path, data, workers=1),
        "in the loop": _in_the_loop(data, sample),
    }


def _measure(data: Utterances, competitors: dict[str, Epoch], turns: int) -> None:
    print(f"{len(data)} utterances, {len(data.frames)} frames")
    seconds = np.array(
        [[epoch() for epoch in competitors.values()] for _ in range(turns)]
    )
    times = np.median(seconds / seconds[:, :1], axis=0)
    for name, epoch, ratio in zip(
        competitors, np.median(seconds, axis=0), times, strict=True
    ):
        print(f"{name:12} {epoch:8.2f} s per epoch {ratio:7.2f} times")


def _noise(count: int, device: torch.device) -> Utterances:
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.gamma(12, _MEAN_FRAMES / 12, count), 4, 50).astype(int)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Utterances.from_arrays(
        generator.standard_normal((offsets[-1], _DIM), np.float32),
        offsets,
        generator.integers(0, _INTENTS, (count, 1)),
        said=generator.integers(0, _TEXTS, count),
        texts=_texts(generator, device),
        device=device,
    )


def _texts(generator: np.random.Generator, device: torch.device) -> Texts:
    vectors = generator.standard_normal((_TEXTS, _TARGET_DIM), np.float32)
    rows = torch.arange(_TEXTS, device=device)
    return Texts(torch.from_numpy(vectors).to(device), None, rows, rows[:, None])


def _start(
    kind: type[AcousticLinguisticNetwork], device: str | torch.device = "cpu"
) -> tuple[AcousticLinguisticNetwork, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = kind(
        system="aln",
        acoustic_dim=_DIM,
        linguistic_dim=_TARGET_DIM,
        values=[_INTENTS],
        architecture=Architecture(),
    ).to(device)
    return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def _ours(kind: type[AcousticLinguisticNetwork], data: Utterances) -> Epoch:
    model, optimiser = _start(kind, data.frames.device)
    generator = torch.Generator().manual_seed(1)
    variant = Variant("aln", _ALPHA, StudentParams())

    def epoch() -> float:
        began = time.perf_counter()
        train_epoch(model, optimiser, data, variant, generator)
        return time.perf_counter() - began

    return epoch


def _train(
    model: AcousticLinguisticNetwork,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Batch],
) -> float:
    """Seconds to make `batches` and train on them."""
    model.train()
    began = time.perf_counter()
    for batch in batches:
        output = model(batch.features, batch.lengths)
        loss = losses(output, batch.labels, batch.targets, _ALPHA, [_INTENTS])
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    return time.perf_counter() - began


def _collate(rows: list[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    features, labels, targets = zip(*rows, strict=True)
    padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
    lengths = torch.tensor([len(one) for one in features])
    return Batch(padded, padded, lengths, torch.stack(labels), torch.stack(targets))


def _loader(path: Path, data: Utterances, workers: int) -> Epoch:
    loader = DataLoader(
        _UtteranceFile(path, data),
        batch_size=StudentParams().batch_size,
        shuffle=True,
        num_workers=workers,
        collate_fn=_collate,
    )
    model, optimiser = _start(AcousticLinguisticNetwork)
    return lambda: _train(model, optimiser, loader)


def _in_the_loop(data: Utterances, sample: int) -> Epoch:
    """The time of an epoch, extrapolated from `sample` batches."""
    encoder = publish(load_checkpoint(Path(AcousticParams().encoder)).encoder)
    model, optimiser = _start(AcousticLinguisticNetwork)
    size = StudentParams().batch_size
    generator = np.random.default_rng(0)
    order = torch.from_numpy(generator.permutation(len(data)))[: sample * size]
    waves = [
        torch.from_numpy(
            generator.normal(0, 0.1, FRAME_STEP * length).astype(np.float32)
        )
        for length in data.lengths[order].tolist()
    ]

    def batches() -> Iterable[Batch]:
        for start in range(0, len(order), size):
            batch = data.gather(order[start : start + size])
            padded = nn.utils.rnn.pad_sequence(
                waves[start : start + size], batch_first=True
            )
            with torch.no_grad():
                features = encoder(padded)
            yield Batch(
                features, batch.means, batch.lengths, batch.labels, batch.targets
            )

    return lambda: _train(model, optimiser, batches()) * len(data) / len(order)


if __name__ == "__main__":
    main()
