"""Baseline-1: a recogniser's text, classified by the fine-tuned BERT (section 3.1).

Reads the manifest but for the recordings set aside, valid's and test's recordings that
are not transcribed yet, the recogniser's model, and the teacher. Writes transcripts to
their cache, and one folder, whole or not at all:

    transcripts.csv   id, split, text (the reference), transcript; both normalised
    predictions.csv   id, split, intent, predicted and its probability (`confidence`)
    scores.json       recogniser, {valid,test}_{accuracy,macro_f1,word_error_rate} in
                      percent, {valid,test}_empty

A recording in which nothing was recognised is classified as the empty text. Of train,
only the texts are read, and these only where the language model is `train`.
"""

import csv
import json
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stages.baseline1.params import Baseline1Params
from stages.baseline1.recognisers import Recogniser, Transcribe, choose_recogniser
from stages.baseline1.transcripts import open_transcripts
from stages.core import metrics
from stages.core.errors import (
    CacheError,
    ConfigurationError,
    InputError,
    RecordingError,
)
from stages.core.files import whole_folder, write_json
from stages.core.manifest import (
    read_intents,
    read_manifest,
    read_quarantine,
    usable_rows,
)
from stages.core.runtime import choose_device, progress, quiet_transformers
from stages.core.text import normalise_text
from stages.core.word_errors import count_errors
from stages.core.workers import run_in_processes
from stages.speech.loading import try_audio
from stages.teacher.bert import load_classifier, predict

HEARD = ("valid", "test")

# Seconds of audio that are worth the start of processes.
_PROCESSES_SECONDS = 300.0

# How a table's fields are parted, and whether it quotes them.
_FORMATS = {".csv": (",", csv.QUOTE_MINIMAL), ".tsv": ("\t", csv.QUOTE_NONE)}
_TEACHER_FIX = "run `aln-pipeline train-teacher`"

Recording = tuple[Path, str]
"""A file and the SHA-256 of its bytes."""


@dataclass(frozen=True)
class Summary:
    """What `run` did."""

    output: Path
    recogniser: str
    utterances: int
    computed: int
    scores: dict[str, float]

    def __str__(self) -> str:
        """One line for the person who waited."""
        told = ", ".join(
            f"{self.scores[f'{split}_accuracy']:.2f}% of {split} (word error rate "
            f"{self.scores[f'{split}_word_error_rate']:.2f}%, nothing recognised in "
            f"{self.scores[f'{split}_empty']})"
            for split in HEARD
        )
        return (
            f"{self.output}: {self.utterances:,} transcripts of {self.recogniser}, "
            f"{self.computed:,} of them new; {told}"
        )


def run(
    params: Baseline1Params,
    *,
    manifest: Path,
    intents: Path,
    quarantine: Path,
    audio: Path,
    teacher: Path,
    transcripts: Path,
    output: Path,
    device: str = "auto",
    workers: int = 2,
) -> Summary:
    """Transcribe what is not transcribed yet, classify all, and write `output`.

    Args:
        params: the recogniser.
        manifest: the utterance table.
        intents: the list of intents.
        quarantine: names the recordings that are left out.
        audio: the folder that the manifest's paths are relative to.
        teacher: folder of the fine-tuned BERT.
        transcripts: folder of the transcripts' cache.
        output: the folder to write; a former one is replaced.
        device: auto, cpu or cuda.
        workers: processes that transcribe, on the CPU.

    Raises:
        CacheError: no teacher, damaged transcripts, or another process writes them.
        ConfigurationError: a recogniser that cannot be used, or a missing extra.
        InputError: an unusable manifest, model or table of transcripts, or a recording
            that is missing or has changed; what was transcribed before is kept.
    """
    where = choose_device(device)
    names = read_intents(intents)
    _check_teacher(teacher, names)
    table = usable_rows(manifest, read_manifest(manifest), read_quarantine(quarantine))
    table["text"] = table["text"].map(normalise_text)
    heard = table[table["split"].isin(HEARD)].reset_index(drop=True)
    if params.recogniser == "given":
        path = Path(params.model)
        name, computed = f"transcripts in {path.name}", 0
        said = _read_given(path, params.column, heard["id"])
    else:
        train = table.loc[table["split"] == "train", "text"]
        recogniser = choose_recogniser(
            params,
            texts=train.tolist(),
            work=transcripts / "models",
            workers=workers,
        )
        name = recogniser.name
        said, computed = _transcribe(
            recogniser, heard, audio, transcripts, where, workers
        )
    heard["transcript"] = [normalise_text(text) for text in said]
    heard["predicted"], heard["confidence"] = _classify(
        teacher, heard["transcript"], names, where
    )
    scores: dict[str, Any] = {}
    for split in HEARD:
        rows = heard[heard["split"] == split]
        errors = count_errors(rows["text"].tolist(), rows["transcript"].tolist())
        measured = {
            **metrics.measure(rows["intent"], rows["predicted"]),
            "word_error_rate": errors.rate,
        }
        scores |= {f"{split}_{key}": round(v, 4) for key, v in measured.items()}
        scores[f"{split}_empty"] = errors.empty
    with whole_folder(output) as folder:
        for file, columns in (
            ("transcripts.csv", ["id", "split", "text", "transcript"]),
            (
                "predictions.csv",
                ["id", "split", "intent", "predicted", "confidence"],
            ),
        ):
            heard[columns].to_csv(
                folder / file, index=False, float_format="%.6f", lineterminator="\n"
            )
        write_json(folder / "scores.json", {"recogniser": name, **scores})
    return Summary(output, name, len(heard), computed, scores)


