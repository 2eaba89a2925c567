"""Training students: from cached tensors to a folder of models and their scores.

Reads the manifest with `intents.json` beside it, the acoustic cache with its digest
and, but for `baseline2`, the teacher's targets of train and valid with theirs. Writes
`output`, whole or not at all:

    metrics.json               accuracy and macro-F1 (%) of each seed, mean, deviation
    predictions.csv            seed,id,split,intent,predicted for valid and test
    history.csv                seed,epoch,loss,transfer_loss,intent_loss,
                               train_accuracy,valid_accuracy; on train they are means
                               over the epoch's batches, each before its step
    model-<seed>.safetensors   the selected epoch's weights, see model.py
    embeddings.npz             of valid, by the first seed, not for baseline2: ids,
                               teacher (E_lang), student_first and student_last (pooled
                               ê_lang after the first and the last epoch; Figure 2)

The epoch is selected on valid; test is read once every seed has been trained. Each seed
trains on one thread, so that on the CPU the same inputs give the same bytes however
many processes share the seeds.
"""

import logging
import multiprocessing
import os
import shutil
import signal
import statistics
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stages import metrics
from stages.atomic import atomic_path, write_json
from stages.cache import CacheReader, Digest, read_digest
from stages.errors import CacheError, ConfigurationError, InputError, PipelineError
from stages.manifest import (
    check_manifest,
    read_intents,
    read_manifest,
    read_quarantine,
    without,
)
from stages.provenance import hash_bytes
from stages.runtime import choose_device, one_thread, progress
from stages.student.batches import Utterances
from stages.student.model import save_student
from stages.student.params import StudentParams, check_system
from stages.student.training import Student, classify, train_student
from stages.texts import normalise_text

SCORED = ("valid", "test")
_METRICS = ("accuracy", "macro_f1")
TARGETED = ("train", "valid")  # test is never compared with the teacher
_TABLES = ("metrics.json", "predictions.csv", "history.csv", "embeddings.npz")

Result = tuple[Student, np.ndarray]
"""A student and the class numbers it predicts for test (U)."""
Messages = Generator[Result | None, None, None]
"""What training tells: None after each epoch, then the results."""

logger = logging.getLogger(__name__)


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
            f"{self.output}: {len(self.seeds)} seeds, "
            f"{self.valid_accuracy:.2f} ± {self.valid_accuracy_std:.2f}% of valid, "
            f"{self.test_accuracy:.2f} ± {self.test_accuracy_std:.2f}% of test"
        )


@dataclass(frozen=True)
class Job:
    """All that decides what a process trains; travels to other processes."""

    params: StudentParams
    system: str
    alpha: float | None
    manifest: Path
    acoustic: Path
    acoustic_digest: Path
    quarantine: Path
    targets: Path | None
    targets_digest: Path | None
    device: str


