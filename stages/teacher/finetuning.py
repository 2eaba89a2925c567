"""Both stages of fine-tuning, from the corpus to the files of the teacher's folder.

Training is per utterance, as in the paper: a wording spoken a hundred times counts a
hundred times an epoch. Prediction is per distinct text.
"""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stages.core.checkpoint import read_checkpoint, write_checkpoint
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import ConfigurationError, InputError
from stages.core.files import write_json
from stages.core.hashing import fingerprint
from stages.core.labels import Labels, segments
from stages.core.manifest import SPLITS, read_labels, read_manifest, read_train
from stages.core.metrics import measure_frames
from stages.core.runtime import (
    choose_device,
    progress,
    quiet_transformers,
    seed_everything,
)
from stages.core.text import normalise_text
from stages.teacher.bert import (
    count_cut,
    fit_tokenizer,
    load_config,
    load_model,
    load_tokenizer,
    longest_text,
    predict,
)
from stages.teacher.mean_head import MeanClassifier
from stages.teacher.params import SCRATCH, TeacherParams
from stages.teacher.training import (
    Labelled,
    Masked,
    Rows,
    Stage,
    copied_weights,
    fit,
    in_bf16,
    merge_repeats,
    slot_mask,
    steps_an_epoch,
)
from stages.teacher.vocabulary import build_vocabulary

_LOG = logging.getLogger(__name__)


def finetune(
    params: TeacherParams,
    corpus: CorpusFiles,
    folder: Path,
    *,
    work: Path,
    identity: Mapping[str, Any],
    minutes: float,
    device: str,
) -> None:
    """Train a teacher and write its files to `folder`.

    Args:
        params: how it is trained.
        corpus: the tables it is trained from.
        folder: an empty folder for the teacher.
        work: keeps what an interrupted run resumes from, in a folder of its own for
            each `identity`.
        identity: what the teacher is made from.
        minutes: training time between two checkpoints.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        ConfigurationError: parameters that the model or the texts cannot take, or with
            which the training diverged.
        InputError: an unusable manifest or model.
    """
    where = choose_device(device)
    if params.precision == "bf16" and not in_bf16(params.precision, where):
        _LOG.warning("no bfloat16 on this %s: the teacher trains in float32", where)
    labels = read_labels(corpus.intents)
    table = read_manifest(corpus.manifest)
    table["text"] = table["text"].map(normalise_text)
    train = read_train(corpus.manifest, corpus.texts)
    train["text"] = train["text"].map(normalise_text)
    # Among the values of all slots. (utterances, slots)
    numbers = labels.numbers(train["intent"]) + labels.starts
    seed_everything(params.seed)
    with (
        quiet_transformers(),
        progress(description="teacher", unit="step") as bar,
    ):
        tokenizer, config = _start(params, train["text"])
        mark = fingerprint({**identity, **_circumstances(params, config, where)})
        training = _Training(
            params, tokenizer, config, where, minutes, work / mark[:12], mark, bar
        )
        sentences = training.maskable(corpus.manifest, train["text"])
        utterances = training.labelled(train["text"], numbers)
        bar.total = (
            steps_an_epoch(sentences, params) * params.mlm_epochs
            + steps_an_epoch(utterances, params) * params.intent_epochs
        )
        encoder, history = training.language_stage(sentences)
        classifier, epoch, more = training.intent_stage(
            encoder, labels, table, utterances, numbers
        )
        predicted = _predict_table(classifier, tokenizer, table, labels)
        cut = count_cut(tokenizer, table["text"].unique().tolist())
        classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _write_csv(folder / "history.csv", pd.DataFrame(history + more))
    scored = predicted[predicted["split"].isin(["valid", "test"])]
    columns = ["id", "split", "intent", "predicted", "confidence"]
    _write_csv(folder / "predictions.csv", scored[columns])
    scores = {
        "mlm_loss": round(history[-1]["loss"], 6) if history else None,
        "intent_epoch": epoch,
        "texts_cut": cut,
    }
    write_json(folder / "scores.json", scores | _measure(predicted, labels))


