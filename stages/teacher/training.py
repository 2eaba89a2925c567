"""One stage of fine-tuning: rows, masking, the loss, checkpoints that resume exactly.

Transformers' Trainer trains, with these additions:

- Order and dropout are drawn from the seed and the epoch; the masks of a batch from the
  seed, the epoch and its first row. So a run that resumes from a checkpoint draws the
  same as an uninterrupted one. (One masking generator for all batches would not:
  Trainer's data loader reads ahead of the step.)
- The loss is the mean over a step's utterances, or masked tokens, whatever pieces the
  step runs in. A row that stands for several utterances is weighted by its count over
  the mean count of all rows. (Over the mean count of the step's rows, the utterances of
  a row with a small count would weigh more than others.)

Work folder of a stage, removed once the teacher is finished:

    checkpoint-<step>/   Trainer's own, and best.safetensors: the best epoch's weights
    latest.json          the name of the last complete one, and hashes of its files
"""

import json
import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from stages.core.errors import ConfigurationError
from stages.core.files import flush_path, write_json
from stages.core.hashing import hash_file
from stages.core.runtime import seed_everything
from stages.teacher.mean_head import MeanClassifier
from stages.teacher.params import TeacherParams

_LOG = logging.getLogger(__name__)
_IGNORED = -100
_BEST = "best.safetensors"

