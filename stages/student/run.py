"""Training a student: from cached tensors to a folder of models and their scores.

Reads the manifest with `intents.json` next to it, the acoustic cache with its digest
and, unless it is `baseline2`, the teacher's targets of train and valid with theirs.
Writes `output`, whole or not at all:

    metrics.json               accuracy and macro-F1 (%) of each seed, mean, deviation
    predictions.csv            seed,id,split,intent,predicted,confidence of valid and
                               test; confidence is the predicted intent's probability
    history.csv                seed,epoch,loss,transfer_loss,intent_loss,
                               train_accuracy,attention_entropy,largest_score,
                               valid_accuracy,valid_macro_f1; those on train are means
                               over the epoch's batches, each before its step; those of
                               the attention are on valid, see `measure_attention`
    model-<seed>.safetensors   the selected epoch's weights, see model.py
    embeddings.npz             of valid, by the first seed, not for baseline2: ids,
                               teacher (E_lang), student_first and student_last (pooled
                               ê_lang after the first and the last epoch; Figure 2)
    identity.json              what it was made from, see stages/core/results.py

The epoch is selected on valid; test is classified once training is over. Each seed
trains on one thread, so on the CPU the same inputs give the same bytes, however many
workers share the seeds and however often they were killed: `unfinished` has a
checkpoint per seed, from which the next run resumes.
"""

import json
import shutil
import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from stages.cache.store import CacheReader
from stages.core import metrics
from stages.core.errors import PipelineError
from stages.core.files import locked, write_json
from stages.core.labels import segments
from stages.core.results import find, result_folder
from stages.core.runtime import RunOptions
from stages.core.text import text_key
from stages.student import ledger as entries
from stages.student.inputs import Inputs, Sources
from stages.student.model import save_student
from stages.student.params import Variant
from stages.student.scheduling import Trained, remove_checkpoints, train_variants
from stages.student.training import Student

SCORED = ("valid", "test")


@dataclass(frozen=True)
class Summary:
    """The student's scores.

    Attributes:
        output: its folder.
        scores: as in metrics.json, percent.
        found: whether it was there already.
    """

    output: Path
    scores: dict[str, Any]
    found: bool

    def __str__(self) -> str:
        """One line for the terminal."""
        seeds = ", ".join(str(one["seed"]) for one in self.scores["seeds"])
        splits = [
            f"{self._spread(split, 'accuracy')} of {split} "
            f"(macro-F1 {self._spread(split, 'macro_f1')})"
            for split in SCORED
        ]
        state = "up to date; " if self.found else ""
        return f"{self.output}: {state}seeds {seeds}; {', '.join(splits)}"

    def _spread(self, split: str, metric: str) -> str:
        name = f"{split}_{metric}"
        return f"{self.scores[name]:.2f} ± {self.scores[f'{name}_std']:.2f}%"


def run(
    variant: Variant,
    sources: Sources,
    *,
    output: Path,
    unfinished: Path,
    ledger: Path,
    options: RunOptions,
) -> Summary:
    """Train `variant`, one network per seed, and replace `output`; or find it there.

    Args:
        variant: what is trained.
        sources: what it is trained from.
        output: the folder of this student.
        unfinished: the folder from which a killed run resumes; removed at the end.
        ledger: the folder of all students' scores.
        options: how it runs.

    Raises:
        PipelineError: inputs that are missing or do not fit, a loss that is not a
            number, another process training this student, or a worker that died.
    """
    identity = sources.identify(variant)
    found = not options.force and find(output, identity, sources.corpus.kept)
    if found:
        remove_checkpoints(unfinished, identity)
        written = json.loads((output / "metrics.json").read_text("utf-8"))
        about = ("system", "alpha", "parameters")
        scores = {k: v for k, v in written.items() if k not in about}
    else:
        inputs = Inputs(sources, [variant])
        with locked(unfinished):
            results = train_variants(
                [(variant, identity)],
                inputs,
                unfinished=unfinished,
                options=options,
                description=output.name,
            )
            with closing(results):
                trained = next(results)
            if isinstance(trained, PipelineError):
                raise trained
            scores = score(inputs, trained)
            with result_folder(output, identity, sources.corpus.kept) as folder:
                _write(folder, variant, inputs, trained, scores)
            shutil.rmtree(unfinished, ignore_errors=True)
    entries.record(ledger, identity, scores)
    return Summary(output, scores, found)


