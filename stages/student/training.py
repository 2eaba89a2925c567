"""Training one student from tensors in memory, and classifying with it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core import metrics
from stages.core.checkpoint import read_checkpoint, write_checkpoint
from stages.core.errors import PipelineError
from stages.core.labels import Labels, segments
from stages.core.runtime import seed_everything
from stages.student.augmentation import augment
from stages.student.batches import Batch, Utterances
from stages.student.model import AcousticLinguisticNetwork, build, intent_loss, losses
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
    params, alpha = variant.params, variant.alpha
    generator = seed_everything(seed)
    device = train.frames.device
    model = build(network).to(device)
    optimiser = torch.optim.Adam(
        model.parameters(),
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
        row = train_epoch(
            model,
            optimiser,
            train,
            params.batch_size,
            alpha,
            generator,
            change=partial(augment, params=params, generator=generator),
        )
        logits = classify(model, valid)
        row = {"seed": seed, "epoch": epoch, **row}
        if record.add(model.system, row, logits, actual, params):
            record.keep(model, logits)
        if alpha is not None and epoch in (1, params.epochs):
            record.pooled.append(model.transfer(valid.means).detach().cpu())
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
    batch_size: int,
    alpha: float | None,
    generator: torch.Generator,
    change: Callable[[Batch], Batch] = lambda batch: batch,
) -> dict[str, float]:
    """One pass over `train`; each batch, drawn with `generator`, passes `change`.

    Returns:
        Losses and accuracy (percent) on train: means over the batches, each before its
        step.

    Raises:
        PipelineError: the loss is not a number.
    """
    model.train()
    sums = torch.zeros(4, dtype=torch.float64, device=train.frames.device)
    for rows in train.shuffled(batch_size, generator):
        batch = change(train.gather(rows))
        output = model.folded(batch.features, batch.means, batch.lengths)
        loss = losses(output, batch.labels, batch.targets, alpha, model.values)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        transfer = loss.transfer
        if transfer is None:
            transfer = torch.full_like(loss.total, torch.nan)
        guesses = [part.argmax(1) for part in segments(output.logits, model.values)]
        right = (torch.stack(guesses, 1) == batch.labels).all(1)
        accuracy = right.float().mean()
        values = torch.stack([loss.total, transfer, loss.intent, 100 * accuracy])
        sums += len(rows) * values.detach()
    names = ("loss", "transfer_loss", "intent_loss", "train_accuracy")
    row = dict(zip(names, (sums / len(train)).tolist(), strict=True))
    check_loss(model.system, row["loss"], "train")
    return row


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
def classify(model: AcousticLinguisticNetwork, split: Utterances) -> Tensor:
    """Logits (U, values of all slots) on the CPU, from the acoustic features alone."""
    model.eval()
    logits = torch.empty(len(split), model.classifier.out_features)
    for rows in split.by_length:
        batch = split.gather(rows)
        output = model.folded(batch.features, batch.means, batch.lengths)
        logits[rows] = output.logits.cpu()
    return logits
