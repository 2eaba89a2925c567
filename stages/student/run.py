"""Training students: from cached tensors to a folder of models and their scores.

Reads the manifest with `intents.json` beside it, the acoustic cache with its digest
and, but for `baseline2`, the teacher's targets of train and valid with theirs. Writes
`output`, whole or not at all:

    metrics.json               accuracy and macro-F1 (%) of each seed, mean, deviation
    predictions.csv            seed,id,split,intent,predicted,confidence for valid and
                               test; the last is the predicted intent's probability
    history.csv                seed,epoch,loss,transfer_loss,intent_loss,
                               train_accuracy,valid_accuracy,valid_macro_f1; on train
                               they are means over the epoch's batches, each before
                               its step
    model-<seed>.safetensors   the selected epoch's weights, see model.py
    embeddings.npz             of valid, by the first seed, not for baseline2: ids,
                               teacher (E_lang), student_first and student_last (pooled
                               ê_lang after the first and the last epoch; Figure 2)

The epoch is selected on valid; test is read once every seed has been trained. Each seed
trains on one thread, so that on the CPU the same inputs give the same bytes however
many processes share the seeds, and however often they were killed: while it trains,
`unfinished` holds a checkpoint a seed, from which the next run goes on. On CUDA, or
where it is asked for, the seeds are trained together (see together.py): the same
students up to rounding.
"""

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
from stages.core.errors import ConfigurationError
from stages.core.files import whole_folder, write_json
from stages.core.runtime import choose_device, progress
from stages.student.inputs import Inputs, Job, parameters_without, text_key
from stages.student.ledger import describe, record
from stages.student.model import save_student
from stages.student.params import StudentParams, check_system
from stages.student.processes import (
    Failure,
    Result,
    Unit,
    choose_together,
    group,
    train_all,
)
from stages.student.training import Student

SCORED = ("valid", "test")
_TABLES = ("metrics.json", "predictions.csv", "history.csv", "embeddings.npz")


@dataclass(frozen=True)
class Summary:
    """What was trained; metrics in percent, mean and deviation over the seeds."""

    system: str
    alpha: float | None
    output: Path
    seeds: tuple[int, ...]
    valid_accuracy: float
    valid_accuracy_std: float
    test_accuracy: float
    test_accuracy_std: float
    valid_macro_f1: float
    valid_macro_f1_std: float
    test_macro_f1: float
    test_macro_f1_std: float

    def __str__(self) -> str:
        """One line for the person who waited."""
        return (
            f"{self.output}: seeds {', '.join(map(str, self.seeds))}; "
            f"{self.valid_accuracy:.2f} ± {self.valid_accuracy_std:.2f}% of valid "
            f"(macro-F1 {self.valid_macro_f1:.2f} ± {self.valid_macro_f1_std:.2f}%), "
            f"{self.test_accuracy:.2f} ± {self.test_accuracy_std:.2f}% of test "
            f"(macro-F1 {self.test_macro_f1:.2f} ± {self.test_macro_f1_std:.2f}%)"
        )


def run(
    params: StudentParams,
    *,
    system: str,
    alpha: float | None,
    manifest: Path,
    acoustic: Path,
    acoustic_digest: Path,
    quarantine: Path,
    targets: Path | None,
    targets_digest: Path | None,
    output: Path,
    unfinished: Path | None = None,
    ledger: Path | None = None,
    device: str = "auto",
    workers: int = 1,
    together: bool | None = None,
) -> Summary:
    """Train `system`, a network for each of `params.seeds`, and replace `output`.

    Args:
        params: how to train; `params.alpha`, the grid, is not looked at.
        system: one of `SYSTEMS`.
        alpha: α of eq. 4; None for baseline2.
        manifest: `manifest.csv`, with `intents.json` beside it.
        acoustic: the cache of acoustic features.
        acoustic_digest: its digest.
        quarantine: names the recordings that are left out.
        targets: the cache of the teacher's vectors; not looked at for baseline2.
        targets_digest: its digest.
        output: the folder of this student.
        unfinished: the folder from which a killed run goes on; gone in the end. None
            if it need not go on.
        ledger: the folder of what every student came to; None if it need not be told.
        device: auto, cpu or cuda.
        workers: processes that share the seeds; the results do not depend on it.
        together: whether the seeds are trained in one computation, with the same
            results up to rounding; None for on CUDA.

    Raises:
        PipelineError: inputs that are missing or do not fit, a system or α that does
            not exist, a loss that is no number, or a training process that died.
    """
    check_system(system, alpha)
    if workers < 1:
        raise ConfigurationError("too few workers", found=workers, expected="1 or more")
    if system == "baseline2":
        targets = targets_digest = None
    elif targets is None or targets_digest is None:
        raise ConfigurationError(f"{system} needs the teacher's targets and digest")
    choose_device(device)
    _check_output(output)
    job = Job(
        params=params,
        system=system,
        alpha=alpha,
        manifest=manifest,
        acoustic=acoustic,
        acoustic_digest=acoustic_digest,
        quarantine=quarantine,
        targets=targets,
        targets_digest=targets_digest,
        device=device,
        unfinished=unfinished,
    )
    inputs = Inputs(job)
    workers = min(workers, len(params.seeds))
    units = [Unit(n, job, params.seeds[n::workers]) for n in range(workers)]
    groups = group(units, choose_together(device, together))
    messages = train_all(job, inputs, groups, workers=workers, together=together)
    bar = progress(
        total=params.epochs * len(params.seeds), description=output.name, unit="epoch"
    )
    results: list[Result] = []
    with closing(messages), bar:
        for message in messages:
            if message is None:
                bar.update(1)
            elif isinstance(message, Failure):
                raise message.error
            else:
                results.append(message)
    results.sort(key=lambda result: params.seeds.index(result.student.seed))
    scores = score(inputs, results)
    _write(job, inputs, results, scores, output)
    if ledger is not None:
        record(ledger, {**describe(job), **scores})
    if unfinished is not None:
        shutil.rmtree(unfinished, ignore_errors=True)
    means = {name: value for name, value in scores.items() if name != "seeds"}
    return Summary(system, alpha, output, params.seeds, **means)