class Inputs:
    """The manifest and the caches of a job, checked; features are not loaded yet.

    Raises:
        PipelineError: a file is missing or damaged, or features or targets are missing
            or not those of this manifest.
    """

    def __init__(self, job: Job) -> None:
        table = read_manifest(job.manifest)
        path = job.manifest.with_name("intents.json")
        self.intents = read_intents(path)
        if self.intents != sorted(table[table["split"] == "train"]["intent"].unique()):
            raise InputError(
                "not the intents of the manifest beside it",
                path=path,
                fix="run `aln-pipeline prepare`",
            )
        table = without(table, read_quarantine(job.quarantine))
        check_manifest(job.manifest, table)
        self.tables = {split: rows for split, rows in table.groupby("split")}
        digest = read_digest(job.acoustic_digest)
        for id, audio in zip(table["id"], table["audio_sha256"], strict=True):
            if id not in digest.rows or digest.rows[id][0] != audio:
                raise CacheError(
                    f"older than the manifest: no features of {id!r} as it is now",
                    path=job.acoustic_digest,
                    fix="run `aln-pipeline extract-acoustic`",
                )
        self.acoustic = _open(job.acoustic, digest)
        self.acoustic.lengths(table["audio_sha256"].tolist())  # all must be there
        self.targets: CacheReader | None = None
        if job.targets is not None and job.targets_digest is not None:
            texts = table.loc[table["split"].isin(TARGETED), "text"]
            digest = read_digest(job.targets_digest)
            known = {key for key, _ in digest.rows.values()}
            for text in texts:
                if _text_key(text) not in known:
                    raise CacheError(
                        f"older than the manifest: no target of {text!r}",
                        path=job.targets_digest,
                        fix="run `aln-pipeline cache-targets`",
                    )
            self.targets = _open(job.targets, digest)
            self.targets.lengths(texts.map(_text_key).tolist())

    def load(self, split: str, device: torch.device) -> Utterances:
        """The utterances of `split`, in the manifest's order, with targets if any."""
        table = self.tables[split]
        frames, offsets = self.acoustic.load(table["audio_sha256"].tolist())
        numbers = {intent: number for number, intent in enumerate(self.intents)}
        texts, vectors = None, None
        if self.targets is not None and split in TARGETED:
            keys, texts = np.unique(
                table["text"].map(_text_key).to_numpy(str), return_inverse=True
            )
            vectors, _ = self.targets.load(keys.tolist())
        return Utterances.from_arrays(
            frames,
            offsets,
            np.array([numbers[intent] for intent in table["intent"]]),
            texts=texts,
            vectors=vectors,
            device=device,
        )

    def network(self, job: Job) -> dict[str, Any]:
        """The arguments of the job's `AcousticLinguisticNetwork`."""
        return {
            "system": job.system,
            "acoustic_dim": self.acoustic.header.dim,
            "linguistic_dim": self.targets.header.dim if self.targets else None,
            "intents": len(self.intents),
            "gru_width": job.params.gru_width,
            "gru_bidirectional": job.params.gru_bidirectional,
            "dropout": job.params.dropout,
        }


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
    device: str = "auto",
    workers: int = 1,
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
        device: auto, cpu or cuda.
        workers: processes that share the seeds; the results do not depend on it.

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
    )
    inputs = Inputs(job)
    workers = min(workers, len(params.seeds))
    if workers == 1:
        messages = _train(job, inputs, params.seeds)
    else:
        messages = _train_in_processes(job, workers)
    bar = progress(
        total=params.epochs * len(params.seeds), description=output.name, unit="epoch"
    )
    results: list[Result] = []
    with closing(messages), bar:
        for message in messages:
            if message is None:
                bar.update(1)
            else:
                results.append(message)
    results.sort(key=lambda result: params.seeds.index(result[0].seed))
    return _write(job, inputs, results, output)


def _train(job: Job, inputs: Inputs, seeds: Sequence[int]) -> Messages:
    """Train `seeds` one after another in this process."""
    device = choose_device(job.device)
    with one_thread():
        train, valid = (inputs.load(split, device) for split in ("train", "valid"))
        students = []
        for seed in seeds:
            student = yield from train_student(
                job.params,
                network=inputs.network(job),
                alpha=job.alpha,
                seed=seed,
                train=train,
                valid=valid,
            )
            students.append(student)
        test = inputs.load("test", device)
        for student in students:
            logits = classify(student.model(device), test)
            yield student, logits.argmax(1).numpy()


def _train_in_processes(job: Job, workers: int) -> Messages:
    """Train the seeds in `workers` processes; whatever happens, none outlives this."""
    # Not forked from here, since a fork inherits the state of torch's threads and of
    # CUDA, but from a process that has imported all of it, once, and run nothing.
    context = multiprocessing.get_context("forkserver")
    # (torch imports the second, which takes seconds, with the first optimiser.)
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    processes: dict[Any, Any] = {}  # by the end of the pipe that each one writes to
    try:
        for number in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            processes[receiver] = context.Process(
                target=_work,
                args=(sender, job, job.params.seeds[number::workers]),
                daemon=True,
            )
            processes[receiver].start()
            sender.close()  # or the pipe would stay open when the process ends
        at_work = set(processes)
        while at_work:
            speaking: Any
            for speaking in wait(at_work):
                try:
                    message = speaking.recv()
                except EOFError:
                    at_work.remove(speaking)
                    _check_end(processes[speaking])
                    continue
                if isinstance(message, PipelineError):
                    raise message
                yield message
    finally:
        for process in processes.values():
            if process.pid is not None:
                process.terminate()
                process.join()


def _work(sender: Connection, job: Job, seeds: Iterable[int]) -> None:
    """Train `seeds` in a process of their own."""
    # Ctrl-C reaches every process of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for message in _train(job, Inputs(job), tuple(seeds)):
            sender.send(message)
    except PipelineError as error:
        sender.send(error)
    except BrokenPipeError:  # the first process was killed
        raise SystemExit(1) from None