Measure = Callable[[], dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """One of the two trainings."""

    name: str  # mlm or intent
    learning_rate: float
    epochs: int
    device: torch.device
    folder: Path  # its work folder
    minutes: float  # between two checkpoints
    bar: Any  # moves by a step of the optimiser
    head_learning_rate: float = 0.0  # 0: learning_rate


class Rows(Dataset):
    """What a stage trains on: tokens, a label if any, and a count of utterances.

    A row also has its `draw`, a number unique over rows and epochs.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        self.epoch = 0

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def mean_count(self, class_weights: Tensor | None = None) -> float:
        """Mean utterances per row; with `class_weights`, (classes), a weighted mean."""
        counts = torch.tensor([row["count"] for row in self.rows], dtype=torch.float64)
        if class_weights is None:
            return float(counts.mean())
        labels = torch.tensor([row["labels"] for row in self.rows])
        weights = class_weights.double()[labels].sum(-1)  # (rows)
        return float((counts * weights).sum() / weights.sum())

    def __getitem__(self, place: int) -> dict[str, Any]:
        """The row at `place`, a new dictionary."""
        return {**self.rows[place], "draw": self.epoch * len(self) + place}


def merge_repeats(keys: Sequence[Any], most: int) -> list[tuple[int, int]]:
    """Merge utterances with the same key into rows of at most `most`.

    Returns:
        For each row an utterance's place in `keys` and how many it stands for.
    """
    if most == 1:
        return [(place, 1) for place in range(len(keys))]
    first: dict[Any, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    rows = []
    for key, count in Counter(keys).items():
        for done in range(0, count, most):
            rows.append((first[key], min(most, count - done)))
    return rows


@dataclass
class Labelled:
    """Collates rows of the intent stage."""

    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        self._pad = DataCollatorWithPadding(self.tokenizer)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Tokens (batch, tokens), labels (batch, slots), counts (batch)."""
        counts = [row.pop("count") for row in rows]
        for row in rows:
            del row["draw"]
        return {**self._pad(rows), "counts": torch.tensor(counts, dtype=torch.float32)}


class Masked(DataCollatorForLanguageModeling):
    """Collates rows of the masked-LM stage, with BERT's masking.

    It is drawn again while a batch has no masked token, since the loss of such a batch
    is 0/0. That is likely when a few short texts are left over.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, params: TeacherParams
    ) -> None:
        super().__init__(
            tokenizer,
            mlm_probability=params.mlm_probability,
            mask_replace_prob=params.mlm_mask_share,
            random_replace_prob=params.mlm_random_share,
        )
        self._seed = params.seed

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        """Tokens and labels (batch, tokens), counts (batch)."""
        counts = [row.pop("count") for row in examples]
        draws = [row.pop("draw") for row in examples]
        seed = self._seed * 1_000_003 + draws[0]
        self.generator = torch.Generator().manual_seed(seed)
        batch = super().torch_call(examples)
        return {**batch, "counts": torch.tensor(counts, dtype=torch.float32)}

    def torch_mask_tokens(
        self,
        inputs: Any,
        special_tokens_mask: Any | None = None,
        offset_mapping: Any | None = None,
    ) -> tuple[Any, Any]:
        """Repeat the library's until something is masked."""
        while True:
            masked, labels = super().torch_mask_tokens(
                inputs.clone(), special_tokens_mask, offset_mapping
            )
            if (labels != _IGNORED).any():
                return masked, labels


def slot_mask(values: Sequence[int]) -> Tensor:
    """Which of all slots' values are each slot's own: bool (slots, values of all).

    Args:
        values: how many each slot has.
    """
    owners = torch.repeat_interleave(torch.tensor(values))  # (values of all)
    return owners == torch.arange(len(values))[:, None]


class _WeightedTrainer(Trainer):
    """Trainer, with counts of rows and weights of classes."""

    def __init__(
        self,
        *,
        class_weights: Tensor | None,
        allowed: Tensor | None,
        masked_only: bool,
        mean_count: float,
        head_learning_rate: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.loss_is_scaled_for_ga = True  # by what `get_batch_samples` counts
        self._mean_count = mean_count
        self._class_weights = class_weights
        self._allowed = allowed
        self._slots = 1 if allowed is None else len(allowed)
        self._masked_only = masked_only
        self._head_learning_rate = head_learning_rate
        self._right = self._seen = 0.0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser, with the head in groups of its own if it has its own rate."""
        optimizer = super().create_optimizer(model)
        if not self._head_learning_rate:
            return optimizer
        assert isinstance(self.model, (PreTrainedModel, MeanClassifier))
        encoder = {id(one) for one in self.model.base_model.parameters()}
        for group in list(optimizer.param_groups):
            head = [one for one in group["params"] if id(one) not in encoder]
            group["params"] = [one for one in group["params"] if id(one) in encoder]
            own = {**group, "params": head, "lr": self._head_learning_rate}
            optimizer.add_param_group(own)
        return optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """The pieces of a step, and the divisor of the sum of their losses."""
        pieces, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        weights = (
            self._weigh(one["labels"], torch.ones_like(one["counts"]))[1].sum()
            for one in pieces
        )
        total = sum(weights, start=torch.zeros(()))
        return pieces, total * self._mean_count / self._slots

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Weighted cross-entropy of a piece, over the weight of the whole step."""
        labels, counts = inputs.pop("labels"), inputs.pop("counts")
        chosen, weights = self._weigh(labels, counts)
        wanted = labels[chosen]  # (items): masked tokens, or slots
        logits = self._logits(model, inputs, chosen)  # (items, classes)
        each = functional.cross_entropy(logits.float(), wanted, reduction="none")
        assert num_items_in_batch is not None
        loss = (each * weights).sum() / num_items_in_batch
        with torch.no_grad():
            right = logits.argmax(-1) == wanted
            if self._allowed is not None:  # an utterance is right if all slots are
                right, times = right.view_as(labels).all(1), counts
            else:
                times = counts[:, None].expand_as(labels)[chosen]
            self._right += float((right * times).sum())
            self._seen += float(times.sum())
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's numbers of right and all predictions to its loss."""
        if "loss" in logs:
            logs |= {"right": self._right, "seen": self._seen}
            self._right = self._seen = 0.0
        super().log(logs, start_time)

    def _weigh(self, labels: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """A mask of the `labels` that are predicted, and their weights."""
        chosen = labels != _IGNORED
        weights = counts[:, None].expand_as(labels)[chosen]
        if self._class_weights is not None:
            weights = weights * self._class_weights.to(labels.device)[labels[chosen]]
        return chosen, weights

    def _logits(
        self, model: nn.Module, inputs: dict[str, Any], chosen: Tensor
    ) -> Tensor:
        """Logits where `chosen`, (items, classes); of a slot, its own values'."""
        if self._allowed is not None:
            logits = model(**inputs).logits[:, None].expand(-1, self._slots, -1)
            # (batch, slots, values of all)
            return logits.masked_fill(~self._allowed.to(logits.device), -math.inf)[
                chosen
            ]
        if not self._masked_only:
            return model(**inputs).logits[chosen]

        def keep(module: nn.Module, given: Any, output: Any) -> Any:
            # (batch, tokens, hidden) -> (1, items, hidden): heads work token by token.
            output.last_hidden_state = output.last_hidden_state[chosen][None]
            return output

        assert isinstance(self.model, PreTrainedModel)
        handle = self.model.base_model.register_forward_hook(keep)
        try:
            return model(**inputs).logits[0]
        finally:
            handle.remove()


@dataclass(eq=False)
class _Watch(TrainerCallback):
    """Seeds each epoch, measures after it, moves the bar, saves; stops at a NaN."""

    stage: Stage
    rows: Rows
    seed: int
    measure: Measure | None
    keep_best: bool
    best: dict[str, Tensor] = field(default_factory=dict)
    saved: float = field(default_factory=time.monotonic)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Show the steps of an interrupted run."""
        self.stage.bar.update(state.global_step)

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Make order, masks and dropout of an epoch depend only on its number."""
        self._seed(self._epochs_done(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar; within an epoch, save if it is time."""
        self.stage.bar.update()
        if state.global_step % self._steps(state):
            self._save_if_due(control)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show a step's loss and accuracy; stop if the loss is not finite."""
        if not logs or "loss" not in logs:
            return
        epoch = math.ceil(state.epoch - 1e-6)
        if not math.isfinite(logs["loss"]):
            raise ConfigurationError(
                f"the teacher diverged in epoch {epoch} of stage {self.stage.name}",
                found=f"loss {logs['loss']}",
                fix=f"lower teacher.{self.stage.name}_learning_rate",
            )
        self.stage.bar.set_postfix(
            refresh=False,
            stage=self.stage.name,
            epoch=epoch,
            loss=f"{logs['loss']:.3f}",
            accuracy=f"{100 * logs['right'] / logs['seen']:.1f}%",
        )

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Measure, keep the weights if they are the best, save if it is time."""
        done = self._epochs_done(state)
        found = self.measure() if self.measure else {}
        state.log_history.append({"measured": done, **found})
        row = epoch_history(state.log_history, self._steps(state), self.stage.name)[-1]
        _LOG.info("%s", row)
        if self.keep_best and best_epoch(state.log_history) == done:
            self.best = copied_weights(model)
        # As a resumed run begins the next epoch.
        self._seed(done)
        if state.global_step < state.max_steps:
            self._save_if_due(control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Complete the checkpoint that Trainer has written, then point to it."""
        name = f"checkpoint-{state.global_step}"
        path = self.stage.folder / name
        if self.best:
            save_file(self.best, path / _BEST)
        files = sorted(path.iterdir())
        for file in (*files, path):
            flush_path(file)
        hashes = {file.name: hash_file(file) for file in files}
        write_json(
            self.stage.folder / "latest.json", {"checkpoint": name, "files": hashes}
        )
        for other in self.stage.folder.glob("checkpoint-*"):
            if other.name != name:
                shutil.rmtree(other)
        self.saved = time.monotonic()

    def _steps(self, state: Any) -> int:
        """Steps of an epoch."""
        return state.max_steps // self.stage.epochs

    def _epochs_done(self, state: Any) -> int:
        return state.global_step // self._steps(state)

    def _seed(self, epoch: int) -> None:
        seed_everything(self.seed * 1_000_003 + epoch)
        self.rows.epoch = epoch

    def _save_if_due(self, control: Any) -> None:
        if time.monotonic() - self.saved >= 60 * self.stage.minutes:
            control.should_save = True


def best_epoch(log: Sequence[Mapping[str, Any]]) -> int:
    """The epoch of the highest accuracy on valid, the later of equals."""
    measured = [row for row in log if "valid_accuracy" in row]
    return max(measured, key=lambda row: (row["valid_accuracy"], row["measured"]))[
        "measured"
    ]


def epoch_history(
    log: Sequence[Mapping[str, Any]], steps: int, stage: str
) -> list[dict[str, Any]]:
    """A row for each epoch that is measured in Trainer's `log` of every step."""
    losses = [row for row in log if "loss" in row]
    rows = []
    for row in log:
        if "measured" not in row:
            continue
        epoch = row["measured"]
        own = losses[(epoch - 1) * steps : epoch * steps]
        rows.append(
            {
                "stage": stage,
                "epoch": epoch,
                "loss": math.fsum(one["loss"] for one in own) / len(own),
                "accuracy": 100
                * sum(one["right"] for one in own)
                / sum(one["seen"] for one in own),
                "valid_accuracy": row.get("valid_accuracy"),
                "valid_macro_f1": row.get("valid_macro_f1"),
            }
        )
    return rows


def copied_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights, on the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in model.state_dict().items()
    }


def rows_at_once(rows: Rows, params: TeacherParams) -> int:
    """How many rows run at once: about as many utterances as without merging."""
    utterances = params.batch_size // params.gradient_accumulation
    return max(1, round(utterances / rows.mean_count()))


def steps_an_epoch(rows: Rows, params: TeacherParams) -> int:
    """Steps of the optimiser in an epoch over `rows`."""
    pieces = math.ceil(len(rows) / rows_at_once(rows, params))
    return math.ceil(pieces / params.gradient_accumulation)


def fit(
    model: PreTrainedModel | MeanClassifier,
    rows: Rows,
    collator: Any,
    *,
    stage: Stage,
    params: TeacherParams,
    class_weights: Tensor | None = None,
    allowed: Tensor | None = None,
    measure: Measure | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Train `model` in place, from the stage's last checkpoint if there is one.

    Args:
        model: with the stage's head.
        rows: what it is trained on.
        collator: makes batches of them.
        stage: what is the stage's own.
        params: what both stages share.
        class_weights: (classes) float32; None for equal ones.
        allowed: of the intent stage, of `slot_mask`.
        measure: gives `valid_accuracy` and `valid_macro_f1` after an epoch; where
            `selection` is `best` the model ends with the best epoch's weights.

    Returns:
        The history, a row an epoch, and the epoch whose weights the model has.

    Raises:
        ConfigurationError: the training diverged.
    """
    keep_best = measure is not None and params.selection == "best"
    watch = _Watch(stage, rows, params.seed, measure=measure, keep_best=keep_best)
    latest = _latest(stage.folder)
    if latest is not None:
        _LOG.info("resuming from %s", latest)
        if (latest / _BEST).exists():
            watch.best = load_file(latest / _BEST)
    trainer = _WeightedTrainer(
        model=model,
        args=_arguments(params, stage, rows_at_once(rows, params)),
        data_collator=collator,
        train_dataset=rows,
        callbacks=[watch],
        class_weights=class_weights,
        allowed=allowed,
        masked_only=params.masked_only,
        head_learning_rate=stage.head_learning_rate,
        mean_count=rows.mean_count(class_weights),
    )
    trainer.remove_callback(PrinterCallback)  # prints to stdout
    trainer.train(resume_from_checkpoint=str(latest) if latest else None)
    log = trainer.state.log_history
    history = epoch_history(log, trainer.state.max_steps // stage.epochs, stage.name)
    if keep_best:
        model.load_state_dict(watch.best)
    return history, best_epoch(log) if keep_best else stage.epochs


def _arguments(params: TeacherParams, stage: Stage, at_once: int) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(stage.folder),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=params.gradient_accumulation,
        train_sampling_strategy=(
            "group_by_length" if params.group_by_length else "random"
        ),
        num_train_epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=params.schedule,
        warmup_steps=params.warmup,
        # AdamW without decay is Adam; fused, several times faster on a CPU.
        optim="adamw_torch_fused",
        weight_decay=params.weight_decay,
        adam_beta1=float(params.adam_beta1),  # torch takes no 0 with a 0.999
        adam_beta2=float(params.adam_beta2),
        adam_epsilon=params.adam_epsilon,
        max_grad_norm=params.clip_norm,
        bf16=in_bf16(params.precision, stage.device),
        seed=params.seed,
        use_cpu=stage.device.type == "cpu",
        logging_strategy="steps",
        logging_steps=1,  # an epoch's mean must not depend on where a run resumed
        logging_nan_inf_filter=False,  # it hides a NaN loss and trains on
        save_strategy="no",  # the callback decides when
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,  # keeps counts and draws for the collator
    )
    arguments._n_gpu = 1  # else a batch is spread over, and multiplied by, all GPUs
    return arguments


def in_bf16(precision: str, device: torch.device) -> bool:
    """Whether products are in bfloat16: requested, and the GPU has it."""
    return (
        precision == "bf16"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def _latest(folder: Path) -> Path | None:
    """The last complete checkpoint in `folder`; if it is damaged, `folder` is removed.

    Trainer resumes without the files it does not find, such as the optimiser's state,
    and ends with other weights.
    """
    pointer = folder / "latest.json"
    if not pointer.exists():
        return None
    try:
        latest = json.loads(pointer.read_text("utf-8"))
        path = folder / latest["checkpoint"]
        damaged = sorted(
            file
            for file, content in latest["files"].items()
            if hash_file(path / file) != content
        )
        if not damaged:
            return path
        reason = f"{damaged[0]} has changed"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
    _LOG.warning("%s: damaged checkpoint (%s); the stage starts again", folder, reason)
    shutil.rmtree(folder)
    return None