def balanced_weights(numbers: np.ndarray, values: Sequence[int]) -> Tensor:
    """The weight that gives each class of a slot the same share of the loss, float32.

    N / (classes * N_class), as King and Zeng 2001 and scikit-learn's `balanced`; an
    epoch's weights sum to N in each slot.

    Args:
        numbers: among the values of all slots, (N, slots).
        values: how many each slot has.
    """
    counts = np.bincount(numbers.ravel(), minlength=sum(values))
    weights = [
        part.sum() / (np.count_nonzero(part) * np.maximum(part, 1))
        for part in segments(counts, values)
    ]
    return torch.tensor(np.concatenate(weights), dtype=torch.float32)


@dataclass(frozen=True)
class _Training:
    """What both stages use."""

    params: TeacherParams
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    device: torch.device
    minutes: float
    work: Path
    identity: str
    bar: Any

    def maskable(self, manifest: Path, texts: pd.Series) -> Rows:
        """Rows of the first stage: the texts that have a token to mask."""
        encoded = _encoded(self.tokenizer, texts, return_special_tokens_mask=True)
        with_words = [
            (text, tokens)
            for text, tokens in zip(texts, encoded, strict=True)
            if 0 in tokens["special_tokens_mask"]
        ]
        if not with_words:
            raise InputError("no train utterance has a text", path=manifest)
        keys, examples = zip(*with_words, strict=True)
        return self._merge(examples, keys)

    def labelled(self, texts: pd.Series, numbers: np.ndarray) -> Rows:
        """Rows of the second stage: tokens and class numbers (utterances, slots)."""
        keys = list(zip(texts, map(tuple, numbers.tolist()), strict=True))
        encoded = _encoded(self.tokenizer, texts)
        examples = [
            {**tokens, "labels": own}
            for tokens, (_, own) in zip(encoded, keys, strict=True)
        ]
        return self._merge(examples, keys)

    def _merge(self, examples: Sequence[dict[str, Any]], keys: Sequence[Any]) -> Rows:
        merged = merge_repeats(keys, self.params.repeats_per_row)
        return Rows([{**examples[place], "count": count} for place, count in merged])

    def language_stage(
        self, rows: Rows
    ) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Train the masked language model: its encoder (empty if skipped), history."""
        params, stage = self.params, self._stage("mlm")
        if params.mlm_epochs == 0:
            return {}, []
        finished = stage.folder / "finished.pt"
        if state := read_checkpoint(finished, self.identity):
            _LOG.info("the masked-LM stage is finished: %s", stage.folder)
            self.bar.update(steps_an_epoch(rows, params) * params.mlm_epochs)
            return state["encoder"], state["history"]
        model = self._model(AutoModelForMaskedLM, self.config)
        history, _ = fit(
            model, rows, Masked(self.tokenizer, params), stage=stage, params=params
        )
        encoder = copied_weights(model.base_model)
        state = {"encoder": encoder, "history": history}
        write_checkpoint(finished, self.identity, state)
        return encoder, history

    def intent_stage(
        self,
        encoder: dict[str, Tensor],
        labels: Labels,
        table: pd.DataFrame,
        rows: Rows,
        numbers: np.ndarray,
    ) -> tuple[PreTrainedModel | MeanClassifier, int, list[dict[str, Any]]]:
        """Train the intent classifier from `encoder`: model, epoch, history.

        Args:
            encoder: weights of the first stage.
            labels: of the corpus.
            table: the manifest.
            rows: of `labelled`.
            numbers: of train, among the values of all slots, (utterances, slots).
        """
        classes = [
            f"{slot}={value}" if labels.has_slots else value
            for slot, values in labels.slots.items()
            for value in values
        ]
        config = copy.deepcopy(self.config)
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
        config.problem_type = "single_label_classification"  # also where there is one
        model = self._classifier(config)
        if encoder:
            # A masked-LM model has no pooler: the starting model's own is kept.
            keys = model.base_model.load_state_dict(encoder, strict=False)
            kept = [key for key in keys.missing_keys if not key.startswith("pooler.")]
            assert not keys.unexpected_keys and not kept, keys
        valid = table[table["split"] == "valid"]

        def measure() -> dict[str, float]:
            predicted = _predict_table(model, self.tokenizer, valid, labels)
            measured = measure_frames(labels, predicted)
            return {f"valid_{name}": value for name, value in measured.items()}

        weights = None
        if self.params.class_weights == "balanced":
            weights = balanced_weights(numbers, labels.sizes)
        history, epoch = fit(
            model,
            rows,
            Labelled(self.tokenizer),
            stage=self._stage("intent"),
            params=self.params,
            class_weights=weights,
            allowed=slot_mask(labels.sizes),
            measure=measure,
        )
        return model, epoch, history

    def _classifier(self, config: PreTrainedConfig) -> Any:
        """The starting model with the head that `params` names."""
        if self.params.head == "cls":
            model = self._model(AutoModelForSequenceClassification, config)
        else:
            encoder = self._model(AutoModel, config)
            model = MeanClassifier(encoder, len(config.id2label or ()))
        if self.params.frozen_embeddings:
            model.base_model.get_input_embeddings().requires_grad_(False)
        return model

    def _model(self, kind: Any, config: PreTrainedConfig) -> Any:
        """The starting model with the head of `kind`, float32 whatever was saved."""
        # Here too, so a stage starts alike whether or not one ran before it.
        seed_everything(self.params.seed)
        if self.params.model == SCRATCH:
            return kind.from_config(config)
        return load_model(
            kind, self.params.model, config, revision=self.params.revision
        )

    def _stage(self, name: str) -> Stage:
        return Stage(
            name,
            learning_rate=getattr(self.params, f"{name}_learning_rate"),
            epochs=getattr(self.params, f"{name}_epochs"),
            device=self.device,
            folder=self.work / name,
            minutes=self.minutes,
            bar=self.bar,
            head_learning_rate=(
                self.params.head_learning_rate if name == "intent" else 0.0
            ),
        )


def _start(
    params: TeacherParams, texts: pd.Series
) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig]:
    """The tokenizer and the configuration training starts from.

    The tokenizer cuts texts at `max_tokens`, also when it is loaded again.
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
        config = load_config(params.model, revision=params.revision)
        tokenizer = load_tokenizer(params.model, revision=params.revision)
        if params.mlm_epochs and tokenizer.mask_token is None:
            raise InputError(
                "the tokenizer has no mask token",
                path=params.model,
                fix="set teacher.mlm_epochs to 0, which skips the masked-LM stage, or "
                "choose a teacher.model that has one",
            )
        if len(tokenizer) > config.vocab_size:
            raise InputError(
                "tokenizer and model do not belong together",
                path=params.model,
                found=f"{len(tokenizer)} pieces for {config.vocab_size} embeddings",
            )
        longest = longest_text(tokenizer, config)
        if longest is not None and params.max_tokens > longest:
            raise ConfigurationError(
                f"teacher.max_tokens is more than {params.model} takes",
                found=params.max_tokens,
                expected=f"at most {longest}",
            )
    fit_tokenizer(tokenizer, config)
    tokenizer.model_max_length = params.max_tokens
    return tokenizer, config


