"""Training one student from tensors in memory, and classifying with it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stages.core import metrics
from stages.core.checkpoint import read_checkpoint, write_checkpoint
from stages.core.errors import PipelineError
from stages.core.labels import Labels, segments
from stages.core.runtime import seed_everything
from stages.student.augmentation import augment
from stages.student.batches import Batch, Utterances
from stages.student.model import (
    ATTENTION_LAYERS,
    AcousticLinguisticNetwork,
    build,
    intent_loss,
    losses,
)
from stages.student.params import StudentParams, Variant

# Seconds between checkpoints: what a killed run loses at most.
_CHECKPOINT_SECONDS = 20.0


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is kept while it runs, and what identifies it."""

    path: Path
    identity: str


@dataclass(frozen=True)
class Student:
    """A trained network at its selected epoch; plain enough to cross processes."""

    seed: int
    epoch: int
    network: dict[str, Any]  # arguments of `model.build`
    weights: dict[str, np.ndarray]
    logits: np.ndarray  # of valid (U, values of all slots)
    history: list[dict[str, float]]  # an epoch each, as history.csv
    pooled_first: np.ndarray | None  # Ê_lang of valid after the first epoch (U, H)
    pooled_last: np.ndarray | None  # and after the last one; None for baseline2

    def model(self, device: torch.device) -> AcousticLinguisticNetwork:
        """The network with these weights, in `eval()`."""
        model = build(self.network)
        model.load_state_dict({k: torch.tensor(v) for k, v in self.weights.items()})
        return model.eval().to(device)


def train_student(
    variant: Variant,
    seed: int,
    *,
    network: dict[str, Any],
    labels: Labels,
    train: Utterances,
    valid: Utterances,
    checkpoint: Checkpoint | None = None,
    count_epoch: Callable[[], None] = lambda: None,
) -> Student:
    """Train a network, resuming from its checkpoint if there is one, to the same bits.

    Args:
        variant: what is trained, and how.
        seed: of weights, order of batches, augmentation and dropout.
        network: arguments of `model.build`.
        labels: of the corpus.
        train: what it is trained on; with targets unless it is baseline2.
        valid: what the epoch is selected on.
        checkpoint: from which a killed run resumes; None for no checkpoints.
        count_epoch: called after each epoch.

    Raises:
        PipelineError: the loss is not a number.
    """
    params = variant.params
    generator = seed_everything(seed)
    device = train.frames.device
    model = build(network).to(device)
    optimiser = torch.optim.Adam(
        weight_groups(model, params),
        lr=params.learning_rate,
        betas=(float(params.betas[0]), float(params.betas[1])),  # 0 may be an int
        fused=True,
    )
    actual = valid.labels.cpu()
    record = Record.begin(labels)
    if checkpoint and (state := read_checkpoint(checkpoint.path, checkpoint.identity)):
        record = Record(labels, state["kept"])
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        _set_random_state(state["random"], generator, device)
    for _ in range(record.epochs):
        count_epoch()
    saved = time.monotonic()
    for epoch in range(record.epochs + 1, params.epochs + 1):
        row = train_epoch(model, optimiser, train, variant, generator)
        logits, pooled = answer(model, valid)
        row = {"seed": seed, "epoch": epoch, **row, **measure_attention(model, valid)}
        if record.add(model.system, row, logits, actual, params):
            record.keep(model, logits)
        if pooled is not None and epoch in (1, params.epochs):
            record.pooled.append(pooled)
        late = time.monotonic() - saved >= _CHECKPOINT_SECONDS
        if checkpoint and (late or epoch == params.epochs):
            state = {
                "kept": record.kept,
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "random": _random_state(generator, device),
            }
            write_checkpoint(checkpoint.path, checkpoint.identity, state)
            saved = time.monotonic()
        count_epoch()
    return record.student(seed, network)


def weight_groups(
    model: AcousticLinguisticNetwork, params: StudentParams
) -> list[dict[str, Any]]:
    """The weights for the optimiser; ALN's own maps have a learning rate of their own.

    Scores are a product of transfer, mapping, query and key. Adam moves every weight of
    each by about the learning rate, so the four soon grow in one common direction, and
    the scores with their product.
    """
    own: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in model.named_parameters():
        (own if name.split(".")[0] in ATTENTION_LAYERS else others).append(weight)
    rate = params.attention_rate * params.learning_rate
    return [{"params": others}, {"params": own, "lr": rate}]


