"""Fine-tune the teacher: masked language model, then intents (paper, section 2.2).

Reads the manifest and its intents. Writes one folder, whole or not at all:

    config.json, model.safetensors, tokenizer*.json   as transformers loads them
    parameters.json   the parameters it was trained with
    history.csv       stage, epoch; loss and accuracy (percent) on train as it went, of
                      masked tokens, then of utterances; valid_accuracy and
                      valid_macro_f1 (percent; intent stage alone)
    predictions.csv   id, split, intent, predicted and its probability (`confidence`):
                      valid and test
    scores.json       mlm_loss, intent_epoch, {train,valid,test}_{accuracy,macro_f1}
                      (percent)

The predictions are Baseline-1 on ground-truth text. Train texts alone reach the
vocabulary and the weights; valid chooses the epoch where `selection` is `best`; test is
predicted once, at the end.

Training is per utterance, as the paper's: a wording spoken a hundred times counts a
hundred times an epoch. Predicting is per distinct text.

A run that was interrupted goes on from its work folder, if it is to do the same, and
gives the same bytes on the same machine as one that was not:

    <fingerprint>/mlm/      checkpoints, and encoder.safetensors with finished.json,
                            the finished stage: its history, and the encoder's hash
    <fingerprint>/intent/   checkpoints

What is damaged there is told, and its stage begun anew.
"""

