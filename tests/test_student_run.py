"""Training students end to end on a tiny corpus of separable intents."""

import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    ACOUSTIC,
    STUDENT_COUNTS,
    STUDENT_DIM,
    STUDENT_INTENTS,
    TARGETS,
    files_in,
    student_table,
    target_of,
    write_sources,
)

from stages.cache.digest import digest_path, read_digest, write_digest
from stages.cache.store import CacheReader, CacheWriter
from stages.core.checkpoint import write_checkpoint
from stages.core.errors import CacheError, InputError, PipelineError
from stages.core.files import locked
from stages.core.hashing import hash_bytes
from stages.core.manifest import write_manifest, write_quarantine
from stages.core.runtime import RunOptions, seed_everything
from stages.student import scheduling, training
from stages.student.inputs import TARGETED, Inputs, Sources
from stages.student.model import build, load_student
from stages.student.params import StudentParams, Variant
from stages.student.run import Summary, run
from stages.student.training import train_student

FILES = [
    "embeddings.npz",
    "history.csv",
    "identity.json",
    "metrics.json",
    "model-3.safetensors",
    "model-8.safetensors",
    "predictions.csv",
]
PARAMS = StudentParams(
    learning_rate=1e-2, batch_size=16, epochs=4, seeds=(8, 3), gru_width=8
)
VARIANT = Variant("aln", 0.5, PARAMS)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(
    sources: Sources,
    output: Path,
    *,
    system: str = "aln",
    alpha: float | None = 0.5,
    params: StudentParams = PARAMS,
    workers: int = 1,
    force: bool = True,
) -> Summary:
    return run(
        Variant(system, alpha, params),
        sources,
        output=output,
        unfinished=output.with_name("unfinished"),
        ledger=output.with_name("results"),
        options=RunOptions(device="cpu", workers=workers, force=force),
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return write_sources(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """So hard that the accuracy on valid goes up and down."""
    return write_sources(tmp_path_factory.mktemp("noisy"), noise=2.5)


@pytest.fixture(scope="module")
def trained(
    corpus: Sources, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Summary, Path]:
    output = tmp_path_factory.mktemp("trained") / "aln-0.5"
    return train(corpus, output), output


@pytest.mark.parametrize(
    ("system", "alpha"), [("baseline2", None), ("aln_linguistic", 0.5), ("aln", 0.5)]
)
def test_each_system_learns_separable_intents(
    corpus: Sources, tmp_path: Path, system: str, alpha: float | None
) -> None:
    params = StudentParams(learning_rate=1e-2, epochs=15, seeds=(1,), gru_width=8)
    summary = train(
        corpus, tmp_path / "student", system=system, alpha=alpha, params=params
    )
    scores = summary.scores
    assert scores["valid_accuracy"] > 90 and scores["test_accuracy"] > 90
    assert scores["test_accuracy_std"] == 0.0
    history = pd.read_csv(tmp_path / "student" / "history.csv")
    assert history["intent_loss"].iloc[-1] < 0.3 * history["intent_loss"].iloc[0]
    assert history["train_accuracy"].iloc[-1] > 90
    if alpha is None:
        assert history["transfer_loss"].isna().all()
        assert not (tmp_path / "student" / "embeddings.npz").exists()
    else:
        assert history["transfer_loss"].iloc[-1] < history["transfer_loss"].iloc[0]


def test_metrics_summarise_the_predictions(trained: tuple[Summary, Path]) -> None:
    summary, output = trained
    assert sorted(files_in(output)) == FILES
    metrics = json.loads((output / "metrics.json").read_text())
    predictions = pd.read_csv(output / "predictions.csv")
    columns = ["seed", "id", "split", "intent", "predicted", "confidence"]
    assert list(predictions) == columns
    assert len(predictions) == 2 * (STUDENT_COUNTS["valid"] + STUDENT_COUNTS["test"])
    assert [entry["seed"] for entry in metrics["seeds"]] == [8, 3]
    for split in ("valid", "test"):
        values = []
        for entry in metrics["seeds"]:
            own = predictions.query(f"seed == {entry['seed']} and split == {split!r}")
            hits = sum(a == b for a, b in zip(own.intent, own.predicted, strict=True))
            values.append(100 * hits / len(own))
            assert entry[f"{split}_accuracy"] == pytest.approx(values[-1])
        mean, deviation = np.mean(values), np.std(values, ddof=1)
        assert metrics[f"{split}_accuracy"] == pytest.approx(mean)
        assert metrics[f"{split}_accuracy_std"] == pytest.approx(deviation)
        assert f"{mean:.2f} ± {deviation:.2f}% of {split} (" in str(summary)
    assert (metrics["system"], metrics["alpha"]) == ("aln", 0.5)
    assert metrics["parameters"]["epochs"] == 4
    assert "alpha" not in metrics["parameters"]
    history = pd.read_csv(output / "history.csv")
    assert history["seed"].tolist() == [8] * 4 + [3] * 4
    assert history["epoch"].tolist() == [1, 2, 3, 4] * 2
    assert history["loss"].is_unique  # each seed goes its own way


def test_a_saved_student_predicts_what_was_written(
    corpus: Sources, trained: tuple[Summary, Path]
) -> None:
    output = trained[1]
    predictions = pd.read_csv(output / "predictions.csv")
    model, metadata = load_student(output / "model-3.safetensors")
    assert metadata["intents"] == STUDENT_INTENTS and metadata["seed"] == 3
    assert metadata["acoustic_encoder"] == "tiny"
    assert metadata["targets_encoder"] == "tiny-bert"
    assert metadata["acoustic_fingerprint"] == ACOUSTIC.fingerprint
    assert metadata["targets_fingerprint"] == TARGETS.fingerprint
    assert metadata["parameters"]["learning_rate"] == 1e-2
    inputs = Inputs(corpus, [VARIANT])
    for split in ("valid", "test"):
        data = inputs.load(split, torch.device("cpu"))
        batch = data.gather(torch.arange(len(data)))
        logits = model(batch.features, batch.lengths).logits
        own = predictions.query(f"seed == 3 and split == {split!r}")
        names = [STUDENT_INTENTS[number] for number in logits.argmax(1)]
        assert names == own["predicted"].tolist()
        shares = logits.detach().softmax(1).numpy()
        np.testing.assert_allclose(own["confidence"], shares.max(axis=1), atol=2e-6)
        assert own["id"].tolist() == sorted(own["id"])


def test_embeddings_are_the_first_seeds_on_valid(
    corpus: Sources, trained: tuple[Summary, Path], tmp_path: Path
) -> None:
    with np.load(trained[1] / "embeddings.npz") as file:
        found = dict(file)
    valid = student_table().query("split == 'valid'")
    assert found["ids"].tolist() == valid["id"].tolist()
    for row, text in zip(found["teacher"], valid["text"], strict=True):
        np.testing.assert_array_equal(row[None], target_of(text))
    errors = [
        np.square(found[name] - found["teacher"]).mean()
        for name in ("student_first", "student_last")
    ]
    assert errors[1] < errors[0]
    # After the first epoch of many, and after the last epoch of one: the same weights.
    once = replace(PARAMS, epochs=1, seeds=(8,))
    train(corpus, tmp_path / "student", params=once)
    with np.load(tmp_path / "student" / "embeddings.npz") as file:
        np.testing.assert_array_equal(file["student_last"], found["student_first"])
    model, _ = load_student(tmp_path / "student" / "model-8.safetensors")
    data = Inputs(corpus, [VARIANT]).load("valid", torch.device("cpu"))
    batch = data.gather(torch.arange(len(data)))
    pooled = model(batch.features, batch.lengths).pooled
    assert pooled is not None
    np.testing.assert_allclose(
        pooled.detach().numpy(), found["student_first"], atol=1e-5
    )


def test_the_best_epoch_on_valid_is_kept(noisy: Sources, tmp_path: Path) -> None:
    params = replace(PARAMS, epochs=8)
    train(noisy, tmp_path / "best", params=params)
    last = replace(params, selection="last")
    train(noisy, tmp_path / "last", params=last)
    best, end = (
        json.loads((tmp_path / name / "metrics.json").read_text())["seeds"]
        for name in ("best", "last")
    )
    history = pd.read_csv(tmp_path / "best" / "history.csv")
    for entry, other in zip(best, end, strict=True):
        own = history[history["seed"] == entry["seed"]].set_index("epoch")
        valid = own["valid_accuracy"]
        assert entry["valid_accuracy"] == pytest.approx(valid.max(), abs=1e-5)
        assert valid[entry["best_epoch"]] == valid.max()
        f1 = own["valid_macro_f1"][entry["best_epoch"]]
        assert entry["valid_macro_f1"] == pytest.approx(f1, abs=1e-5)
        assert other["best_epoch"] == 8
        assert other["valid_accuracy"] == pytest.approx(valid[8], abs=1e-5)
    assert any(entry["best_epoch"] < 8 for entry in best)
    columns = ["seed", "epoch", "loss", "transfer_loss", "intent_loss"]
    columns += ["train_accuracy", "attention_entropy", "largest_score"]
    columns += ["valid_accuracy", "valid_macro_f1"]
    assert list(history) == columns
    halves = 0.5 * history["transfer_loss"] + 0.5 * history["intent_loss"]
    np.testing.assert_allclose(history["loss"], halves, atol=2e-6)


def test_test_labels_decide_nothing(noisy: Sources, tmp_path: Path) -> None:
    table = student_table()
    test = table["split"] == "test"
    table.loc[test, "intent"] = np.roll(table.loc[test, "intent"], 1)
    planted = write_sources(tmp_path / "planted", noise=2.5, table=table)
    train(noisy, tmp_path / "a")
    train(planted, tmp_path / "b")
    a, b = files_in(tmp_path / "a"), files_in(tmp_path / "b")
    changed = {name for name in FILES if a[name] != b[name]}
    assert changed == {"identity.json", "metrics.json", "predictions.csv"}
    seeds = [json.loads(files["metrics.json"])["seeds"] for files in (a, b)]
    for one, other in zip(*seeds, strict=True):
        assert one["best_epoch"] == other["best_epoch"]
        assert one["valid_accuracy"] == other["valid_accuracy"]
        assert one["test_accuracy"] != other["test_accuracy"]


@pytest.mark.parametrize(("fall", "messages"), [(1.9, 0), (2.1, 2)])
def test_a_training_that_diverges_after_its_best_epoch_is_named(
    corpus: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fall: float,
    messages: int,
) -> None:
    train_student = scheduling.train_student

    def falling(*args: Any, **kwargs: Any) -> Any:
        student = train_student(*args, **kwargs)
        accuracies = (50.0, 90.0, 95.0, 90.0 - fall)
        for row, accuracy in zip(student.history, accuracies, strict=True):
            row["train_accuracy"] = accuracy
        return replace(student, epoch=2)

    monkeypatch.setattr(scheduling, "train_student", falling)
    train(corpus, tmp_path / "student")
    assert len(caplog.messages) == messages
    for seed, message in zip((8, 3), caplog.messages, strict=False):
        assert f"seed {seed}: accuracy on train fell from 90.0% in epoch 2" in message
        assert "87.9%" in message and "student.attention_rate" in message


def test_the_maps_of_the_attention_learn_more_slowly(corpus: Sources) -> None:
    variant = Variant("aln", 0.5, replace(PARAMS, epochs=1, batch_size=1000))
    inputs = Inputs(corpus, [variant])
    network = inputs.network(variant)
    learnt, valid = (inputs.load(name, torch.device("cpu")) for name in TARGETED)
    seed_everything(1)
    before = build(network).state_dict()
    student = train_student(
        variant, 1, network=network, labels=inputs.labels, train=learnt, valid=valid
    )
    # Adam's first step moves each weight by its learning rate.
    moved = {
        name: np.abs(weight - before[name].numpy()).max()
        for name, weight in student.weights.items()
    }
    moved.pop("key.bias")  # it has no gradient
    for name, found in moved.items():
        own = name.split(".")[0] in ("mapping", "query", "key", "value")
        expected = PARAMS.learning_rate * (PARAMS.attention_rate if own else 1)
        assert found == pytest.approx(expected, rel=0.01), name


def test_test_is_read_once_and_after_training(
    corpus: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    load, train_student = Inputs.load, scheduling.train_student

    def watched_load(self: Inputs, split: str, *rest: Any) -> Any:
        events.append(split)
        return load(self, split, *rest)

    def watched_training(*args: Any, **kwargs: Any) -> Any:
        student = train_student(*args, **kwargs)
        events.append(f"seed {student.seed}")
        return student

    monkeypatch.setattr(Inputs, "load", watched_load)
    monkeypatch.setattr(scheduling, "train_student", watched_training)
    train(corpus, tmp_path / "student")
    assert events == ["train", "valid", "seed 8", "test", "seed 3"]


def test_targets_of_test_are_never_used(
    trained: tuple[Summary, Path], tmp_path: Path
) -> None:
    every = write_sources(tmp_path, targets_of=("train", "valid", "test"))
    train(every, tmp_path / "student")
    found, expected = files_in(tmp_path / "student"), files_in(trained[1])
    assert found.pop("identity.json") != expected.pop("identity.json")
    assert found == expected


def test_baseline2_needs_no_targets(tmp_path: Path) -> None:
    sources = write_sources(tmp_path, targets_of=())
    train(sources, tmp_path / "student", system="baseline2", alpha=None)
    metrics = json.loads((tmp_path / "student" / "metrics.json").read_text())
    assert metrics["alpha"] is None
    _, metadata = load_student(tmp_path / "student" / "model-3.safetensors")
    assert metadata["targets_fingerprint"] is metadata["targets_encoder"] is None
    with pytest.raises(CacheError, match=r"targets\.json: .*dvc repro"):
        train(sources, tmp_path / "student")


def test_a_finished_student_is_found_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, output = write_sources(tmp_path), tmp_path / "aln"
    first = train(sources, output, force=False)
    before, entries = files_in(output), files_in(tmp_path / "results")
    epochs = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", epochs)
    (entry,) = (tmp_path / "results").iterdir()
    entry.unlink()
    again = train(sources, output, force=False)
    assert str(again) == str(first).replace("aln: seeds", "aln: up to date; seeds")
    assert str(again) != str(first)
    assert files_in(tmp_path / "results") == entries
    # Another student takes its place; the first one is kept.
    other = replace(PARAMS, epochs=1)
    assert epochs.call_count == 0
    train(sources, output, params=other, force=False)
    assert epochs.call_count == 2 and files_in(output) != before
    train(sources, output, force=False)
    assert epochs.call_count == 2 and files_in(output) == before
    (output / "history.csv").write_text("damaged")
    train(sources, output, force=False)
    assert epochs.call_count == 2 and files_in(output) == before
    train(sources, output, force=True)
    assert epochs.call_count == 10 and files_in(output) == before


def test_the_same_inputs_give_the_same_bytes_whatever_the_workers(
    corpus: Sources, trained: tuple[Summary, Path], tmp_path: Path
) -> None:
    torch.set_num_threads(2)  # must not matter either
    torch.rand(5)
    train(corpus, tmp_path / "again")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    train(corpus, tmp_path / "parallel", workers=2)
    expected = files_in(trained[1])
    assert files_in(tmp_path / "again") == expected
    assert files_in(tmp_path / "parallel") == expected
    assert not multiprocessing.active_children()


def test_features_that_do_not_fit_are_mapped(
    corpus: Sources,
    trained: tuple[Summary, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Splits as they are in memory, from files; nothing is left of these."""
    loaded: dict[str, bool] = {}  # whether from a file
    load = Inputs.load

    def watched(self: Inputs, split: str, *rest: Any) -> Any:
        found = load(self, split, *rest)
        address = found.frames.data_ptr()
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
        for line in lines:
            start, stop = (int(one, 16) for one in line.split()[0].split("-"))
            if start <= address < stop:
                loaded[split] = line.endswith(f"{split}.float32")
        return found

    monkeypatch.setattr(Inputs, "load", watched)
    size = Inputs(corpus, [VARIANT]).acoustic.lengths(
        student_table()["audio_sha256"].tolist()
    )
    bytes_of_all = 4 * STUDENT_DIM * int(size.sum())
    for memory, mapped in ((2 * bytes_of_all, False), (2 * bytes_of_all - 1, True)):
        monkeypatch.setattr("stages.student.inputs._memory", lambda m=memory: m)
        train(corpus, tmp_path / "student")
        assert loaded == dict.fromkeys(STUDENT_COUNTS, mapped)
        assert files_in(tmp_path / "student") == files_in(trained[1])
        assert not (tmp_path / "unfinished").exists()


class Watch:
    """A progress bar that calls a function whenever it is moved."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.n, self.look = 0, look

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def update(self, count: int) -> None:
        self.n += count
        self.look()


def test_workers_share_one_copy_of_the_features_and_end_at_once(
    corpus: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: set[str] = set()

    def look() -> None:
        files.update(
            f"{child.pid} {line.split()[4]} {line.split()[-1]}"
            for child in multiprocessing.active_children()
            for line in Path(f"/proc/{child.pid}/maps").read_text().splitlines()
            if line.endswith(".float32")
        )
        if len(files) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(scheduling, "progress", lambda **_: Watch(look))
    params = replace(PARAMS, epochs=100_000)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path / "student", params=params, workers=2)
    inodes = {one.split()[1] for one in files}
    assert len(inodes) == 2  # of train and of valid, in both processes
    assert not multiprocessing.active_children()
    assert not list((tmp_path / "unfinished").glob("features-*"))


def test_a_full_disk_is_an_error_with_its_path(
    corpus: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inputs, "fits", lambda self: False)
    monkeypatch.setattr(
        "stages.student.inputs.atomic_path", Mock(side_effect=OSError("no space left"))
    )
    with pytest.raises(CacheError, match=r"\.float32: .*no space left"):
        train(corpus, tmp_path / "student")


def test_a_killed_worker_ends_them_all(
    corpus: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        for child in multiprocessing.active_children()[:1]:
            child.kill()

    monkeypatch.setattr(scheduling, "progress", lambda **_: Watch(kill))
    params = replace(PARAMS, epochs=100_000)
    with pytest.raises(PipelineError, match="a worker process died"):
        train(corpus, tmp_path / "student", params=params, workers=2)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "student").exists()


def test_a_beta_can_be_0(corpus: Sources, tmp_path: Path) -> None:
    for place, zero in enumerate((0, 0.0)):  # as YAML reads 0 and 0.0
        params = replace(PARAMS, betas=(zero, 0.999), epochs=1)
        train(corpus, tmp_path / str(place), params=params)
    written = [(tmp_path / name / "history.csv").read_bytes() for name in "01"]
    assert written[0] == written[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loss_that_is_not_a_number_stops_at_once(
    corpus: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    epochs = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", epochs)
    params = replace(PARAMS, learning_rate=1e36)
    with pytest.raises(PipelineError, match=r"loss (nan|inf).*learning_rate"):
        train(corpus, tmp_path / "student", params=params, workers=workers)
    assert epochs.call_count == (1 if workers == 1 else 0)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "student").exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("selection", "workers"), [("best_valid", 1), ("last", 1), ("best_valid", 2)]
)
def test_a_killed_training_resumes_to_the_same_bytes(
    noisy: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selection: str,
    workers: int,
) -> None:
    params = replace(PARAMS, dropout=0.3, selection=selection)
    train(noisy, tmp_path / "unbroken", params=params)
    output = tmp_path / "output"
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    epochs = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", epochs)
    # Of two seeds with four epochs each, in the first, between the two, in the second.
    for done, before in ((1, 0), (3, 1), (4, 3), (7, 4)):
        epochs.reset_mock()
        epochs.side_effect = [DEFAULT] * (done - before) + [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            train(noisy, output, params=params, force=False)
        assert epochs.call_count == done - before + 1
        assert not output.exists()
    epochs.reset_mock(side_effect=True)
    train(noisy, output, params=params, workers=workers, force=False)
    assert epochs.call_count == (1 if workers == 1 else 0)  # in this process
    assert files_in(output) == files_in(tmp_path / "unbroken")
    assert not (tmp_path / "unfinished").exists()


def test_workers_resume_from_checkpoints(
    corpus: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(PARAMS, learning_rate=2e-3)  # not kept by another test
    epochs = Mock(wraps=training.train_epoch)
    epochs.side_effect = [DEFAULT] * PARAMS.epochs + [KeyboardInterrupt]
    monkeypatch.setattr(training, "train_epoch", epochs)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path / "student", params=params, force=False)
    # The first seed is finished; a mark in its checkpoint shows up in the result.
    (path,) = (tmp_path / "unfinished").glob("*.pt")
    state = torch.load(io.BytesIO(path.read_bytes()[32:]), weights_only=True)
    state["kept"]["history"][0]["loss"] = 123.0
    write_checkpoint(path, state["identity"], state)
    train(corpus, tmp_path / "student", params=params, workers=2, force=False)
    history = pd.read_csv(tmp_path / "student" / "history.csv")
    assert history["loss"].eq(123).tolist() == [True] + 7 * [False]


@pytest.mark.parametrize(
    "change",
    [{"attention": "self"}, {"epochs": 5}, "bytes", "corpus"],
    ids=str,
)
def test_a_checkpoint_of_something_else_is_not_used(
    corpus: Sources,
    noisy: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    unfinished, output = tmp_path / "unfinished", tmp_path / "output"
    epochs = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", epochs)
    epochs.side_effect = [DEFAULT] * 2 + [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        train(corpus, output)
    params, inputs = PARAMS, corpus
    if change == "bytes":
        (path,) = unfinished.glob("*.pt")
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "corpus":
        inputs = noisy
    else:
        params = replace(PARAMS, **change)
    epochs.reset_mock(side_effect=True)
    train(inputs, output, params=params)
    assert epochs.call_count == 2 * params.epochs
    train(inputs, tmp_path / "unbroken", params=params)
    assert files_in(output) == files_in(tmp_path / "unbroken")


def test_a_student_is_trained_by_one_process_at_a_time(
    corpus: Sources, tmp_path: Path
) -> None:
    with locked(tmp_path / "unfinished"):
        with pytest.raises(CacheError, match=rf"unfinished: process {os.getpid()} "):
            train(corpus, tmp_path / "student")
        assert not (tmp_path / "student").exists()
    train(corpus, tmp_path / "student", params=replace(PARAMS, epochs=1))


def test_a_loss_that_is_not_a_number_after_the_last_step_is_an_error(
    corpus: Sources, tmp_path: Path
) -> None:
    # One step, whose loss is taken before it.
    params = replace(
        PARAMS, learning_rate=1e30, epochs=1, batch_size=STUDENT_COUNTS["train"]
    )
    with pytest.raises(PipelineError, match=r"loss (nan|inf) on valid.*learning_rate"):
        train(corpus, tmp_path / "student", params=params)
    assert not (tmp_path / "student").exists()


def test_interrupted_training_leaves_the_old_student(
    corpus: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "student"
    train(corpus, output, system="baseline2", alpha=None)
    before = files_in(output)

    interrupted = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patched:
        patched.setattr(scheduling, "train_student", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, output)

    full = Mock(side_effect=OSError("no space left on device"))
    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        with pytest.raises(OSError, match="no space"):
            train(corpus, output)
    assert files_in(output) == before
    assert not list(tmp_path.glob(".student*"))
    train(corpus, output)
    assert sorted(files_in(output)) == FILES
    assert not list(tmp_path.glob(".student*"))


def test_features_that_are_missing_are_named_with_the_fix(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    table = student_table()
    table.loc[3, "audio_sha256"] = hash_bytes(b"another recording")
    write_manifest(sources.corpus.manifest, table)
    with pytest.raises(CacheError, match=r"tiny/train/003.*extract-acoustic"):
        train(sources, tmp_path / "student")
    write_manifest(sources.corpus.manifest, student_table())
    for part in sources.acoustic.glob("*.h5"):
        part.unlink()
    with CacheWriter(sources.acoustic, ACOUSTIC) as writer:
        writer.add("other", hash_bytes(b"other"), np.ones((2, STUDENT_DIM), np.float32))
    with pytest.raises(CacheError, match=r"acoustic: .*150 of 150.*extract-acoustic"):
        train(sources, tmp_path / "student")
    digest_path(sources.acoustic).unlink()
    with pytest.raises(CacheError, match=r"acoustic\.digest: no such file.*dvc repro"):
        train(sources, tmp_path / "student")


@pytest.mark.parametrize("kind", ["acoustic", "targets"])
def test_damaged_features_are_not_trained_on(tmp_path: Path, kind: str) -> None:
    sources = write_sources(tmp_path)
    directory: Path = getattr(sources, kind)
    (part,) = directory.glob("*.h5")
    content = bytearray(part.read_bytes())
    key = next(iter(read_digest(digest_path(directory)).rows.values()))[0]
    content[content.index(CacheReader(directory)[key].tobytes())] ^= 1
    part.write_bytes(content)
    with pytest.raises(
        CacheError, match=rf"{part.name}: damaged.*differ from the digest"
    ):
        train(sources, tmp_path / "student")


def test_quarantined_recordings_are_neither_trained_on_nor_scored(
    tmp_path: Path,
) -> None:
    sources = write_sources(tmp_path)
    table = student_table()
    bad = table[table["id"].isin(["tiny/train/003", "tiny/test/001"])]
    assert len(bad) == 2
    write_quarantine(sources.corpus.quarantine, bad.assign(reason="empty"))
    good = table.drop(bad.index)
    rows = list(zip(good["id"], good["audio_sha256"], strict=True))
    write_digest(
        digest_path(sources.acoustic), sources.acoustic, ACOUSTIC.fingerprint, rows
    )
    train(sources, tmp_path / "student")
    predicted = pd.read_csv(tmp_path / "student" / "predictions.csv")
    expected = good.loc[good["split"] != "train", "id"]
    assert set(predicted["id"]) == set(expected)
    sources.corpus.quarantine.unlink()
    with pytest.raises(CacheError, match=r"quarantine\.csv: no such file.*dvc repro"):
        train(sources, tmp_path / "student")


def test_targets_that_are_missing_are_named_with_the_fix(tmp_path: Path) -> None:
    sources = write_sources(tmp_path, targets_of=("train",))
    table = student_table()
    table.loc[table["id"] == "tiny/valid/004", "text"] = "Turn it off at last"
    write_manifest(sources.corpus.manifest, table)
    with pytest.raises(CacheError, match=r"Turn it off at last.*cache-targets"):
        train(sources, tmp_path / "student")
    write_manifest(sources.corpus.manifest, student_table())
    for part in sources.targets.glob("*.h5"):
        part.unlink()
    with pytest.raises(CacheError, match=r"targets: .*cache-targets"):
        train(sources, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_intents_of_another_manifest_are_refused(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    (tmp_path / "intents.json").write_text('["off", "on"]')
    with pytest.raises(InputError, match=r"intents\.json: .*prepare"):
        train(sources, tmp_path / "student")


def test_a_checkpoint_of_a_finished_student_is_removed(
    corpus: Sources, tmp_path: Path
) -> None:
    from stages.student.scheduling import _checkpoint

    train(corpus, tmp_path / "student")
    identity = corpus.identify(Variant("aln", 0.5, PARAMS))
    unfinished = tmp_path / "unfinished"
    left = _checkpoint(unfinished, identity, PARAMS.seeds[0], "cpu").path
    unfinished.mkdir()
    for path in (left, unfinished / "another.pt"):
        path.touch()
    assert train(corpus, tmp_path / "student", force=False).found
    assert [path.name for path in unfinished.iterdir()] == ["another.pt"]
