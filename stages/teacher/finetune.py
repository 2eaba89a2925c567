"""Fine-tune the teacher: masked language model, then intents (paper, section 2.2).

Reads the manifest and its intents. Writes one folder, whole or not at all:

    config.json, model.safetensors, tokenizer*.json   as transformers loads them
    parameters.json   the parameters it was trained with
    history.csv       stage, epoch, loss, valid_accuracy (percent; intent stage alone)
    predictions.csv   id, split, intent, predicted and its probability (`confidence`):
                      valid and test
    scores.json       mlm_loss, intent_epoch, {train,valid,test}_accuracy (percent)

The predictions are Baseline-1 on ground-truth text. Train texts alone reach the
vocabulary and the weights; valid chooses the epoch where `selection` is `best`; test is
predicted once, at the end.

Training is per utterance, as the paper's: a wording spoken a hundred times counts a
hundred times an epoch. Predicting is per distinct text.
"""

import copy
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from stages.atomic import write_json
from stages.errors import ConfigurationError, InputError
from stages.manifest import read_intents, read_manifest
from stages.runtime import choose_device, progress, quiet_transformers, seed_everything
from stages.teacher.bert import length_batches, load, load_tokenizer
from stages.teacher.params import SCRATCH, TeacherParams
from stages.teacher.vocabulary import build_vocabulary
from stages.texts import normalise_text

_LOG = logging.getLogger(__name__)
_PREDICTED_AT_ONCE = 64


@dataclass(frozen=True)
class Summary:
    """What `run` did."""

    output: Path
    utterances: int
    texts: int
    intent_epoch: int
    valid_accuracy: float
    test_accuracy: float

    def __str__(self) -> str:
        """One line for the person who waited."""
        return (
            f"{self.output}: teacher of {self.utterances:,} train utterances in "
            f"{self.texts:,} wordings, intent epoch {self.intent_epoch}; on "
            f"ground-truth text {self.valid_accuracy:.2f}% of valid, "
            f"{self.test_accuracy:.2f}% of test"
        )


def run(
    params: TeacherParams,
    *,
    manifest: Path,
    intents: Path,
    output: Path,
    device: str = "auto",
) -> Summary:
    """Train the teacher of `manifest` and write it to the folder `output`.

    Raises:
        ConfigurationError: parameters the model or the texts cannot take, or with
            which the training diverged.
        InputError: an unusable manifest or model.
    """
    where = choose_device(device)
    classes = read_intents(intents)
    table = _read_texts(manifest, intents, classes)
    train = table[table["split"] == "train"]
    seed_everything(params.seed)
    with quiet_transformers(), _whole_folder(output) as folder:
        tokenizer, config = _start(params, train["text"])
        sentences = _maskable(manifest, tokenizer, train["text"])
        utterances = _labelled(tokenizer, train["text"], train["number"])
        batches = [
            math.ceil(len(examples) / params.batch_size) * epochs
            for examples, epochs in (
                (sentences, params.mlm_epochs),
                (utterances, params.intent_epochs),
            )
        ]
        with progress(total=sum(batches), description="teacher", unit="step") as bar:
            fit = partial(_fit, params=params, device=where, folder=folder, bar=bar)
            encoder, history = _language_stage(
                fit, params, tokenizer, config, sentences
            )
            classifier, epoch, more = _intent_stage(
                fit, params, tokenizer, config, encoder, classes, table, utterances
            )
        predicted = _predict_table(classifier, tokenizer, table, classes)
        classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        right = predicted["predicted"] == predicted["intent"]
        accuracy = {
            split: round(100 * float(right[predicted["split"] == split].mean()), 4)
            for split in ("train", "valid", "test")
        }
        write_json(folder / "parameters.json", asdict(params))
        _write_csv(folder / "history.csv", pd.DataFrame(history + more))
        heard = predicted["split"].isin(["valid", "test"])
        _write_csv(
            folder / "predictions.csv",
            predicted.loc[heard, ["id", "split", "intent", "predicted", "confidence"]],
        )
        write_json(
            folder / "scores.json",
            {
                "mlm_loss": round(history[-1]["loss"], 6) if history else None,
                "intent_epoch": epoch,
                **{f"{split}_accuracy": value for split, value in accuracy.items()},
            },
        )
    return Summary(
        output,
        utterances=len(train),
        texts=train["text"].nunique(),
        intent_epoch=epoch,
        valid_accuracy=accuracy["valid"],
        test_accuracy=accuracy["test"],
    )


