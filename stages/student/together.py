"""Training several students in one computation, each as it would be alone.

Each student has its own initialisation, order of batches and dropout, drawn from its
seed as `train_student` draws them, and its own α and learning rate; at every step each
one takes the next of its own batches. So each becomes what it is alone, up to rounding.
On CUDA the step is captured as a graph, and no more than the rows of the batches go
from the CPU to the device.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.core.errors import PipelineError
from stages.core.runtime import seed_everything
from stages.student.batches import Utterances
from stages.student.capture import CapturedStep, Step
from stages.student.model import AcousticLinguisticNetwork
from stages.student.params import StudentParams
from stages.student.stacked import StackedAdam, StackedNetworks
from stages.student.training import (
    Record,
    Student,
    check_row,
    is_late,
    read_checkpoint,
    write_checkpoint,
)

# Of each student: with many of them that fills a GPU, and spares its memory.
_EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Member:
    """One of the students that are trained together.

    Attributes:
        number: by which a failure is told apart; it decides nothing.
        params: how it is trained; alike for all but for learning rate and dropout.
        network: arguments of `AcousticLinguisticNetwork`; alike but for dropout.
        alpha: α of eq. 4; None for baseline2.
        seed: of weights, order and dropout.
    """

    number: int
    params: StudentParams
    network: dict[str, Any]
    alpha: float | None
    seed: int


class Failure(NamedTuple):
    """A student whose loss became no number; the others go on."""

    number: int
    error: PipelineError


Training = Generator[Failure | None, None, list[Student | None]]
"""None after each epoch of each member; returns what they became, None if it failed."""


def train_together(
    members: Sequence[Member],
    *,
    train: Utterances,
    valid: Utterances,
    checkpoint: Path | None = None,
    identity: str = "",
) -> Training:
    """Train `members`, each on `train` with its epoch selected on `valid`.

    Args:
        members: the students.
        train: what they are trained on.
        valid: what their epochs are selected on.
        checkpoint: the file that a run which was killed goes on from, to the same
            bits; one for all, since what each becomes depends on the others by
            rounding. None if it need not.
        identity: of all that decides what the students become, in their order.
    """
    together = Together(members, train, valid)
    if checkpoint is not None:
        together.keep_in(checkpoint, identity)
    return (yield from together.train())


@dataclass
class _Random:
    """What a student draws from, as `train_student` would."""

    order: torch.Generator
    dropout: torch.Generator = field(default_factory=torch.Generator)

    def state(self) -> list[Tensor]:
        return [self.order.get_state(), self.dropout.get_state()]

    def set_state(self, states: list[Tensor]) -> None:
        self.order.set_state(states[0])
        self.dropout.set_state(states[1])


class Together:
    """S students with their optimiser, as they are between two epochs.

    Args:
        members: the students.
        train: what they are trained on; float64 features give float64 students.
        valid: what the epoch is selected on.
        captures: whether the step is captured as a CUDA graph. False takes it from
            the same buffers, uncaptured; None captures on CUDA, and needs no buffers
            elsewhere.
    """

    def __init__(
        self,
        members: Sequence[Member],
        train: Utterances,
        valid: Utterances,
        captures: bool | None = None,
    ) -> None:
        self.members, self.train_split, self.valid = members, train, valid
        self.params = members[0].params
        self.records = [Record.begin() for _ in members]
        self.live = set(range(len(members)))  # whose loss is a number
        self._errors: dict[int, PipelineError] = {}  # of the others
        self._checkpoint: Path | None = None
        self._identity = ""
        self._random: list[_Random] = []
        models = []
        for one in members:
            random = _Random(seed_everything(one.seed))
            model = AcousticLinguisticNetwork(**one.network)
            # Alone, dropout goes on drawing where the initialisation ended.
            random.dropout.set_state(torch.get_rng_state())
            models.append(model.to(train.frames))
            self._random.append(random)
        self.networks = StackedNetworks(models)
        rates = [one.params.learning_rate for one in members]
        self.adam = StackedAdam(self.networks.values, rates, self.params.betas)
        self._dropout = [one.params.dropout for one in members]
        self._states = models[0].classifier.in_features
        device = train.frames.device
        alphas = [one.alpha or 0.0 for one in members]
        shares = [alphas, [1 - alpha for alpha in alphas]]
        self._shares = torch.tensor(shares, dtype=train.frames.dtype, device=device)
        # Sums over an epoch's utterances: loss, transfer loss, intent loss, accuracy.
        self._sums = torch.zeros(len(members), 4, dtype=torch.float64, device=device)
        self._step: Step = self.step
        if captures is None and device.type == "cuda":
            captures = True
        if captures is not None:
            self._step = CapturedStep(
                self.step,
                students=len(members),
                batch=min(self.params.batch_size, len(train)),
                states=self._states if any(self._dropout) else None,
                like=train.frames,
                captures=captures,
            )

    def keep_in(self, checkpoint: Path, identity: str) -> None:
        """Write checkpoints to a file, and go on from what it has of `identity`."""
        self._checkpoint, self._identity = checkpoint, identity
        state = read_checkpoint(checkpoint, identity)
        if state is None:
            return
        self.records = [Record(kept) for kept in state["kept"]]
        self.networks.values.copy_(state["values"])
        self.adam.set_state(state["optimiser"])
        for random, states in zip(self._random, state["random"], strict=True):
            random.set_state(states)
        for number, text in state["failed"].items():
            self._fail(number, PipelineError(text))

    @property
    def epochs(self) -> int:
        """How many have been trained."""
        return max(record.epochs for record in self.records)

    def _fail(self, number: int, error: PipelineError) -> Failure:
        """Look no longer at what a student computes; its row stays, see `keep_in`."""
        self.live.discard(number)
        self._errors[number] = error
        return Failure(self.members[number].number, error)

    def train(self) -> Training:
        """Train to the last epoch."""
        labels = self.valid.labels.cpu()
        saved = time.monotonic()
        for number, error in sorted(self._errors.items()):
            yield Failure(self.members[number].number, error)
        for _ in range(sum(record.epochs for record in self.records)):
            yield None
        for epoch in range(self.epochs + 1, self.params.epochs + 1):
            rows = {}
            for number, figures in enumerate(self.train_epoch()):
                if number not in self.live:
                    continue
                try:
                    rows[number] = check_row(self.networks.form.system, figures)
                except PipelineError as error:
                    yield self._fail(number, error)
            if not self.live:
                break
            logits = self.classify(self.valid)
            better = []
            for number, row in rows.items():
                try:
                    if self.records[number].add(
                        self.networks.form.system,
                        {"seed": self.members[number].seed, "epoch": epoch, **row},
                        logits[number],
                        labels,
                        self.params,
                    ):
                        better.append(number)
                except PipelineError as error:
                    yield self._fail(number, error)
            values = self.networks.values.cpu() if better else self.networks.values
            for number in better:
                weights = self.networks.unstacked(values[number])
                self.records[number].keep(weights, logits[number].clone())
            if self.members[0].alpha is not None and epoch in (1, self.params.epochs):
                for record, one in zip(self.records, self._pooled(), strict=True):
                    record.pooled.append(one.clone())
            if is_late(saved) or epoch == self.params.epochs:
                self._save()
                saved = time.monotonic()
            for _ in self.live:
                yield None
        return [
            record.student(one.seed, one.network) if number in self.live else None
            for number, (one, record) in enumerate(
                zip(self.members, self.records, strict=True)
            )
        ]

    def train_epoch(self) -> list[list[float]]:
        """One pass over train of each; the values of `check_row` of each."""
        self._sums.zero_()
        for rows, frames, kept in self._batches():
            self._step(rows, frames, kept)
        figures: list[list[float]] = (self._sums / len(self.train_split)).tolist()
        return figures

    def _batches(self) -> Iterator[tuple[Tensor, int, Tensor | None]]:
        """The arguments of an epoch's steps; a batch is as wide as the widest."""
        size, lengths = self.params.batch_size, self.train_split.lengths
        orders = [
            self.train_split.shuffled(size, random.order) for random in self._random
        ]
        padded = [pad_sequence(order, True, padding_value=-1) for order in orders]
        schedule = torch.stack(padded, dim=1)  # (steps, S, batch)
        counts = (schedule >= 0).sum(2)  # (steps, S)
        longest = torch.where(schedule >= 0, lengths[schedule], 0).amax((1, 2))
        on_device = schedule.to(self.train_split.frames.device)
        for step, (own, frames) in enumerate(
            zip(counts.tolist(), longest.tolist(), strict=True)
        ):
            kept = self._drop(own) if any(self._dropout) else None
            yield on_device[step, :, : max(own)], frames, kept

    def _drop(self, counts: Sequence[int]) -> Tensor:
        """What dropout multiplies pooled states with: (S, batch, states).

        Drawn on the CPU, as `nn.Dropout` does there; the same for every device.
        """
        frames = self.train_split.frames
        kept = torch.ones(len(counts), max(counts), self._states, dtype=frames.dtype)
        for number, (count, share) in enumerate(
            zip(counts, self._dropout, strict=True)
        ):
            if share:
                drawn = torch.empty(count, self._states, dtype=frames.dtype)
                drawn.bernoulli_(1 - share, generator=self._random[number].dropout)
                kept[number, :count] = drawn.div_(1 - share)
        return kept.to(frames.device)

    def step(self, rows: Tensor, frames: int, kept: Tensor | None) -> None:
        """See `Step`."""
        split = self.train_split
        there = rows >= 0  # (S, batch)
        rows = rows.clamp(min=0)
        counts = there.sum(1).to(split.frames.dtype)  # (S)
        # So that a mean is a sum of real utterances.
        shares = there / counts[:, None]
        features, lengths = self._gather(split, rows, frames)
        output = self.networks.forward(features, split.means[rows], lengths, kept)
        labels = split.labels[rows]
        chosen = output.logits.log_softmax(2).gather(2, labels[..., None])[..., 0]
        intent = -(shares * chosen).sum(1)  # eq. 3 (S)
        loss, transfer = intent, torch.full_like(intent, torch.nan)
        if output.pooled is not None:
            assert split.vectors is not None and split.texts is not None
            error = (output.pooled - split.vectors[split.texts[rows]]).square().mean(2)
            transfer = (shares * error).sum(1)  # eq. 1
            loss = self._shares[0] * transfer + self._shares[1] * intent  # eq. 4
        self.adam.step(self.networks.gradients(loss))
        with torch.no_grad():
            hits = (output.logits.argmax(2) == labels) * shares
            values = [loss, transfer, intent, 100 * hits.sum(1)]
            self._sums += counts[:, None] * torch.stack(values, dim=1)

    @torch.no_grad()
    def classify(self, split: Utterances) -> Tensor:
        """Logits (S, U, intents) of train's or valid's utterances, on the CPU."""
        intents = self.networks.form.classifier.out_features
        logits = torch.empty(
            len(self.members), len(split), intents, dtype=split.frames.dtype
        )
        parts = [part.split(_EVALUATION_BATCH) for part in split.by_length]
        for part in chain.from_iterable(parts):
            rows = part.to(split.frames.device).expand(len(self.members), -1)
            longest = int(split.lengths[part].max())
            features, lengths = self._gather(split, rows, longest)
            found = self.networks.forward(features, split.means[rows], lengths, None)
            logits[:, part] = found.logits.cpu()
        return logits

    def _gather(
        self, split: Utterances, rows: Tensor, frames: int
    ) -> tuple[Tensor, Tensor]:
        """Features (S, batch, frames, D) of the utterances `rows`, and their lengths.

        Without waiting for the device; padding repeats the last frame.
        """
        lengths = split.placed_lengths[rows]
        steps = torch.arange(frames, device=rows.device)
        within = torch.minimum(steps, lengths[..., None] - 1)
        return split.frames[split.starts[rows][..., None] + within], lengths

    @torch.no_grad()
    def _pooled(self) -> Tensor:
        """Ê_lang of valid (S, U, H), on the CPU."""
        weights, means = self.networks.weights, self.valid.means
        weight, bias = weights["transfer.weight"], weights["transfer.bias"]
        return (means @ weight.mT + bias[:, None]).cpu()

    def _save(self) -> None:
        """Write the checkpoint, of those that failed too: their rows are computed."""
        if self._checkpoint is None:
            return
        state = {
            "kept": [record.kept for record in self.records],
            "values": self.networks.values.cpu(),
            "optimiser": self.adam.state(),
            "random": [random.state() for random in self._random],
            "failed": {number: str(error) for number, error in self._errors.items()},
        }
        write_checkpoint(self._checkpoint, self._identity, state)
