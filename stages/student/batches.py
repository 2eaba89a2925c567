"""One split of the corpus in memory, and the batches that are gathered from it."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

# Batches are cut from utterances sorted by length within so many batches: enough for
# neighbours of nearly one length, few enough that batches differ from epoch to epoch.
_SORTED_BATCHES = 8
_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Batch:
    """Some utterances, padded on the right to the longest of them."""

    features: Tensor  # e_acoust (batch, frames, D); padding repeats the last frame
    means: Tensor  # of the features over an utterance's frames (batch, D)
    lengths: Tensor  # frames (batch), on the CPU
    labels: Tensor  # class numbers (batch, slots); -1 where unlabelled
    targets: Tensor | None  # E_lang (batch, H)
    posteriors: Tensor | None = None  # the teacher's (batch, values of all slots)


@dataclass(frozen=True)
class Texts:
    """What the teacher makes of each distinct text, and labelled ones.

    Attributes:
        vectors: E_lang (K, H).
        posteriors: its probabilities (K, values of all slots); None without them.
        rows: of labelled texts in `vectors` (T) int64.
        labels: of these texts (T, slots) int64.
    """

    vectors: Tensor
    posteriors: Tensor | None
    rows: Tensor
    labels: Tensor

    def standardised(self, mean: Tensor, deviation: Tensor) -> "Texts":
        """The same with each value of E_lang less its mean and over its deviation."""
        return replace(self, vectors=(self.vectors - mean) / deviation)

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """E_lang (size, H) and labels (size, slots) of labelled texts at random."""
        rows = torch.randint(len(self.rows), (size,), generator=generator)
        rows = rows.to(self.rows.device)
        return self.vectors[self.rows[rows]], self.labels[rows]


@dataclass(frozen=True)
class Utterances:
    """A split's features, end to end, on the device; `lengths` stays on the CPU."""

    frames: Tensor  # (N, D) float32
    starts: Tensor  # first frame of each utterance (U) int64
    lengths: Tensor  # (U) int64
    means: Tensor  # (U, D)
    labels: Tensor  # (U, slots) int64; -1 where unlabelled, and these come last
    said: Tensor | None  # row of its text in `texts.vectors` (U) int64
    texts: Texts | None

    @classmethod
    def from_arrays(
        cls,
        frames: np.ndarray,
        offsets: np.ndarray,
        labels: np.ndarray,
        *,
        said: np.ndarray | None = None,
        texts: Texts | None = None,
        device: torch.device | None = None,
    ) -> "Utterances":
        """Utterance u is frames[offsets[u]:offsets[u + 1]], of at least one frame.

        Args:
            frames: (N, D).
            offsets: (U + 1) int64.
            labels: (U, slots) int64.
            said: (U) int64, rows of `texts.vectors`; None without targets.
            texts: on the device; None without targets.
            device: where the tensors go.
        """
        lengths = np.diff(offsets)
        assert lengths.min() > 0
        # One at a time: `reduceat` in another dtype takes ten times as long.
        sums = np.stack(
            [
                frames[start:stop].sum(axis=0, dtype=np.float64)
                for start, stop in pairwise(offsets)
            ]
        )
        means = (sums / lengths[:, None]).astype(frames.dtype)
        return cls(
            frames=torch.from_numpy(frames).to(device),
            starts=torch.from_numpy(offsets[:-1]).to(device),
            lengths=torch.from_numpy(lengths),
            means=torch.from_numpy(means).to(device),
            labels=torch.from_numpy(labels).to(device),
            said=None if said is None else torch.from_numpy(said).to(device),
            texts=texts,
        )

    def __len__(self) -> int:
        """The number of utterances."""
        return len(self.lengths)

    @property
    def labelled(self) -> "Utterances":
        """Those with a label; the others come last."""
        count = int((self.labels[:, 0] >= 0).sum())
        if count == len(self):
            return self
        return replace(
            self,
            starts=self.starts[:count],
            lengths=self.lengths[:count],
            means=self.means[:count],
            labels=self.labels[:count],
            said=None if self.said is None else self.said[:count],
        )

    def gather(self, rows: Tensor) -> Batch:
        """The utterances numbered `rows` (batch, on the CPU) as a batch."""
        lengths = self.lengths[rows]
        rows = rows.to(self.starts.device)
        steps = torch.arange(int(lengths.max()))  # (frames)
        # (batch, frames)
        within = torch.minimum(steps, lengths[:, None] - 1).to(self.starts.device)
        places = self.starts[rows, None] + within
        targets, posteriors = None, None
        if self.said is not None and self.texts is not None:
            said = self.said[rows]
            targets = self.texts.vectors[said]
            if self.texts.posteriors is not None:
                posteriors = self.texts.posteriors[said]
        return Batch(
            features=self.frames[places],
            means=self.means[rows],
            lengths=lengths,
            labels=self.labels[rows],
            targets=targets,
            posteriors=posteriors,
        )

    def shuffled(self, size: int, generator: torch.Generator) -> list[Tensor]:
        """An epoch's batches in random order: each a tensor of rows.

        Every utterance once; those of one batch have nearly one length.
        """
        order = torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for chunk in order.split(size * _SORTED_BATCHES):
            batches += chunk[self.lengths[chunk].argsort(stable=True)].split(size)
        places = torch.randperm(len(batches), generator=generator)
        return [batches[place] for place in places.tolist()]

    @cached_property
    def by_length(self) -> tuple[Tensor, ...]:
        """Batches for evaluation, from the shortest utterances to the longest."""
        return self.lengths.argsort(stable=True).split(_EVALUATION_BATCH)