class Record:
    """A training so far: its history and best epoch. `kept` goes into a checkpoint."""

    def __init__(self, labels: Labels, kept: dict[str, Any]) -> None:
        self.labels = labels
        self.kept = kept

    @classmethod
    def begin(cls, labels: Labels) -> "Record":
        """Before the first epoch."""
        return cls(labels, {"history": [], "pooled": [], "best": (-1, 0.0)})

    @property
    def epochs(self) -> int:
        """How many epochs have been trained."""
        return len(self.kept["history"])

    @property
    def pooled(self) -> list[Tensor]:
        """Ê_lang of valid (U, H) after the first epoch, and after the last one."""
        pooled: list[Tensor] = self.kept["pooled"]
        return pooled

    def add(
        self,
        system: str,
        row: dict[str, Any],
        logits: Tensor,
        actual: Tensor,
        params: StudentParams,
    ) -> bool:
        """Add an epoch; whether it is the best so far.

        Args:
            system: for a message.
            row: seed, epoch and the figures of train.
            logits: of valid (U, values of all slots), on the CPU.
            actual: class numbers of valid (U, slots).
            params: how the epoch is selected.

        Raises:
            PipelineError: the loss on valid is not a number. The last step of an epoch
                can diverge without any loss on train showing it.
        """
        loss = float(intent_loss(logits, actual, self.labels.sizes))
        check_loss(system, loss, "valid")
        true, guess = actual.numpy(), self.labels.choose(logits.numpy())
        hits = (true == guess).all(1)
        measured = metrics.measure(self.labels, true, guess)
        valid = {f"valid_{name}": value for name, value in measured.items()}
        self.kept["history"].append({**row, **valid})
        # Not the total loss: that would weigh the transfer, which classifies nothing.
        score = (int(hits.sum()), -loss)
        better = params.selection == "last" or score > self.kept["best"]
        if better:
            self.kept |= {"best": score, "epoch": row["epoch"]}
        return better

    def keep(self, model: AcousticLinguisticNetwork, logits: Tensor) -> None:
        """Keep the weights and the logits of valid of the epoch just added."""
        weights = {
            name: weight.detach().cpu().clone()
            for name, weight in model.state_dict().items()
        }
        self.kept |= {"weights": weights, "logits": logits}

    def student(self, seed: int, network: dict[str, Any]) -> Student:
        """The trained student."""
        kept, pooled = self.kept, self.pooled
        return Student(
            seed=seed,
            epoch=kept["epoch"],
            network=network,
            weights={name: weight.numpy() for name, weight in kept["weights"].items()},
            logits=kept["logits"].numpy(),
            history=kept["history"],
            pooled_first=pooled[0].numpy() if pooled else None,
            pooled_last=pooled[-1].numpy() if pooled else None,
        )