import copy
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stages.core import metrics
from stages.core.errors import ConfigurationError, InputError
from stages.core.files import atomic_path, whole_folder, write_json
from stages.core.hashing import fingerprint, hash_code, hash_file
from stages.core.manifest import SPLITS, read_intents, read_manifest
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
from stages.teacher.params import SCRATCH, TeacherParams
from stages.teacher.training import (
    HISTORY_COLUMNS,
    Labelled,
    Masked,
    Rows,
    copied_weights,
    fit,
    in_bf16,
    merge_repeats,
    steps_an_epoch,
    work_folder,
)
from stages.teacher.vocabulary import build_vocabulary

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What `run` did."""

    output: Path
    utterances: int
    texts: int
    intent_epoch: int
    epochs: int
    selection: str
    scores: dict[str, float]
    cut: int  # texts, of all splits, that are longer than `max_tokens`

    def __str__(self) -> str:
        """One line for the person who waited."""
        why = "the best on valid" if self.selection == "best" else "the last"
        told = ", ".join(
            f"{self.scores[f'{split}_accuracy']:.2f}% of {split} (macro-F1 "
            f"{self.scores[f'{split}_macro_f1']:.2f}%)"
            for split in ("valid", "test")
        )
        texts = "1 text" if self.cut == 1 else f"{self.cut:,} texts"
        cut = f"; teacher.max_tokens cut {texts}" * (self.cut > 0)
        return (
            f"{self.output}: teacher of {self.utterances:,} train utterances in "
            f"{self.texts:,} wordings, intent epoch {self.intent_epoch} of "
            f"{self.epochs}, {why}; on ground-truth text {told}{cut}"
        )


def run(
    params: TeacherParams,
    *,
    manifest: Path,
    intents: Path,
    output: Path,
    work: Path,
    device: str = "auto",
    checkpoint_minutes: float = 10,
) -> Summary:
    """Train the teacher of `manifest` and write it to the folder `output`.

    Args:
        params: how it is trained.
        manifest: the utterance table.
        intents: the list of intents.
        output: the teacher's folder; a former one is replaced.
        work: where an interrupted run is kept; emptied once the teacher is finished.
        device: `auto`, `cpu` or `cuda`.
        checkpoint_minutes: what an interruption costs at most; changes no result.

    Raises:
        ConfigurationError: parameters the model or the texts cannot take, or with
            which the training diverged; another process trains this teacher.
        InputError: an unusable manifest or model.
    """
    where = choose_device(device)
    if params.precision == "bf16" and not in_bf16(params.precision, where):
        _LOG.warning("no bfloat16 on this %s: the teacher trains in float32", where)
    classes = read_intents(intents)
    table = _read_texts(manifest, intents, classes)
    train = table[table["split"] == "train"]
    seed_everything(params.seed)
    with quiet_transformers(), work_folder(work), whole_folder(output) as folder:
        tokenizer, config = _start(params, train["text"])
        steps = _Steps(
            params=params,
            tokenizer=tokenizer,
            config=config,
            device=where,
            minutes=checkpoint_minutes,
            work=_own_folder(work, params, config, table, classes, where),
        )
        sentences = _maskable(manifest, steps, train["text"])
        utterances = _labelled(steps, train["text"], train["number"])
        total = sum(
            steps_an_epoch(rows, params) * epochs
            for rows, epochs in (
                (sentences, params.mlm_epochs),
                (utterances, params.intent_epochs),
            )
        )
        with progress(total=total, description="teacher", unit="step") as bar:
            encoder, history = _language_stage(steps, sentences, bar)
            classifier, epoch, more = _intent_stage(
                steps, encoder, classes, table, utterances, bar
            )
        predicted = _predict_table(classifier, tokenizer, table, classes)
        cut = count_cut(tokenizer, table["text"].unique().tolist())
        classifier.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        scores: dict[str, float] = {}
        for split in SPLITS:
            rows = predicted[predicted["split"] == split]
            measured = metrics.measure(rows["intent"], rows["predicted"])
            scores |= {f"{split}_{name}": round(v, 4) for name, v in measured.items()}
        write_json(folder / "parameters.json", asdict(params))
        history_table = pd.DataFrame(history + more, columns=list(HISTORY_COLUMNS))
        _write_csv(folder / "history.csv", history_table)
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
                **scores,
            },
        )
    return Summary(
        output,
        utterances=len(train),
        texts=train["text"].nunique(),
        intent_epoch=epoch,
        epochs=params.intent_epochs,
        selection=params.selection,
        scores=scores,
        cut=cut,
    )


def balanced_weights(numbers: Sequence[int], classes: int) -> Tensor:
    """What each class weighs so that all do alike, (classes,) float32.

    N / (classes * N_class), as King and Zeng 2001 and scikit-learn's `balanced`; an
    epoch's weights sum to N.
    """
    counts = np.bincount(np.asarray(numbers), minlength=classes)
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.tensor(weights, dtype=torch.float32)


@dataclass(frozen=True)
class _Steps:
    """What both stages work with."""

    params: TeacherParams
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    device: torch.device
    minutes: float
    work: Path

    def model(self, kind: Any, config: PreTrainedConfig) -> Any:
        """The starting model with the head of `kind`, in float32 whatever was saved."""
        # Here too, so that a stage starts alike whether or not one ran before it.
        seed_everything(self.params.seed)
        if self.params.model == SCRATCH:
            return kind.from_config(config)
        return load_model(
            kind, self.params.model, config, revision=self.params.revision
        )

    def fit(self, stage: str) -> Callable[..., tuple[list[dict[str, Any]], int]]:
        """`training.fit` of the stage called `stage`, `mlm` or `intent`."""
        return partial(
            fit,
            stage=stage,
            learning_rate=getattr(self.params, f"{stage}_learning_rate"),
            epochs=getattr(self.params, f"{stage}_epochs"),
            params=self.params,
            device=self.device,
            folder=self.work / stage,
            minutes=self.minutes,
        )


def _read_texts(manifest: Path, intents: Path, classes: list[str]) -> pd.DataFrame:
    """The manifest, texts normalised, with each intent's class number."""
    table = read_manifest(manifest)
    table["text"] = table["text"].map(normalise_text)
    table["number"] = table["intent"].map({name: n for n, name in enumerate(classes)})
    for row in table[table["number"].isna()].itertuples():
        raise InputError(
            f"does not list {row.intent!r}, the intent of {row.id}",
            path=intents,
            fix="run `aln-pipeline prepare-corpus`",
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
        config = load_config(params.model, revision=params.revision)
        tokenizer = load_tokenizer(params.model, revision=params.revision)
        if params.mlm_epochs and tokenizer.mask_token is None:
            raise InputError(
                "the tokenizer has no token that masks another",
                path=params.model,
                fix="set teacher.mlm_epochs to 0, which skips the stage that masks, or "
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


def _own_folder(
    work: Path,
    params: TeacherParams,
    config: PreTrainedConfig,
    table: pd.DataFrame,
    classes: list[str],
    device: torch.device,
) -> Path:
    """Where an interrupted run that was to do just this lies, or will."""
    start = Path(params.model)
    files = sorted(start.iterdir()) if start.is_dir() else []
    heard = table.loc[table["split"] != "test", ["split", "text", "number"]]
    identity = {
        "parameters": asdict(params),
        "model": {path.name: hash_file(path) for path in files if path.is_file()},
        "commit": getattr(config, "_commit_hash", None),
        "texts": heard.to_csv(index=False),
        "classes": classes,
        "code": hash_code(Path(__file__).parent),
        "versions": [torch.__version__, transformers.__version__],
        "device": device.type,
        "bf16": in_bf16(params.precision, device),
    }
    return work / fingerprint(identity)[:12]


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: bool
) -> Iterator[dict[str, Any]]:
    """The tokens of each of `texts`, made once a distinct text."""
    tokens = {
        text: dict(tokenizer(text, truncation=True, **options)) for text in set(texts)
    }
    return (tokens[text] for text in texts)


def _maskable(manifest: Path, steps: _Steps, texts: pd.Series) -> Rows:
    """Rows of the first stage: the texts that have a token to mask."""
    encoded = list(
        _encoded(steps.tokenizer, texts.tolist(), return_special_tokens_mask=True)
    )
    with_words = [
        (text, tokens)
        for text, tokens in zip(texts, encoded, strict=True)
        if 0 in tokens["special_tokens_mask"]
    ]
    if not with_words:
        raise InputError("no train utterance has a text", path=manifest)
    merged = merge_repeats(
        [text for text, _ in with_words], steps.params.repeats_per_row
    )
    return Rows([{**with_words[place][1], "count": count} for place, count in merged])


def _labelled(steps: _Steps, texts: pd.Series, numbers: pd.Series) -> Rows:
    """Rows of the second stage: tokens and the intent's number."""
    encoded = list(_encoded(steps.tokenizer, texts.tolist()))
    labels = numbers.tolist()
    keys = list(zip(texts, labels, strict=True))
    merged = merge_repeats(keys, steps.params.repeats_per_row)
    return Rows(
        [
            {**encoded[place], "labels": labels[place], "count": count}
            for place, count in merged
        ]
    )


def _language_stage(
    steps: _Steps, rows: Rows, bar: Any
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Masked language model; the encoder's weights, none if skipped, and history."""
    params, folder = steps.params, steps.work / "mlm"
    if params.mlm_epochs == 0:
        return {}, []
    weights, finished = folder / "encoder.safetensors", folder / "finished.json"
    if finished.exists():
        try:
            done = json.loads(finished.read_text("utf-8"))
            if hash_file(weights) != done["encoder"]:
                raise ValueError(f"{weights.name} has changed")
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("%s: damaged (%s); the stage begins anew", folder, error)
            shutil.rmtree(folder)
        else:
            _LOG.info("the masked-LM stage is done: %s", folder)
            bar.update(steps_an_epoch(rows, params) * params.mlm_epochs)
            return load_file(weights), done["history"]
    model = steps.model(AutoModelForMaskedLM, steps.config)
    history, _ = steps.fit("mlm")(model, rows, Masked(steps.tokenizer, params), bar=bar)
    encoder = copied_weights(model.base_model)
    with atomic_path(weights) as beside:
        save_file(encoder, beside)
    write_json(finished, {"history": history, "encoder": hash_file(weights)})
    return encoder, history


def _intent_stage(
    steps: _Steps,
    encoder: dict[str, Tensor],
    classes: list[str],
    table: pd.DataFrame,
    rows: Rows,
    bar: Any,
) -> tuple[PreTrainedModel, int, list[dict[str, Any]]]:
    """Intent classification from `encoder`; the classifier, its epoch and history."""
    config = copy.deepcopy(steps.config)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: number for number, name in enumerate(classes)}
    config.problem_type = "single_label_classification"  # also where there is one
    model = steps.model(AutoModelForSequenceClassification, config)
    if encoder:
        # A masked-LM model has no pooler: the starting model's own is kept.
        keys = model.base_model.load_state_dict(encoder, strict=False)
        kept = [name for name in keys.missing_keys if not name.startswith("pooler.")]
        assert not keys.unexpected_keys and not kept, keys
    valid = table[table["split"] == "valid"]

    def measure() -> dict[str, float]:
        predicted = _predict_table(model, steps.tokenizer, valid, classes)["predicted"]
        measured = metrics.measure(valid["intent"], predicted)
        return {f"valid_{name}": value for name, value in measured.items()}

    weights = None
    if steps.params.class_weights == "balanced":
        train = table.loc[table["split"] == "train", "number"]
        weights = balanced_weights(train.tolist(), len(classes))
    history, epoch = steps.fit("intent")(
        model,
        rows,
        Labelled(steps.tokenizer),
        bar=bar,
        class_weights=weights,
        measure=measure,
    )
    return model, epoch, history


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