def score(inputs: Inputs, trained: Sequence[Trained]) -> dict[str, Any]:
    """The scores of a student, in percent.

    Returns:
        `seeds`, of each best_epoch and the metrics on valid and test, in the order of
        `trained`; and of each metric the mean and standard deviation, by name.
    """
    actual = {split: inputs.numbers(split) for split in SCORED}
    seeds = []
    for one in trained:
        student = one.student
        found: dict[str, Any] = {"seed": student.seed, "best_epoch": student.epoch}
        for split, logits in zip(SCORED, (student.logits, one.on_test), strict=True):
            chosen = inputs.labels.choose(logits)
            measured = metrics.measure(inputs.labels, actual[split], chosen)
            found |= {f"{split}_{name}": value for name, value in measured.items()}
        seeds.append(found)
    means = {}
    for name in [name for name in seeds[0] if name not in ("seed", "best_epoch")]:
        values = [found[name] for found in seeds]
        means[name] = statistics.fmean(values)
        means[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"seeds": seeds, **means}


def _write(
    folder: Path,
    variant: Variant,
    inputs: Inputs,
    trained: Sequence[Trained],
    scores: dict[str, Any],
) -> None:
    """Write all files of a student but its identity."""
    parameters = variant.parameters()
    system, alpha = parameters.pop("system"), parameters.pop("alpha")
    about = {"system": system, "alpha": alpha, "parameters": parameters}
    write_json(folder / "metrics.json", {**about, **scores})
    _write_table(folder / "predictions.csv", _predictions(inputs, trained))
    history = [row for one in trained for row in one.student.history]
    _write_table(folder / "history.csv", pd.DataFrame(history))
    for one in trained:
        metadata = {
            **about,
            "seed": one.student.seed,
            "epoch": one.student.epoch,
            "network": one.student.network,
            "intents": inputs.labels.to_json(),
            **_encoder("acoustic", inputs.acoustic),
            **_encoder("targets", inputs.targets),
        }
        path = folder / f"model-{one.student.seed}.safetensors"
        save_student(path, one.student.weights, metadata)
    if inputs.targets is not None:
        _write_embeddings(
            folder / "embeddings.npz", inputs, trained[0].student, variant
        )


def _encoder(kind: str, cache: CacheReader | None) -> dict[str, str | None]:
    """The name and fingerprint of the encoder that a cache is of."""
    return {
        f"{kind}_encoder": cache.header.encoder if cache else None,
        f"{kind}_fingerprint": cache.header.fingerprint if cache else None,
    }


def _predictions(inputs: Inputs, trained: Sequence[Trained]) -> pd.DataFrame:
    """One row per seed and utterance of valid and test."""
    labels = inputs.labels
    blocks = []
    for one in trained:
        student = one.student
        for split, logits in zip(SCORED, (student.logits, one.on_test), strict=True):
            block = inputs.tables[split][["id", "split", "intent"]].copy()
            block.insert(0, "seed", student.seed)
            block["predicted"] = labels.frames(labels.choose(logits))
            parts = [softmax(part, axis=1) for part in segments(logits, labels.sizes)]
            block["confidence"] = labels.confidence(np.concatenate(parts, axis=1))
            blocks.append(block)
    return pd.concat(blocks, ignore_index=True)


def _write_embeddings(
    path: Path, inputs: Inputs, student: Student, variant: Variant
) -> None:
    """The embeddings for Figure 2, as the student learns them."""
    assert inputs.targets is not None
    assert student.pooled_first is not None and student.pooled_last is not None
    table = inputs.tables["valid"]
    teacher, _ = inputs.targets.load(table["text"].map(text_key).tolist())
    if variant.params.standardisation:
        mean, deviation = (one.numpy() for one in inputs.scaling())
        teacher = (teacher - mean) / deviation
    np.savez(
        path,
        ids=table["id"].to_numpy(str),
        teacher=teacher,
        student_first=student.pooled_first,
        student_last=student.pooled_last,
    )


def _write_table(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