def predict(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The class number the classifier `model` gives each of `texts`, (texts,).

    And beside it the probability of that class, (texts,).
    """
    model.eval()
    numbers = np.empty(len(texts), dtype=np.int64)
    confidences = np.empty(len(texts))
    with torch.inference_mode():
        for places, batch in length_batches(tokenizer, texts, _PREDICTED_AT_ONCE):
            logits = model(**batch.to(model.device)).logits  # (batch, intents)
            numbers[places] = logits.argmax(dim=1).cpu().numpy()
            confidences[places] = logits.softmax(dim=1).amax(dim=1).cpu().numpy()
    return numbers, confidences


def _read_texts(manifest: Path, intents: Path, classes: list[str]) -> pd.DataFrame:
    """The manifest, texts normalised, with each intent's class number."""
    table = read_manifest(manifest)
    table["text"] = table["text"].map(normalise_text)
    table["number"] = table["intent"].map({name: n for n, name in enumerate(classes)})
    for row in table[table["number"].isna()].itertuples():
        raise InputError(
            f"does not list {row.intent!r}, the intent of {row.id}",
            path=intents,
            fix="run `aln-pipeline prepare`",
        )
    return table.astype({"number": "int64"})


def _start(
    params: TeacherParams, texts: pd.Series
) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig]:
    """The tokenizer and the configuration training starts from.

    The tokenizer is made to cut at `max_tokens` wherever it is loaded again.
    """
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    if params.model == SCRATCH:
        vocabulary = build_vocabulary(texts, params.scratch_vocabulary_size)
        tokenizer = BertTokenizer(vocab=vocabulary)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=params.scratch_hidden_size,
            num_hidden_layers=params.scratch_layers,
            num_attention_heads=params.scratch_heads,
            intermediate_size=params.scratch_intermediate_size,
            max_position_embeddings=params.max_tokens,
        )
    else:
        tokenizer = load_tokenizer(params.model, revision=params.revision)
        config = load(AutoConfig, params.model, revision=params.revision)
        if len(tokenizer) > config.vocab_size:
            raise InputError(
                "tokenizer and model do not belong together",
                path=params.model,
                found=f"{len(tokenizer)} pieces for {config.vocab_size} embeddings",
            )
        # RoBERTa counts two positions that no token can have; its tokenizer does not.
        longest = min(tokenizer.model_max_length, config.max_position_embeddings)
        if params.max_tokens > longest:
            raise ConfigurationError(
                f"teacher.max_tokens is more than {params.model} takes",
                found=params.max_tokens,
                expected=f"at most {longest}",
            )
    tokenizer.model_max_length = params.max_tokens
    return tokenizer, config


def _model(kind: Any, params: TeacherParams, config: PreTrainedConfig) -> Any:
    """The starting model with the head of `kind`, in float32 whatever was saved."""
    if params.model == SCRATCH:
        return kind.from_config(config)
    return load(
        kind,
        params.model,
        revision=params.revision,
        config=config,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # a classifier of other intents: a new head
    )


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: pd.Series, **options: bool
) -> Iterator[dict[str, Any]]:
    """The tokens of each of `texts`, made once a distinct text."""
    tokens = {
        text: dict(tokenizer(text, truncation=True, **options))
        for text in texts.unique()
    }
    return (tokens[text] for text in texts)


def _maskable(
    manifest: Path, tokenizer: PreTrainedTokenizerBase, texts: pd.Series
) -> list[dict[str, Any]]:
    """Examples of the first stage: the texts that have a token to mask."""
    examples = [
        example
        for example in _encoded(tokenizer, texts, return_special_tokens_mask=True)
        if 0 in example["special_tokens_mask"]
    ]
    if not examples:
        raise InputError("no train utterance has a text", path=manifest)
    return examples


def _labelled(
    tokenizer: PreTrainedTokenizerBase, texts: pd.Series, numbers: pd.Series
) -> list[dict[str, Any]]:
    """Examples of the second stage: tokens and the intent's number."""
    encoded = _encoded(tokenizer, texts)
    return [
        {**example, "labels": int(number)}
        for example, number in zip(encoded, numbers, strict=True)
    ]


def _language_stage(
    fit: Callable[..., list[dict[str, Any]]],
    params: TeacherParams,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    examples: list[dict[str, Any]],
) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Masked language model; the encoder's weights, none if skipped, and history."""
    if params.mlm_epochs == 0:
        return {}, []
    model = _model(AutoModelForMaskedLM, params, config)
    masking = _Masking(
        tokenizer, mlm_probability=params.mlm_probability, seed=params.seed
    )
    history = fit(
        model,
        examples,
        masking,
        stage="mlm",
        learning_rate=params.mlm_learning_rate,
        epochs=params.mlm_epochs,
    )
    return _weights(model.base_model), history


