"""Training one student from tensors in memory, and classifying with it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stages.errors import PipelineError
from stages.runtime import seed_everything
from stages.student.batches import Utterances
from stages.student.model import AcousticLinguisticNetwork, losses
from stages.student.params import StudentParams


@dataclass(frozen=True)
class Student:
    """A trained network at its selected epoch; plain enough to cross processes."""

    seed: int
    epoch: int
    network: dict[str, Any]  # arguments of AcousticLinguisticNetwork
    weights: dict[str, np.ndarray]
    logits: np.ndarray  # of valid (U, intents)
    history: list[dict[str, float]]  # an epoch each, as history.csv
    pooled_first: np.ndarray | None  # Ê_lang of valid after the first epoch (U, H)
    pooled_last: np.ndarray | None  # and after the last one; None for baseline2

    def model(self, device: torch.device) -> AcousticLinguisticNetwork:
        """The network with these weights, in `eval()`."""
        model = AcousticLinguisticNetwork(**self.network)
        model.load_state_dict({k: torch.tensor(v) for k, v in self.weights.items()})
        return model.eval().to(device)


def train_student(
    params: StudentParams,
    *,
    network: dict[str, Any],
    alpha: float | None,
    seed: int,
    train: Utterances,
    valid: Utterances,
) -> Generator[None, None, Student]:
    """Train a network; yields after each epoch and returns the student.

    Args:
        params: how to train.
        network: arguments of `AcousticLinguisticNetwork`.
        alpha: α of eq. 4; None for baseline2.
        seed: of weights, order and dropout.
        train: what it is trained on; with targets but for baseline2.
        valid: what the epoch is selected on.

    Raises:
        PipelineError: the loss is no number.
    """
    generator = seed_everything(seed)
    model = AcousticLinguisticNetwork(**network).to(train.frames.device)
    optimiser = torch.optim.Adam(
        model.parameters(),
        lr=params.learning_rate,
        betas=(params.betas[0], params.betas[1]),
        fused=True,
    )
    labels = valid.labels.cpu()
    history: list[dict[str, float]] = []
    pooled: list[np.ndarray] = []
    best = (-1, 0.0)
    for epoch in range(1, params.epochs + 1):
        row = _train_epoch(model, optimiser, train, params.batch_size, alpha, generator)
        logits = classify(model, valid)
        hits = logits.argmax(1) == labels
        accuracy = {"valid_accuracy": 100 * float(hits.double().mean())}
        history.append({"seed": seed, "epoch": epoch, **row, **accuracy})
        # Not the total loss: that would weigh the transfer, which classifies nothing.
        score = (int(hits.sum()), -float(functional.cross_entropy(logits, labels)))
        if params.selection == "last" or score > best:
            best, selected, on_valid = score, epoch, logits.numpy()
            weights = {
                name: weight.numpy(force=True).copy()
                for name, weight in model.state_dict().items()
            }
        if alpha is not None and epoch in (1, params.epochs):
            pooled.append(model.transfer(valid.means).numpy(force=True))
        yield
    return Student(
        seed=seed,
        epoch=selected,
        network=network,
        weights=weights,
        logits=on_valid,
        history=history,
        pooled_first=pooled[0] if pooled else None,
        pooled_last=pooled[-1] if pooled else None,
    )


def _train_epoch(
    model: AcousticLinguisticNetwork,
    optimiser: torch.optim.Optimizer,
    train: Utterances,
    batch_size: int,
    alpha: float | None,
    generator: torch.Generator,
) -> dict[str, float]:
    """One pass over `train`; mean losses and accuracy, as they were on the way."""
    model.train()
    sums = torch.zeros(4, dtype=torch.float64, device=train.frames.device)
    for rows in train.shuffled(batch_size, generator):
        batch = train.gather(rows)
        output = model.folded(batch.features, batch.means, batch.lengths)
        loss = losses(output, batch.labels, batch.targets, alpha)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        transfer = loss.transfer
        if transfer is None:
            transfer = torch.full_like(loss.total, torch.nan)
        accuracy = (output.logits.argmax(1) == batch.labels).float().mean()
        values = torch.stack([loss.total, transfer, loss.intent, 100 * accuracy])
        sums += len(rows) * values.detach()
    names = ("loss", "transfer_loss", "intent_loss", "train_accuracy")
    row = dict(zip(names, (sums / len(train)).tolist(), strict=True))
    if not np.isfinite(row["loss"]):
        raise PipelineError(
            f"training {model.system} failed",
            found=f"loss {row['loss']}",
            fix="lower student.learning_rate",
        )
    return row


@torch.inference_mode()
def classify(model: AcousticLinguisticNetwork, split: Utterances) -> Tensor:
    """Logits (U, intents) on the CPU, from the acoustic features alone."""
    model.eval()
    logits = torch.empty(len(split), model.classifier.out_features)
    for rows in split.by_length:
        batch = split.gather(rows)
        output = model.folded(batch.features, batch.means, batch.lengths)
        logits[rows] = output.logits.cpu()
    return logits
