"""Baseline-1: a recogniser's text, classified by the fine-tuned BERT (section 3.1).

Reads the tables of the corpus, the recordings of valid and test that have no transcript
yet, the recogniser's model, and the teacher. Writes transcripts to their cache, and one
folder, whole or not at all:

    transcripts.csv   id, split, text (the reference), transcript; both normalised
    predictions.csv   id, split, intent, predicted and its probability (`confidence`)
    scores.json       recogniser, {valid,test}_{accuracy,macro_f1,word_error_rate} in
                      percent, {valid,test}_empty
    identity.json     what it was made from; see `stages/core/results.py`

A recording in which nothing was recognised is classified as the empty text. Of train,
only the texts are read, and only if the language model is `train`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stages.baseline1.params import LANGUAGE_MODELS, REVISION, Baseline1Params
from stages.core.corpus_files import CorpusFiles
from stages.core.files import write_json
from stages.core.labels import Labels
from stages.core.results import find, identify, model_files, require, result_folder
from stages.core.runtime import RunOptions, choose_device, quiet_transformers
from stages.core.text import normalise_text

if TYPE_CHECKING:
    import torch

TRANSCRIBED = ("valid", "test")

_TEACHER_FIX = "run `aln-pipeline train-teacher`"

_TABLES = {
    "transcripts.csv": ["id", "split", "text", "transcript"],
    "predictions.csv": ["id", "split", "intent", "predicted", "confidence"],
}


@dataclass(frozen=True)
class Summary:
    """What `run` wrote, or found."""

    output: Path
    utterances: int
    computed: int | None  # None: up to date
    scores: dict[str, Any]

    def __str__(self) -> str:
        """One line for the terminal."""
        state, new = "up to date; ", ""
        if self.computed is not None:
            state, new = "", f", {self.computed:,} of them new"
        figures = ", ".join(
            f"{self.scores[f'{split}_accuracy']:.2f}% of {split} (word error rate "
            f"{self.scores[f'{split}_word_error_rate']:.2f}%, nothing recognised in "
            f"{self.scores[f'{split}_empty']})"
            for split in TRANSCRIBED
        )
        return (
            f"{self.output}: {state}{self.utterances:,} transcripts of "
            f"{self.scores['recogniser']}{new}; {figures}"
        )


def run(
    params: Baseline1Params,
    corpus: CorpusFiles,
    *,
    audio: Path,
    teacher: Path,
    transcripts: Path,
    output: Path,
    options: RunOptions,
) -> Summary:
    """Transcribe what is not transcribed yet, classify all, and write `output`.

    Args:
        params: the recogniser.
        corpus: its tables.
        audio: the folder that the manifest's paths are relative to.
        teacher: folder of the fine-tuned BERT.
        transcripts: folder of the transcripts' cache.
        output: the folder to write; an older result is replaced.
        options: device, workers (processes that transcribe, on the CPU), and force,
            which keeps the cached transcripts.

    Raises:
        CacheError: no teacher, damaged transcripts, or another process is writing them.
        ConfigurationError: a recogniser that cannot be used, or a missing extra.
        InputError: an unusable manifest, model or table of transcripts, or a recording
            that is missing or has changed; finished transcripts are kept.
    """
    made_from = {"intents": corpus.intents}
    require(teacher, made_from, fix=_TEACHER_FIX, alone=True)
    identity = identify(
        "baseline1", REVISION, asdict(params), _inputs(params, corpus, teacher)
    )
    computed = None
    if options.force or not find(output, identity, corpus.kept):
        table, scores, computed = _measure(
            params, corpus, audio, teacher, transcripts, options
        )
        with result_folder(output, identity, corpus.kept) as folder:
            for name, columns in _TABLES.items():
                table[columns].to_csv(
                    folder / name, index=False, float_format="%.6f", lineterminator="\n"
                )
            write_json(folder / "scores.json", scores)
    return Summary(
        output,
        len(pd.read_csv(output / "predictions.csv")),
        computed,
        json.loads((output / "scores.json").read_text("utf-8")),
    )


def _inputs(
    params: Baseline1Params, corpus: CorpusFiles, teacher: Path
) -> dict[str, Path | None]:
    """The files and folders that the result depends on, by name."""
    inputs: dict[str, Path | None] = {
        "manifest": corpus.manifest,
        "intents": corpus.intents,
        "quarantine": corpus.quarantine,
        "teacher": teacher,
        "language_model": None
        if params.language_model in LANGUAGE_MODELS
        else Path(params.language_model),
    }
    return inputs | model_files(Path(params.model))


def _measure(
    params: Baseline1Params,
    corpus: CorpusFiles,
    audio: Path,
    teacher: Path,
    transcripts: Path,
    options: RunOptions,
) -> tuple[pd.DataFrame, dict[str, Any], int]:
    """Valid and test with transcript and intent, the scores, and new transcripts."""
    # Not at the top: importing torch takes longer than finding a finished result.
    from stages.baseline1.given import read_given
    from stages.baseline1.transcribing import choose_recogniser, transcribe
    from stages.core.manifest import read_labels

    device = choose_device(options.device)
    labels = read_labels(corpus.intents)
    table = corpus.read_usable()
    table["text"] = table["text"].map(normalise_text)
    rows = table[table["split"].isin(TRANSCRIBED)].reset_index(drop=True)
    if params.recogniser == "given":
        path = Path(params.model)
        name, computed = f"transcripts in {path.name}", 0
        texts = read_given(path, params.column, rows["id"])
    else:
        recogniser = choose_recogniser(
            params,
            texts=table.loc[table["split"] == "train", "text"].tolist(),
            work=transcripts / "models",
            workers=options.workers,
        )
        name = recogniser.name
        texts, computed = transcribe(
            recogniser,
            rows,
            audio=audio,
            directory=transcripts,
            device=device,
            workers=options.workers,
        )
    rows["transcript"] = [normalise_text(text) for text in texts]
    rows["predicted"], rows["confidence"] = _classify(
        teacher, rows["transcript"], labels, device
    )
    return rows, {"recogniser": name, **_scores(rows, labels)}, computed


def _classify(
    teacher: Path, texts: pd.Series, labels: Labels, device: "torch.device"
) -> tuple[np.ndarray, np.ndarray]:
    """The intent of each of `texts`, and its probability."""
    from stages.teacher.bert import load_classifier, predict

    distinct, rows = np.unique(texts.to_numpy(str), return_inverse=True)
    with quiet_transformers():
        classifier, tokenizer = load_classifier(teacher, device)
        numbers, confidences = predict(classifier, tokenizer, distinct.tolist(), labels)
    return np.array(labels.frames(numbers))[rows], confidences[rows]


def _scores(rows: pd.DataFrame, labels: Labels) -> dict[str, float]:
    """Accuracy and word errors by split."""
    from stages.core.metrics import measure_frames
    from stages.core.word_errors import count_errors

    scores: dict[str, float] = {}
    for split in TRANSCRIBED:
        found = rows[rows["split"] == split]
        errors = count_errors(found["text"].tolist(), found["transcript"].tolist())
        measured = {
            **measure_frames(labels, found),
            "word_error_rate": errors.rate,
        }
        scores |= {f"{split}_{key}": round(v, 4) for key, v in measured.items()}
        scores[f"{split}_empty"] = errors.empty
    return scores
