"""Many trainings from one copy of the features, in this process or in several.

A task is one seed of one variant. Each trains on one thread, so results do not depend
on how many workers share the tasks. Several workers map the features from a file, as
does one that lacks memory; see `Inputs.load`.
"""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from stages.core.errors import PipelineError
from stages.core.hashing import fingerprint
from stages.core.runtime import RunOptions, choose_device, one_thread, progress
from stages.core.workers import count_step, run_in_processes
from stages.student.batches import Utterances
from stages.student.inputs import Inputs
from stages.student.params import Variant
from stages.student.training import Checkpoint, Student, classify, train_student

log = logging.getLogger(__name__)

# Points of accuracy on train from the kept epoch to the last. Trainings that did not
# diverge lost up to 0.9.
_FALL = 2.0


@dataclass(frozen=True)
class Task:
    """What a worker trains at a stretch."""

    variant: Variant
    seed: int
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Trained:
    """One seed of a variant."""

    student: Student
    on_test: np.ndarray  # logits of test (U, values of all slots)


def train_variants(
    variants: Sequence[tuple[Variant, dict[str, Any]]],
    inputs: Inputs,
    *,
    unfinished: Path,
    options: RunOptions,
    description: str,
) -> Generator[list[Trained] | PipelineError, None, None]:
    """Train each variant with all of its seeds; results in the order of `variants`.

    Args:
        variants: each with its identity, which names its checkpoints.
        inputs: read for these variants.
        unfinished: folder of the checkpoints, from which a killed run resumes.
        options: how it runs.
        description: of the progress bar.

    Yields:
        For each variant a result per seed, or, as soon as one of its seeds fails, why.
    """
    device = choose_device(options.device)
    tasks = [
        Task(variant, seed, _checkpoint(unfinished, identity, seed, device.type))
        for variant, identity in variants
        for seed in variant.params.seeds
    ]
    if options.force:
        for task in tasks:
            task.checkpoint.path.unlink(missing_ok=True)
    epochs = sum(task.variant.params.epochs for task in tasks)
    bar = progress(total=epochs, description=description, unit="epoch")
    results = _train_tasks(tasks, inputs, unfinished, options, bar)
    with bar, closing(results):
        for variant, identity in variants:
            trained: list[Trained] = []
            failed = False
            for _ in variant.params.seeds:
                result = next(results)
                if isinstance(result, Trained):
                    trained.append(result)
                elif not failed:
                    failed = True
                    yield result
            if not failed:
                for one in trained:
                    _check_fall(variant, one.student)
                yield trained  # and the caller records it
            remove_checkpoints(unfinished, identity)


def _check_fall(variant: Variant, student: Student) -> None:
    """Warn if a training diverged after the epoch that is kept, which hides it."""
    accuracies = [row["train_accuracy"] for row in student.history]
    before, after = accuracies[student.epoch - 1], accuracies[-1]
    if before - after > _FALL:
        log.warning(
            "%s, seed %d: accuracy on train fell from %.1f%% in epoch %d, which is "
            "kept, to %.1f%% in the last; lower student.learning_rate%s",
            variant,
            student.seed,
            before,
            student.epoch,
            after,
            " or student.attention_rate" if variant.system == "aln" else "",
        )


def remove_checkpoints(unfinished: Path, identity: dict[str, Any]) -> None:
    """Remove the checkpoints of a variant that is finished."""
    for seed, device in product(identity["parameters"]["seeds"], ("cpu", "cuda")):
        _checkpoint(unfinished, identity, seed, device).path.unlink(missing_ok=True)


def _checkpoint(
    unfinished: Path, identity: dict[str, Any], seed: int, device: str
) -> Checkpoint:
    """Of one seed; the other seeds of the variant do not matter to it."""
    decisive = {
        name: v for name, v in identity["parameters"].items() if name != "seeds"
    }
    name = fingerprint(
        {**identity, "parameters": decisive, "seed": seed, "device": device}
    )
    return Checkpoint(unfinished / f"{name[:24]}.pt", name)


def _train_tasks(
    tasks: Sequence[Task],
    inputs: Inputs,
    unfinished: Path,
    options: RunOptions,
    bar: Any,
) -> Generator[Trained | PipelineError, None, None]:
    workers = min(options.workers, len(tasks))
    with _features(inputs, unfinished, workers) as mapped:
        splits = _Splits(inputs, options.device, mapped)
        if workers == 1:
            for task in tasks:
                yield _train(task, splits, bar.update)
            return
        yield from run_in_processes(
            _train_in_worker,
            tasks,
            workers,
            # torch imports the second with the first optimiser, which takes seconds.
            preload=[__name__, "torch._dynamo"],
            begin=partial(_begin, splits),
            bar=bar,
        )


@contextmanager
def _features(inputs: Inputs, unfinished: Path, workers: int) -> Iterator[Path | None]:
    """The folder of the files from which features are mapped; None for in memory."""
    if workers == 1 and inputs.fits():
        yield None
        return
    unfinished.mkdir(parents=True, exist_ok=True)
    # Named so that the next run removes it if this process is killed.
    with TemporaryDirectory(".tmp", ".features-", unfinished) as folder:
        inputs.write_mapped(Path(folder))
        yield Path(folder)


@dataclass
class _Splits:
    """The utterances of each split, loaded when first used, once in a process."""

    inputs: Inputs
    device: str
    mapped: Path | None

    @cached_property
    def scaling(self) -> tuple[Tensor, Tensor]:
        device = choose_device(self.device)
        mean, deviation = self.inputs.scaling()
        return mean.to(device), deviation.to(device)

    @cached_property
    def train(self) -> Utterances:
        return self._load("train")

    @cached_property
    def valid(self) -> Utterances:
        return self._load("valid")

    @cached_property
    def test(self) -> Utterances:
        return self._load("test")

    def _load(self, split: str) -> Utterances:
        return self.inputs.load(split, choose_device(self.device), self.mapped)


# In a worker, what all of its tasks read.
_splits: _Splits | None = None


def _begin(splits: _Splits) -> None:
    global _splits
    _splits = splits


def _for_variant(
    utterances: Utterances, variant: Variant, splits: _Splits
) -> Utterances:
    """Of train's utterances and their texts what a variant learns from."""
    if not variant.reads_unlabelled:
        utterances = utterances.labelled
    if not variant.transfers or not variant.params.standardisation:
        return utterances
    assert utterances.texts is not None
    texts = utterances.texts.standardised(*splits.scaling)
    return replace(utterances, texts=texts)


def _train_in_worker(task: Task) -> Trained | PipelineError:
    assert _splits is not None
    return _train(task, _splits, count_step)


def _train(task: Task, splits: _Splits, count_epoch: Any) -> Trained | PipelineError:
    """Train one task and classify test; a loss that is not a number is returned."""
    with one_thread():
        train, valid = splits.train, splits.valid
        try:
            student = train_student(
                task.variant,
                task.seed,
                network=splits.inputs.network(task.variant),
                labels=splits.inputs.labels,
                train=_for_variant(train, task.variant, splits),
                valid=valid,
                checkpoint=task.checkpoint,
                count_epoch=count_epoch,
            )
        except PipelineError as error:
            return error
        logits = classify(student.model(train.frames.device), splits.test).numpy()
    return Trained(student, logits)