def _check_output(output: Path) -> None:
    """Make sure that nothing but a student is going to be replaced.

    Raises:
        ConfigurationError: `output` is or holds something else.
    """
    if not output.exists():
        return
    names = sorted(p.name for p in output.iterdir()) if output.is_dir() else ["a file"]
    foreign = [n for n in names if n not in _TABLES and not n.startswith("model-")]
    if foreign:
        raise ConfigurationError(
            "will not replace what is no student's folder",
            path=output,
            found=", ".join(foreign[:3]),
            fix="choose another output, or move these away",
        )


def _write(
    job: Job,
    inputs: Inputs,
    results: Sequence[Result],
    scores: dict[str, Any],
    output: Path,
) -> None:
    """Write everything into a folder, whole or not at all."""
    about = {
        "system": job.system,
        "alpha": job.alpha,
        # What else is tried does not change a student.
        "parameters": parameters_without(job.params, "alpha"),
    }
    with whole_folder(output) as folder:
        write_json(folder / "metrics.json", {**about, **scores})
        _write_table(folder / "predictions.csv", _predictions(inputs, results))
        history = [row for _, student, _ in results for row in student.history]
        _write_table(folder / "history.csv", pd.DataFrame(history))
        for _, student, _ in results:
            metadata = {
                **about,
                "seed": student.seed,
                "epoch": student.epoch,
                "network": student.network,
                "intents": inputs.intents,
                **_encoder("acoustic", inputs.acoustic),
                **_encoder("targets", inputs.targets),
            }
            path = folder / f"model-{student.seed}.safetensors"
            save_student(path, student.weights, metadata)
        if inputs.targets is not None:
            _write_embeddings(folder / "embeddings.npz", inputs, results[0].student)


def _encoder(kind: str, cache: CacheReader | None) -> dict[str, str | None]:
    """Which encoder a cache is of: its name for people, and what identifies it."""
    return {
        f"{kind}_encoder": cache.header.encoder if cache else None,
        f"{kind}_fingerprint": cache.header.fingerprint if cache else None,
    }


def _predictions(inputs: Inputs, results: Sequence[Result]) -> pd.DataFrame:
    """A row for each seed and utterance of valid and test."""
    names = np.array(inputs.intents)
    blocks = []
    for _, student, on_test in results:
        for split, logits in zip(SCORED, (student.logits, on_test), strict=True):
            block = inputs.tables[split][["id", "split", "intent"]].copy()
            block.insert(0, "seed", student.seed)
            block["predicted"] = names[logits.argmax(axis=1)]
            block["confidence"] = softmax(logits, axis=1).max(axis=1)
            blocks.append(block)
    return pd.concat(blocks, ignore_index=True)


def score(inputs: Inputs, results: Sequence[Result]) -> dict[str, Any]:
    """What students came to, in percent.

    Returns:
        `seeds`, of each best_epoch and the metrics on valid and test, sorted as
        `results`; and of each metric the mean and standard deviation, by name.
    """
    labels = {split: inputs.labels(inputs.tables[split]["intent"]) for split in SCORED}
    seeds = []
    for _, student, on_test in results:
        found: dict[str, Any] = {"seed": student.seed, "best_epoch": student.epoch}
        for split, logits in zip(SCORED, (student.logits, on_test), strict=True):
            measured = metrics.measure(labels[split], logits.argmax(1))
            found |= {f"{split}_{name}": value for name, value in measured.items()}
        seeds.append(found)
    means = {}
    for name in [name for name in seeds[0] if name not in ("seed", "best_epoch")]:
        values = [found[name] for found in seeds]
        means[name] = statistics.fmean(values)
        means[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"seeds": seeds, **means}


def _write_embeddings(path: Path, inputs: Inputs, student: Student) -> None:
    """What Figure 2 is drawn from."""
    assert inputs.targets is not None
    assert student.pooled_first is not None and student.pooled_last is not None
    table = inputs.tables["valid"]
    teacher, _ = inputs.targets.load(table["text"].map(text_key).tolist())
    np.savez(
        path,
        ids=table["id"].to_numpy(str),
        teacher=teacher,
        student_first=student.pooled_first,
        student_last=student.pooled_last,
    )


def _write_table(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