def _intent_stage(
    fit: Callable[..., list[dict[str, Any]]],
    params: TeacherParams,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    encoder: dict[str, torch.Tensor],
    classes: list[str],
    table: pd.DataFrame,
    examples: list[dict[str, Any]],
) -> tuple[PreTrainedModel, int, list[dict[str, Any]]]:
    """Intent classification from `encoder`; the classifier, its epoch and history."""
    config = copy.deepcopy(config)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    config.problem_type = "single_label_classification"  # also where there is one
    model = _model(AutoModelForSequenceClassification, params, config)
    # A masked-LM model has no pooler: the starting model's own is kept.
    unknown = model.base_model.load_state_dict(encoder, strict=False).unexpected_keys
    assert not unknown, unknown
    valid = table[table["split"] == "valid"]
    best: dict[str, Any] = {"accuracy": -1.0, "epoch": params.intent_epochs}

    def after_epoch(epoch: int) -> float:
        predicted = _predict_table(model, tokenizer, valid, classes)
        accuracy = 100 * float((predicted["predicted"] == valid["intent"]).mean())
        if params.selection == "best" and accuracy >= best["accuracy"]:
            best.update(accuracy=accuracy, epoch=epoch, weights=_weights(model))
        return accuracy

    history = fit(
        model,
        examples,
        DataCollatorWithPadding(tokenizer),
        stage="intent",
        learning_rate=params.intent_learning_rate,
        epochs=params.intent_epochs,
        after_epoch=after_epoch,
    )
    if "weights" in best:
        model.load_state_dict(best["weights"])
    return model, best["epoch"], history


class _Masking(DataCollatorForLanguageModeling):
    """BERT's masking, drawn again while a batch has no masked token.

    The loss of such a batch, a likely one where a few short texts are left over, is
    0/0 and would turn every weight into NaN.
    """

    def torch_mask_tokens(
        self,
        inputs: Any,
        special_tokens_mask: Any | None = None,
        offset_mapping: Any | None = None,
    ) -> tuple[Any, Any]:
        while True:
            masked, labels = super().torch_mask_tokens(
                inputs.clone(), special_tokens_mask, offset_mapping
            )
            if (labels != -100).any():
                return masked, labels


class _Watch(TrainerCallback):
    """Moves the bar, keeps the history, stops a training that has diverged."""

    def __init__(
        self, stage: str, bar: Any, after_epoch: Callable[[int], float] | None
    ) -> None:
        self.stage = stage
        self.bar = bar
        self.after_epoch = after_epoch
        self.history: list[dict[str, Any]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step as done."""
        self.bar.update()

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note an epoch's mean loss; the log after the last epoch has none."""
        if not logs or "loss" not in logs:
            return
        epoch, loss = round(state.epoch), logs["loss"]
        if not math.isfinite(loss):
            raise ConfigurationError(
                f"the teacher diverged in epoch {epoch} of stage {self.stage}",
                found=f"loss {loss}",
                fix=f"lower teacher.{self.stage}_learning_rate",
            )
        accuracy = self.after_epoch(epoch) if self.after_epoch else None
        self.history.append(
            {
                "stage": self.stage,
                "epoch": epoch,
                "loss": loss,
                "valid_accuracy": accuracy,
            }
        )
        self.bar.set_postfix(stage=self.stage, epoch=epoch, loss=f"{loss:.3f}")
        _LOG.info("%s", self.history[-1])


def _fit(
    model: PreTrainedModel,
    examples: list[dict[str, Any]],
    collator: Any,
    *,
    stage: str,
    learning_rate: float,
    epochs: int,
    params: TeacherParams,
    device: torch.device,
    folder: Path,
    bar: Any,
    after_epoch: Callable[[int], float] | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place; the history, one row an epoch."""
    watch = _Watch(stage, bar, after_epoch)
    arguments = TrainingArguments(
        output_dir=str(folder),  # nothing is saved there: save_strategy
        per_device_train_batch_size=params.batch_size,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        lr_scheduler_type=params.schedule,
        warmup_steps=params.warmup,
        optim="adamw_torch",
        weight_decay=0.0,  # AdamW without decay is the paper's Adam
        adam_beta1=params.adam_beta1,
        adam_beta2=params.adam_beta2,
        seed=params.seed,
        use_cpu=device.type == "cpu",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # it hides a NaN loss and trains on
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,  # keeps special_tokens_mask for the collator
    )
    arguments._n_gpu = 1  # else a batch is spread over, and multiplied by, all GPUs
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=examples,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)  # prints to stdout
    trainer.train()
    return watch.history


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of the weights, on the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in model.state_dict().items()
    }


def _predict_table(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    table: pd.DataFrame,
    classes: list[str],
) -> pd.DataFrame:
    """`table` with each utterance's `predicted` intent and its `confidence`."""
    texts, rows = np.unique(table["text"].to_numpy(str), return_inverse=True)
    numbers, confidences = predict(model, tokenizer, texts.tolist())
    named = np.array(classes)[numbers]
    return table.assign(predicted=named[rows], confidence=confidences[rows])


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; on success it takes `folder`'s place.

    If the block raises, it is removed and `folder` is untouched.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    former = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    for leftover in (beside, former):  # of a killed process that had our number
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for path in sorted(beside.iterdir()):
            with open(path, "rb") as stream:
                os.fsync(stream.fileno())
        if folder.exists():
            os.replace(folder, former)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