def _random_state(generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """Random state of batches and augmentation, and of dropout on CPU and device."""
    states = [generator.get_state(), torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_random_state(
    states: list[Tensor], generator: torch.Generator, device: torch.device
) -> None:
    generator.set_state(states[0])
    torch.set_rng_state(states[1])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[2], device)


def train_epoch(
    model: AcousticLinguisticNetwork,
    optimiser: torch.optim.Optimizer,
    train: Utterances,
    variant: Variant,
    generator: torch.Generator,
) -> dict[str, float]:
    """One pass over `train`, in batches drawn with `generator`.

    Returns:
        Losses and accuracy (percent) on train: means over the batches, each before its
        step; the accuracy is that of labelled utterances.

    Raises:
        PipelineError: the loss is not a number.
    """
    model.train()
    params = variant.params
    sums = torch.zeros(5, dtype=torch.float64, device=train.frames.device)
    for rows in train.shuffled(params.batch_size, generator):
        batch = augment(train.gather(rows), params, generator)
        output = model.folded(batch.features, batch.means, batch.lengths)
        wanted = wanted_intents(batch, variant, model.values)
        loss = losses(output, wanted, batch.targets, variant.alpha, model.values)
        total = loss.total
        if model.teacher_classifier is not None and train.texts is not None:
            vectors, labels = train.texts.draw(params.batch_size, generator)
            taught = model.teacher_classifier(vectors)
            total = total + intent_loss(taught, labels, model.values)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        transfer = loss.transfer
        if transfer is None:
            transfer = torch.full_like(total, torch.nan)
        guesses = [part.argmax(1) for part in segments(output.logits, model.values)]
        right = (torch.stack(guesses, 1) == batch.labels).all(1).sum()
        labelled = (batch.labels[:, 0] >= 0).sum()
        means = len(rows) * torch.stack([total, transfer, loss.intent]).detach()
        sums += torch.cat([means, torch.stack([right, labelled])])
    loss_sums, (right, labelled) = sums[:3] / len(train), sums[3:]
    names = ("loss", "transfer_loss", "intent_loss", "train_accuracy")
    values = [*loss_sums.tolist(), float(100 * right / labelled)]
    row = dict(zip(names, values, strict=True))
    check_loss(model.system, row["loss"], "train")
    return row


def wanted_intents(batch: Batch, variant: Variant, values: Sequence[int]) -> Tensor:
    """What the classifiers of a variant learn from a batch.

    Returns:
        Its labels (batch, slots). With the teacher's probabilities, those of each
        slot, side by side (batch, values of all slots): of a labelled utterance mixed
        with its labels by `soft_targets`, of an unlabelled one as they are.
    """
    if not variant.reads_posteriors:
        return batch.labels
    assert batch.posteriors is not None
    weight = variant.params.soft_targets
    labelled = batch.labels[:, :1] >= 0  # (batch, 1)
    hard = torch.cat(
        [
            functional.one_hot(label.clamp(min=0), count)
            for label, count in zip(batch.labels.unbind(1), values, strict=True)
        ],
        dim=1,
    )
    mixed = weight * batch.posteriors + (1 - weight) * hard
    return torch.where(labelled, mixed, batch.posteriors)


def check_loss(system: str, loss: float, split: str) -> None:
    """Check that the loss on a split is a number.

    Raises:
        PipelineError: it is not.
    """
    if not np.isfinite(loss):
        raise PipelineError(
            f"training {system} failed",
            found=f"loss {loss} on {split}",
            fix="lower student.learning_rate",
        )


@torch.inference_mode()
def answer(
    model: AcousticLinguisticNetwork, split: Utterances
) -> tuple[Tensor, Tensor | None]:
    """Logits (U, values of all slots) and Ê_lang (U, H), if any, on the CPU.

    They are computed from the acoustic features alone.
    """
    model.eval()
    parts = []
    for rows in split.by_length:
        batch = split.gather(rows)
        parts.append(model.folded(batch.features, batch.means, batch.lengths))
    places = torch.cat(split.by_length).argsort()
    logits = torch.cat([one.logits for one in parts]).cpu()[places]
    pooled = [one.pooled for one in parts if one.pooled is not None]
    return logits, torch.cat(pooled).cpu()[places] if pooled else None


@torch.inference_mode()
def measure_attention(
    model: AcousticLinguisticNetwork, split: Utterances
) -> dict[str, float]:
    """How sharp the attention is.

    Returns:
        The mean entropy of a frame's weights in nats, from 0 (it attends to one frame)
        to the logarithm of the frames (to all alike); and the largest score. NaN
        without attention.
    """
    names = ("attention_entropy", "largest_score")
    if model.fold()[0] is None:
        return dict.fromkeys(names, math.nan)
    entropies, largest = [], []
    for rows in split.by_length:
        batch = split.gather(rows)
        scores = model.folded_scores(batch.features, batch.lengths)
        entropies.append(torch.special.entr(scores.softmax(-1)).sum(-1))
        largest.append(scores.amax())
    found = float(torch.cat(entropies).mean()), float(torch.stack(largest).amax())
    return dict(zip(names, found, strict=True))


def classify(model: AcousticLinguisticNetwork, split: Utterances) -> Tensor:
    """Logits (U, values of all slots) on the CPU."""
    return answer(model, split)[0]