def _transcribe(
    recogniser: Recogniser,
    heard: pd.DataFrame,
    audio: Path,
    directory: Path,
    device: torch.device,
    workers: int,
) -> tuple[list[str], int]:
    """What `recogniser` makes of each row of `heard`, and how many are new."""
    distinct = heard.drop_duplicates("audio_sha256").sort_values(["seconds", "id"])
    fingerprint, name = recogniser.fingerprint, recogniser.name
    with open_transcripts(directory, fingerprint, name) as kept:
        missing = kept.missing(distinct["audio_sha256"])
        todo = distinct[distinct["audio_sha256"].isin(missing)]
        recordings = [(audio / row.path, row.audio_sha256) for row in todo.itertuples()]
        enough = todo["seconds"].sum() >= _PROCESSES_SECONDS
        # Those that work on the CPU anyway leave a GPU alone.
        if recogniser.on_cpu:
            device = torch.device("cpu")
        several = workers > 1 and device.type == "cpu" and enough
        texts = _recognise(recogniser, recordings, device, workers if several else 1)
        bar = progress(total=len(todo), description="transcribing", unit="file")
        with bar, closing(texts):
            for row, text in zip(todo.itertuples(), texts, strict=True):
                if isinstance(text, RecordingError):
                    raise text
                kept.add(row.audio_sha256, row.id, text)
                bar.update()
        return [kept[key] for key in heard["audio_sha256"]], len(todo)


def _recognise(
    recogniser: Recogniser,
    recordings: Sequence[Recording],
    device: torch.device,
    processes: int,
) -> Generator[str | RecordingError, None, None]:
    work = partial(_transcribe_recording, recogniser, device.type)
    if processes > 1:
        return run_in_processes(work, recordings, processes, preload=__name__)
    return (work(recording) for recording in recordings)


@cache
def _opened(recogniser: Recogniser, device: str) -> Transcribe:
    with quiet_transformers():
        return recogniser.open(torch.device(device))


def _transcribe_recording(
    recogniser: Recogniser, device: str, recording: Recording
) -> str | RecordingError:
    wave = try_audio(*recording)
    if isinstance(wave, RecordingError):
        return wave
    return _opened(recogniser, device)(wave)


def _classify(
    teacher: Path, texts: pd.Series, names: Sequence[str], device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The intent of each of `texts`, and its probability."""
    distinct, rows = np.unique(texts.to_numpy(str), return_inverse=True)
    with quiet_transformers():
        classifier, tokenizer = load_classifier(teacher, device)
        numbers, confidences = predict(classifier, tokenizer, distinct.tolist())
    return np.array(names)[numbers][rows], confidences[rows]


def _check_teacher(teacher: Path, names: Sequence[str]) -> None:
    """A finished teacher of these intents.

    Raises:
        CacheError: there is none.
    """
    try:
        config = json.loads((teacher / "config.json").read_text("utf-8"))
        labels = {int(number): name for number, name in config["id2label"].items()}
    except FileNotFoundError:
        raise CacheError("no teacher there", path=teacher, fix=_TEACHER_FIX) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"not a fine-tuned teacher ({error!r})", path=teacher, fix=_TEACHER_FIX
        ) from error
    found = [labels[number] for number in sorted(labels)]
    if found != list(names):
        raise CacheError(
            "the teacher has other intents",
            path=teacher,
            found=f"{len(found)}",
            expected=f"the {len(names)} of the corpus",
            fix=_TEACHER_FIX,
        )


def _read_given(path: Path, column: str, ids: pd.Series) -> list[str]:
    """The transcripts of `ids` in a table made elsewhere.

    Raises:
        ConfigurationError: no table by its name.
        InputError: it cannot be read, or lacks a column or an utterance.
    """
    if path.suffix not in _FORMATS:
        raise ConfigurationError(
            "no table of transcripts by its name",
            path=path,
            expected=" or ".join(_FORMATS),
            fix="set baseline1.model to the table",
        )
    try:
        separator, quoting = _FORMATS[path.suffix]
        table = pd.read_csv(
            path, sep=separator, quoting=quoting, dtype=str, keep_default_na=False
        )
    except (OSError, ValueError) as error:
        raise InputError(
            "not a readable table of transcripts",
            path=path,
            found=getattr(error, "strerror", None) or error,
        ) from None
    for name in ("id", column):
        if name not in table.columns:
            raise InputError(
                f"no column {name!r}",
                path=path,
                found=f"columns {', '.join(table.columns)}",
                fix="name it so" + ", or set baseline1.column" * (name == column),
            )
    twice = table["id"][table["id"].duplicated()]
    if not twice.empty:
        raise InputError(f"id {twice.iloc[0]!r} stands twice", path=path)
    given = dict(zip(table["id"], table[column], strict=True))
    absent = [id for id in ids if id not in given]
    if absent:
        raise InputError(
            f"{len(absent)} utterances of valid and test have no transcript",
            path=path,
            found=f"none for {absent[0]}",
            fix="add their rows; an empty transcript is one too",
        )
    return [given[id] for id in ids]
