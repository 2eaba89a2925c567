"""Training one student from tensors in memory, and classifying with it.

A checkpoint is the SHA-256 of all that follows (32 bytes), and what `torch.save` writes
of a dictionary: `identity`, of all that decides what is trained, and the state.
"""

import hashlib
import io
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stages.core import metrics
from stages.core.errors import PipelineError
from stages.core.files import atomic_path
from stages.core.runtime import seed_everything
from stages.student.batches import Utterances
from stages.student.model import AcousticLinguisticNetwork, losses
from stages.student.params import StudentParams

# What a student becomes from the same parameters and inputs. Raise it with any change
# here or in another module of this folder after which that is another student: the
# ledger's entries of other revisions are then passed over.
REVISION = 1

# Seconds between checkpoints: what a killed run loses at most.
_CHECKPOINT_SECONDS = 20.0

logger = logging.getLogger(__name__)


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
    checkpoint: Path | None = None,
    identity: str = "",
) -> Generator[None, None, Student]:
    """Train a network; yields after each epoch and returns the student.

    Args:
        params: how to train.
        network: arguments of `AcousticLinguisticNetwork`.
        alpha: α of eq. 4; None for baseline2.
        seed: of weights, order and dropout.
        train: what it is trained on; with targets but for baseline2.
        valid: what the epoch is selected on.
        checkpoint: the file that a run which was killed goes on from, to the same
            student; None if it need not.
        identity: of all that decides what the student becomes; a checkpoint of another
            one is not looked at.

    Raises:
        PipelineError: the loss is no number.
    """
    generator = seed_everything(seed)
    device = train.frames.device
    model = AcousticLinguisticNetwork(**network).to(device)
    optimiser = torch.optim.Adam(
        model.parameters(),
        lr=params.learning_rate,
        betas=(params.betas[0], params.betas[1]),
        fused=True,
    )
    labels = valid.labels.cpu()
    record = Record.begin()
    state = None if checkpoint is None else read_checkpoint(checkpoint, identity)
    if state is not None:
        record = Record(state["kept"])
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        _set_random_state(state["random"], generator, device)
    for _ in range(record.epochs):
        yield
    saved = time.monotonic()
    for epoch in range(record.epochs + 1, params.epochs + 1):
        row = train_epoch(model, optimiser, train, params.batch_size, alpha, generator)
        logits = classify(model, valid)
        row = {"seed": seed, "epoch": epoch, **row}
        if record.add(model.system, row, logits, labels, params):
            record.keep(
                {
                    name: weight.detach().cpu().clone()
                    for name, weight in model.state_dict().items()
                },
                logits,
            )
        if alpha is not None and epoch in (1, params.epochs):
            record.pooled.append(model.transfer(valid.means).detach().cpu())
        if checkpoint is not None and (is_late(saved) or epoch == params.epochs):
            state = {
                "kept": record.kept,
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "random": _random_state(generator, device),
            }
            write_checkpoint(checkpoint, identity, state)
            saved = time.monotonic()
        yield
    return record.student(seed, network)


class Record:
    """What is noted of a student while it is trained; `kept` goes into a checkpoint."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept = kept

    @classmethod
    def begin(cls) -> "Record":
        """Of a student of which no epoch has been trained."""
        return cls({"history": [], "pooled": [], "best": (-1, 0.0)})

    @property
    def epochs(self) -> int:
        """How many have been trained."""
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
        labels: Tensor,
        params: StudentParams,
    ) -> bool:
        """Note an epoch; whether it is the one to be kept so far.

        Args:
            system: which one it is, for a message.
            row: seed, epoch and the figures of train.
            logits: of valid (U, intents), on the CPU.
            labels: of valid (U).
            params: how the epoch is selected.

        Raises:
            PipelineError: the loss on valid is no number: the last step, after which
                no loss on train is taken, can be the one that went astray.
        """
        loss = float(functional.cross_entropy(logits, labels))
        check_loss(system, loss, "valid")
        hits = logits.argmax(1) == labels
        measured = metrics.measure(labels.numpy(), logits.argmax(1).numpy())
        valid = {f"valid_{name}": value for name, value in measured.items()}
        self.kept["history"].append({**row, **valid})
        # Not the total loss: that would weigh the transfer, which classifies nothing.
        score = (int(hits.sum()), -loss)
        better = params.selection == "last" or score > self.kept["best"]
        if better:
            self.kept |= {"best": score, "epoch": row["epoch"]}
        return better

    def keep(self, weights: dict[str, Tensor], logits: Tensor) -> None:
        """Keep `weights` and the logits of valid as those of the epoch just noted."""
        self.kept |= {"weights": weights, "logits": logits}

    def student(self, seed: int, network: dict[str, Any]) -> Student:
        """What came of it."""
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


def is_late(saved: float) -> bool:
    """Whether a checkpoint is due, the last one having been written at `saved`."""
    return time.monotonic() - saved >= _CHECKPOINT_SECONDS


def write_checkpoint(path: Path, identity: str, state: dict[str, Any]) -> None:
    """Write `state`, tensors and plain values, to `path`, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({**state, "identity": identity}, buffer)
    content = buffer.getbuffer()
    with atomic_path(path) as beside, beside.open("wb") as stream:
        stream.write(hashlib.sha256(content).digest())
        stream.write(content)


def read_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """What `path` holds of `identity`; None if it is absent, damaged or another's."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    # torch.load believes most of what it reads.
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        logger.warning(
            "%s: damaged or of a former version, so that training begins anew", path
        )
        return None
    state: dict[str, Any] = torch.load(
        io.BytesIO(content[32:]), map_location="cpu", weights_only=True
    )
    return state if state["identity"] == identity else None


def _random_state(generator: torch.Generator, device: torch.device) -> list[Tensor]:
    """Of the order of batches, and of dropout on the CPU or the device."""
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
    return check_row(model.system, (sums / len(train)).tolist())


def check_row(system: str, values: list[float]) -> dict[str, float]:
    """An epoch's means over train by name: losses, and accuracy in percent.

    Raises:
        PipelineError: the loss is no number.
    """
    names = ("loss", "transfer_loss", "intent_loss", "train_accuracy")
    row = dict(zip(names, values, strict=True))
    check_loss(system, row["loss"], "train")
    return row


def check_loss(system: str, loss: float, split: str) -> None:
    """See that the loss on a split is a number.

    Raises:
        PipelineError: it is none.
    """
    if not np.isfinite(loss):
        raise PipelineError(
            f"training {system} failed",
            found=f"loss {loss} on {split}",
            fix="lower student.learning_rate",
        )


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