def _circumstances(
    params: TeacherParams, config: PreTrainedConfig, device: torch.device
) -> dict[str, Any]:
    """What must also be the same where an interrupted run resumes."""
    return {
        "commit": getattr(config, "_commit_hash", None),
        "versions": [torch.__version__, transformers.__version__],
        "device": device.type,
        "bf16": in_bf16(params.precision, device),
    }


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: pd.Series, **options: bool
) -> Iterator[dict[str, Any]]:
    """The tokens of each of `texts`; each distinct text is tokenised once."""
    tokens = {
        text: dict(tokenizer(text, truncation=True, **options)) for text in set(texts)
    }
    return (tokens[text] for text in texts)


def _predict_table(
    model: PreTrainedModel | MeanClassifier,
    tokenizer: PreTrainedTokenizerBase,
    table: pd.DataFrame,
    labels: Labels,
) -> pd.DataFrame:
    """`table` with each utterance's `predicted` intent and its `confidence`."""
    texts, rows = np.unique(table["text"].to_numpy(str), return_inverse=True)
    numbers, confidences = predict(model, tokenizer, texts.tolist(), labels)
    named = np.array(labels.frames(numbers))
    return table.assign(predicted=named[rows], confidence=confidences[rows])


def _measure(predicted: pd.DataFrame, labels: Labels) -> dict[str, float]:
    """`{split}_{metric}` in percent, of a table with `predicted`."""
    scores: dict[str, float] = {}
    for split in SPLITS:
        rows = predicted[predicted["split"] == split]
        measured = measure_frames(labels, rows)
        scores |= {f"{split}_{name}": round(v, 4) for name, v in measured.items()}
    return scores


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
