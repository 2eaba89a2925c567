"""Fine-tune the teacher: masked language model, then intents (paper, section 2.2).

Reads the manifest, its intents and the texts without recordings, an utterance each.
Writes one folder, whole or not at all:

    config.json, model.safetensors, tokenizer*.json   as transformers loads them
    head.safetensors  the layer of `head: mean`, see `mean_head.py`
    history.csv       stage, epoch; loss and accuracy (percent) on train during the
                      epoch, of masked tokens, then of utterances; valid_accuracy and
                      valid_macro_f1 (percent; intent stage only)
    predictions.csv   id, split, intent, predicted and its probability (`confidence`):
                      valid and test
    scores.json       mlm_loss, intent_epoch, texts_cut (distinct texts longer than
                      max_tokens), {train,valid,test}_{accuracy,macro_f1} (percent)
    identity.json     what it was made from; see `stages/core/results.py`

The predictions are Baseline-1 on ground-truth text. Only train texts reach the
vocabulary and the weights; valid chooses the epoch where `selection` is `best`; test is
predicted once, at the end.

An interrupted run resumes from its work folder, if parameters, inputs and device are
the same, and gives the same bytes as an uninterrupted one:

    <fingerprint>/mlm/      Trainer's checkpoints, and finished.pt: the weights and the
                            history of the finished stage
    <fingerprint>/intent/   Trainer's checkpoints
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.core.corpus_files import CorpusFiles
from stages.core.files import locked
from stages.core.manifest import read_train
from stages.core.results import find, identify, model_files, result_folder
from stages.core.runtime import RunOptions
from stages.core.text import normalise_text
from stages.teacher.params import REVISION, TeacherParams


@dataclass(frozen=True)
class Summary:
    """What `run` did."""

    output: Path
    up_to_date: bool
    utterances: int
    texts: int
    epochs: int
    selection: str
    scores: dict[str, float]

    def __str__(self) -> str:
        """One line for the terminal."""
        state = "up to date; " if self.up_to_date else ""
        why = "the best on valid" if self.selection == "best" else "the last"
        figures = ", ".join(
            f"{self.scores[f'{split}_accuracy']:.2f}% of {split} (macro-F1 "
            f"{self.scores[f'{split}_macro_f1']:.2f}%)"
            for split in ("valid", "test")
        )
        line = (
            f"{self.output}: {state}teacher of {self.utterances:,} train utterances in "
            f"{self.texts:,} wordings, intent epoch {self.scores['intent_epoch']} of "
            f"{self.epochs}, {why}; on ground-truth text {figures}"
        )
        if cut := self.scores["texts_cut"]:
            line += f"; teacher.max_tokens cut {cut:,} text{'' if cut == 1 else 's'}"
        return line


def run(
    params: TeacherParams,
    corpus: CorpusFiles,
    *,
    output: Path,
    work: Path,
    checkpoint_minutes: float = 10,
    options: RunOptions,
) -> Summary:
    """Train the teacher of `corpus` and write it to the folder `output`.

    Args:
        params: how it is trained.
        corpus: the tables it is trained from.
        output: the teacher's folder; an older result is replaced.
        work: keeps an interrupted run; removed once the teacher is finished.
        checkpoint_minutes: training time between two checkpoints; changes no result.
        options: device and force.

    Raises:
        ConfigurationError: parameters that the model or the texts cannot take, or with
            which the training diverged.
        InputError: an unusable manifest or model.
        CacheError: another process is training this teacher.
    """
    inputs: dict[str, Path | None] = {
        "manifest": corpus.manifest,
        "intents": corpus.intents,
        "texts": corpus.texts,
    }
    inputs |= model_files(Path(params.model))
    identity = identify("teacher", REVISION, asdict(params), inputs)
    up_to_date = not options.force and find(output, identity, corpus.kept)
    if not up_to_date:
        # Not at the top: importing torch takes longer than all else.
        from stages.teacher.finetuning import finetune

        with locked(work):
            if options.force:
                _empty(work)
            with result_folder(output, identity, corpus.kept) as folder:
                finetune(
                    params,
                    corpus,
                    folder,
                    work=work,
                    identity=identity,
                    minutes=checkpoint_minutes,
                    device=options.device,
                )
            shutil.rmtree(work)
    train = read_train(corpus.manifest, corpus.texts)["text"].map(normalise_text)
    return Summary(
        output,
        up_to_date,
        utterances=len(train),
        texts=train.nunique(),
        epochs=params.intent_epochs,
        selection=params.selection,
        scores=json.loads((output / "scores.json").read_text("utf-8")),
    )


def _empty(work: Path) -> None:
    """Remove what an interrupted run left, but not the lock."""
    for folder in work.glob("[!.]*"):
        shutil.rmtree(folder)