def _check_end(process: Any) -> None:
    """Wait for the end of a process that has said its last.

    Raises:
        PipelineError: it was killed or broke down.
    """
    process.join()
    if process.exitcode != 0:
        raise PipelineError(
            "a training process died",
            found=f"exit code {process.exitcode}",
            fix="see its message above, if any; with one worker less memory is needed",
        )


def _open(directory: Path, digest: Digest) -> CacheReader:
    """The features that `digest` speaks of."""
    return CacheReader(directory, fingerprint=digest.header.fingerprint)


def _text_key(text: str) -> str:
    """The key of a text's target."""
    return hash_bytes(normalise_text(text).encode())


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
    job: Job, inputs: Inputs, results: Sequence[Result], output: Path
) -> Summary:
    """Write everything into a folder beside `output`, then put it in its place."""
    # Without the grid: what else is tried does not change this student.
    parameters = {k: v for k, v in asdict(job.params).items() if k != "alpha"}
    about = {"system": job.system, "alpha": job.alpha, "parameters": parameters}
    predictions = _predictions(inputs, results)
    scores, means = _score(predictions, results)
    beside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    before = output.with_name(f".{output.name}.{os.getpid()}.old")
    try:
        write_json(beside / "metrics.json", {**about, "seeds": scores, **means})
        _write_table(beside / "predictions.csv", predictions)
        history = [row for student, _ in results for row in student.history]
        _write_table(beside / "history.csv", pd.DataFrame(history))
        for student, _ in results:
            metadata = {
                **about,
                "seed": student.seed,
                "epoch": student.epoch,
                "network": student.network,
                "intents": inputs.intents,
                "acoustic_fingerprint": inputs.acoustic.header.fingerprint,
                "targets_fingerprint": (
                    inputs.targets.header.fingerprint if inputs.targets else None
                ),
            }
            with atomic_path(beside / f"model-{student.seed}.safetensors") as path:
                save_student(path, student.weights, metadata)
        if inputs.targets is not None:
            _write_embeddings(beside / "embeddings.npz", inputs, results[0][0])
        if output.exists():
            os.replace(output, before)
        os.replace(beside, output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
    return Summary(
        system=job.system,
        alpha=job.alpha,
        output=output,
        seeds=job.params.seeds,
        **means,
    )


def _predictions(inputs: Inputs, results: Sequence[Result]) -> pd.DataFrame:
    """A row for each seed and utterance of valid and test."""
    names = np.array(inputs.intents)
    blocks = []
    for student, on_test in results:
        for split, predicted in zip(SCORED, (student.predicted, on_test), strict=True):
            block = inputs.tables[split][["id", "split", "intent"]].copy()
            block.insert(0, "seed", student.seed)
            block["predicted"] = names[predicted]
            blocks.append(block)
    return pd.concat(blocks, ignore_index=True)


def _score(
    predictions: pd.DataFrame, results: Sequence[Result]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Metrics in percent: of each seed, and their mean and standard deviation."""
    scores = []
    for student, _ in results:
        score: dict[str, Any] = {"seed": student.seed, "best_epoch": student.epoch}
        for split in SCORED:
            rows = predictions[
                (predictions["seed"] == student.seed) & (predictions["split"] == split)
            ]
            for name in _METRICS:
                measure = getattr(metrics, name)
                score[f"{split}_{name}"] = measure(rows["intent"], rows["predicted"])
        scores.append(score)
    means = {}
    for name in (f"{split}_{metric}" for metric in _METRICS for split in SCORED):
        values = [score[name] for score in scores]
        means[name] = statistics.fmean(values)
        means[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return scores, means


def _write_embeddings(path: Path, inputs: Inputs, student: Student) -> None:
    """What Figure 2 is drawn from."""
    assert inputs.targets is not None
    assert student.pooled_first is not None and student.pooled_last is not None
    table = inputs.tables["valid"]
    teacher, _ = inputs.targets.load(table["text"].map(_text_key).tolist())
    with atomic_path(path) as beside, open(beside, "wb") as stream:
        np.savez(  # a stream, since to a path it would add a suffix
            stream,
            ids=table["id"].to_numpy(str),
            teacher=teacher,
            student_first=student.pooled_first,
            student_last=student.pooled_last,
        )


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as beside:
        table.to_csv(beside, index=False, float_format="%.6f", lineterminator="\n")
