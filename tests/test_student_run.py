"""Training students end to end on a tiny corpus of separable intents."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import numpy as np
import pandas as pd
import pytest
import torch

from stages.cache.digest import read_digest, write_digest
from stages.cache.format import Header
from stages.cache.store import CacheReader, CacheWriter
from stages.core.errors import CacheError, ConfigurationError, InputError, PipelineError
from stages.core.hashing import hash_bytes
from stages.core.manifest import (
    COLUMNS,
    QUARANTINE_COLUMNS,
    write_manifest,
    write_quarantine,
)
from stages.core.text import normalise_text
from stages.student import processes, training
from stages.student.inputs import Inputs, Job
from stages.student.model import load_student
from stages.student.params import StudentParams
from stages.student.run import Summary, run

D, H = 6, 5
INTENTS = ["dim", "off", "on"]
COUNTS = {"train": 90, "valid": 30, "test": 30}
ACOUSTIC = Header("acoustic", "tiny", "ab" * 32, {}, D, "float32", 2560)
TARGETS = Header("targets", "tiny-bert", "cd" * 32, {}, H, "float32", 0)
FILES = [
    "embeddings.npz",
    "history.csv",
    "metrics.json",
    "model-3.safetensors",
    "model-8.safetensors",
    "predictions.csv",
]
PARAMS = StudentParams(
    learning_rate=1e-2, batch_size=16, epochs=4, seeds=(8, 3), gru_width=8
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_table() -> pd.DataFrame:
    rows = []
    for split, count in COUNTS.items():
        for number in range(count):
            intent = INTENTS[number % 3]
            id = f"tiny/{split}/{number:03d}"
            wording = "please" if split == "test" else f"now {number % 2}"
            rows.append(
                {
                    "id": id,
                    "path": f"{id}.wav",
                    "split": split,
                    "speaker": split,
                    "text": f"Turn {intent}, {wording}!",
                    "intent": intent,
                    "seconds": 1.0,
                    "audio_sha256": hash_bytes(id.encode()),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def make_corpus(
    folder: Path,
    *,
    noise: float = 0.5,
    targets_of: tuple[str, ...] = ("train", "valid"),
    table: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Write manifest and caches; the paths as arguments of `run`.

    An utterance is noise with one frame, anywhere, that tells its intent.
    """
    generator = np.random.default_rng(6)
    made = make_table()
    write_manifest(folder / "manifest.csv", made if table is None else table)
    nothing = pd.DataFrame(columns=list(QUARANTINE_COLUMNS), dtype=str)
    write_quarantine(folder / "quarantine.csv", nothing)
    with CacheWriter(folder / "acoustic", ACOUSTIC) as writer:
        for row in made.itertuples():
            length = generator.integers(3, 9)
            frames = noise * generator.standard_normal((length, D))
            frames[generator.integers(length), INTENTS.index(row.intent)] += 4
            writer.add(row.id, row.audio_sha256, frames.astype(np.float32))
    rows = list(zip(made["id"], made["audio_sha256"], strict=True))
    write_digest(
        folder / "acoustic.digest", folder / "acoustic", ACOUSTIC.fingerprint, rows
    )
    wanted = made[made["split"].isin(targets_of)]
    texts = sorted({normalise_text(text) for text in wanted["text"]})
    if texts:
        with CacheWriter(folder / "targets", TARGETS) as writer:
            for text in texts:
                seed = list(hash_bytes(text.encode()).encode())
                vector = np.random.default_rng(seed).standard_normal((1, H))
                key = hash_bytes(text.encode())
                writer.add(text, key, vector.astype(np.float32))
        rows = [(text, hash_bytes(text.encode())) for text in texts]
        write_digest(
            folder / "targets.digest", folder / "targets", TARGETS.fingerprint, rows
        )
    return {
        "manifest": folder / "manifest.csv",
        "acoustic": folder / "acoustic",
        "acoustic_digest": folder / "acoustic.digest",
        "quarantine": folder / "quarantine.csv",
        "targets": folder / "targets",
        "targets_digest": folder / "targets.digest",
    }


def train(
    corpus: dict[str, Any],
    output: Path,
    *,
    system: str = "aln",
    alpha: float | None = 0.5,
    params: StudentParams = PARAMS,
    workers: int = 1,
) -> Summary:
    return run(
        params,
        system=system,
        alpha=alpha,
        **corpus,
        output=output,
        device="cpu",
        workers=workers,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """So hard that the accuracy on valid goes up and down."""
    return make_corpus(tmp_path_factory.mktemp("noisy"), noise=2.5)


@pytest.fixture(scope="module")
def trained(
    corpus: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Summary, Path]:
    output = tmp_path_factory.mktemp("trained") / "aln-0.5"
    return train(corpus, output), output


@pytest.mark.parametrize(
    ("system", "alpha"), [("baseline2", None), ("aln_linguistic", 0.5), ("aln", 0.5)]
)
def test_each_system_learns_separable_intents(
    corpus: dict[str, Any], tmp_path: Path, system: str, alpha: float | None
) -> None:
    params = StudentParams(learning_rate=1e-2, epochs=15, seeds=(1,), gru_width=8)
    summary = train(
        corpus, tmp_path / "student", system=system, alpha=alpha, params=params
    )
    assert summary.valid_accuracy > 90 and summary.test_accuracy > 90
    assert summary.test_accuracy_std == 0.0
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
    assert sorted(contents(output)) == FILES
    metrics = json.loads((output / "metrics.json").read_text())
    predictions = pd.read_csv(output / "predictions.csv")
    columns = ["seed", "id", "split", "intent", "predicted", "confidence"]
    assert list(predictions) == columns
    assert len(predictions) == 2 * (COUNTS["valid"] + COUNTS["test"])
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
        assert getattr(summary, f"{split}_accuracy") == pytest.approx(mean)
        assert getattr(summary, f"{split}_accuracy_std") == pytest.approx(deviation)
    assert (metrics["system"], metrics["alpha"]) == ("aln", 0.5)
    assert metrics["parameters"]["epochs"] == 4
    assert "alpha" not in metrics["parameters"]
    history = pd.read_csv(output / "history.csv")
    assert history["seed"].tolist() == [8] * 4 + [3] * 4
    assert history["epoch"].tolist() == [1, 2, 3, 4] * 2
    assert history["loss"].is_unique  # each seed goes its own way


def test_a_saved_student_predicts_what_was_written(
    corpus: dict[str, Any], trained: tuple[Summary, Path]
) -> None:
    output = trained[1]
    predictions = pd.read_csv(output / "predictions.csv")
    model, metadata = load_student(output / "model-3.safetensors")
    assert metadata["intents"] == INTENTS and metadata["seed"] == 3
    assert metadata["acoustic_encoder"] == "tiny"
    assert metadata["targets_encoder"] == "tiny-bert"
    assert metadata["acoustic_fingerprint"] == ACOUSTIC.fingerprint
    assert metadata["targets_fingerprint"] == TARGETS.fingerprint
    assert metadata["parameters"]["learning_rate"] == 1e-2
    inputs = Inputs(make_job(corpus))
    for split in ("valid", "test"):
        data = inputs.load(split, torch.device("cpu"))
        batch = data.gather(torch.arange(len(data)))
        logits = model(batch.features, batch.lengths).logits
        own = predictions.query(f"seed == 3 and split == {split!r}")
        names = [INTENTS[number] for number in logits.argmax(1)]
        assert names == own["predicted"].tolist()
        shares = logits.detach().softmax(1).numpy()
        np.testing.assert_allclose(own["confidence"], shares.max(axis=1), atol=2e-6)
        assert own["id"].tolist() == sorted(own["id"])


def make_job(corpus: dict[str, Any], params: StudentParams = PARAMS) -> Job:
    return Job(params, "aln", 0.5, **corpus, device="cpu")


def test_embeddings_are_the_first_seeds_on_valid(
    corpus: dict[str, Any], trained: tuple[Summary, Path], tmp_path: Path
) -> None:
    with np.load(trained[1] / "embeddings.npz") as file:
        found = dict(file)
    valid = make_table().query("split == 'valid'")
    assert found["ids"].tolist() == valid["id"].tolist()
    for row, text in zip(found["teacher"], valid["text"], strict=True):
        seed = list(hash_bytes(normalise_text(text).encode()).encode())
        vector = np.random.default_rng(seed).standard_normal(H)
        np.testing.assert_allclose(row, vector, rtol=1e-6)
    errors = [
        np.square(found[name] - found["teacher"]).mean()
        for name in ("student_first", "student_last")
    ]
    assert errors[1] < errors[0]
    # After the first epoch of many, and after the last epoch of one: the same weights.
    once = StudentParams(**{**vars(PARAMS), "epochs": 1, "seeds": (8,)})
    train(corpus, tmp_path / "student", params=once)
    with np.load(tmp_path / "student" / "embeddings.npz") as file:
        np.testing.assert_array_equal(file["student_last"], found["student_first"])
    model, _ = load_student(tmp_path / "student" / "model-8.safetensors")
    data = Inputs(make_job(corpus)).load("valid", torch.device("cpu"))
    batch = data.gather(torch.arange(len(data)))
    pooled = model(batch.features, batch.lengths).pooled
    assert pooled is not None
    np.testing.assert_allclose(
        pooled.detach().numpy(), found["student_first"], atol=1e-5
    )


def test_the_best_epoch_on_valid_is_kept(noisy: dict[str, Any], tmp_path: Path) -> None:
    params = StudentParams(**{**vars(PARAMS), "epochs": 8})
    train(noisy, tmp_path / "best", params=params)
    last = StudentParams(**{**vars(params), "selection": "last"})
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
    columns += ["train_accuracy", "valid_accuracy", "valid_macro_f1"]
    assert list(history) == columns
    halves = 0.5 * history["transfer_loss"] + 0.5 * history["intent_loss"]
    np.testing.assert_allclose(history["loss"], halves, atol=2e-6)


def test_test_labels_decide_nothing(noisy: dict[str, Any], tmp_path: Path) -> None:
    table = make_table()
    test = table["split"] == "test"
    table.loc[test, "intent"] = np.roll(table.loc[test, "intent"], 1)
    planted = make_corpus(tmp_path / "planted", noise=2.5, table=table)
    train(noisy, tmp_path / "a")
    train(planted, tmp_path / "b")
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    changed = {name for name in FILES if a[name] != b[name]}
    assert changed == {"metrics.json", "predictions.csv"}
    seeds = [json.loads(files["metrics.json"])["seeds"] for files in (a, b)]
    for one, other in zip(*seeds, strict=True):
        assert one["best_epoch"] == other["best_epoch"]
        assert one["valid_accuracy"] == other["valid_accuracy"]
        assert one["test_accuracy"] != other["test_accuracy"]


def test_test_is_opened_once_and_after_every_seed(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    load, train_student = Inputs.load, processes.train_student

    def watched_load(self: Inputs, split: str, *rest: Any) -> Any:
        events.append(split)
        return load(self, split, *rest)

    def watched_training(*args: Any, **kwargs: Any) -> Any:
        student = yield from train_student(*args, **kwargs)
        events.append(f"seed {student.seed}")
        return student

    monkeypatch.setattr(Inputs, "load", watched_load)
    monkeypatch.setattr(processes, "train_student", watched_training)
    train(corpus, tmp_path / "student")
    assert events == ["train", "valid", "seed 8", "seed 3", "test"]


def test_targets_of_test_are_never_used(
    trained: tuple[Summary, Path], tmp_path: Path
) -> None:
    every = make_corpus(tmp_path, targets_of=("train", "valid", "test"))
    train(every, tmp_path / "student")
    assert contents(tmp_path / "student") == contents(trained[1])


def test_baseline2_needs_no_targets(tmp_path: Path) -> None:
    paths = make_corpus(tmp_path, targets_of=())
    assert not paths["targets"].exists()
    outputs: list[dict[str, bytes]] = []
    for targets in ({}, {"targets": None, "targets_digest": None}):
        output = tmp_path / f"student{len(outputs)}"
        train({**paths, **targets}, output, system="baseline2", alpha=None)
        outputs.append(contents(output))
    assert outputs[0] == outputs[1]
    metrics = json.loads(outputs[0]["metrics.json"])
    assert metrics["alpha"] is None
    _, metadata = load_student(tmp_path / "student0" / "model-3.safetensors")
    assert metadata["targets_fingerprint"] is metadata["targets_encoder"] is None


def test_the_same_inputs_give_the_same_bytes_whatever_the_workers(
    corpus: dict[str, Any], trained: tuple[Summary, Path], tmp_path: Path
) -> None:
    torch.set_num_threads(2)  # must not matter either
    torch.rand(5)
    train(corpus, tmp_path / "again")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    train(corpus, tmp_path / "parallel", workers=2)
    expected = contents(trained[1])
    assert contents(tmp_path / "again") == expected
    assert contents(tmp_path / "parallel") == expected
    assert not multiprocessing.active_children()


def test_features_that_do_not_fit_are_mapped(
    corpus: dict[str, Any],
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
    size = Inputs(make_job(corpus)).acoustic.lengths(
        make_table()["audio_sha256"].tolist()
    )
    bytes_of_all = 4 * D * int(size.sum())
    options = {**corpus, "unfinished": tmp_path / "unfinished"}
    for memory, mapped in ((2 * bytes_of_all, False), (2 * bytes_of_all - 1, True)):
        monkeypatch.setattr("stages.student.inputs._memory", lambda m=memory: m)
        train(options, tmp_path / "student")
        assert loaded == dict.fromkeys(COUNTS, mapped)
        assert contents(tmp_path / "student") == contents(trained[1])
        assert not (tmp_path / "unfinished").exists()


def test_processes_share_one_copy_of_the_features(
    corpus: dict[str, Any], tmp_path: Path
) -> None:
    params = StudentParams(**{**vars(PARAMS), "epochs": 10_000})
    job = replace(make_job(corpus, params), unfinished=tmp_path)
    groups = [[processes.Unit(0, job, (8,))], [processes.Unit(1, job, (3,))]]
    messages = processes.train_all(job, Inputs(job), groups, workers=2, together=False)
    files: set[str] = set()
    with closing(messages):
        while len(files) < 4:
            next(messages)
            files = {
                f"{child.pid} {line.split()[4]} {line.split()[-1]}"
                for child in multiprocessing.active_children()
                for line in Path(f"/proc/{child.pid}/maps").read_text().splitlines()
                if line.endswith(".float32")
            }
    inodes = {one.split()[1] for one in files}
    assert len(inodes) == 2  # of train and of valid, whichever the process
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inputs, "fits", lambda self: False)
    monkeypatch.setattr(
        "stages.student.inputs.atomic_path", Mock(side_effect=OSError("no space left"))
    )
    with pytest.raises(CacheError, match=r"train\.float32: .*no space left.*make room"):
        train(corpus, tmp_path / "student")


def test_a_killed_worker_ends_them_all(corpus: dict[str, Any], tmp_path: Path) -> None:
    params = StudentParams(**{**vars(PARAMS), "epochs": 10_000})
    job = make_job(corpus, params)
    groups = [[processes.Unit(0, job, (8,))], [processes.Unit(1, job, (3,))]]
    messages = processes.train_in_processes(
        job, Inputs(job), groups, 2, together=False, mapped=tmp_path
    )
    assert next(messages) is None
    children = multiprocessing.active_children()
    assert len(children) == 2 and children[0].pid is not None
    os.kill(children[0].pid, signal.SIGKILL)
    with pytest.raises(PipelineError, match="a training process died; found exit code"):
        for _ in messages:
            pass
    assert not multiprocessing.active_children()


def test_a_workers_error_arrives_and_nothing_is_written(
    corpus: dict[str, Any], tmp_path: Path
) -> None:
    params = StudentParams(**{**vars(PARAMS), "learning_rate": 1e36})
    with pytest.raises(PipelineError, match=r"loss (nan|inf).*learning_rate"):
        train(corpus, tmp_path / "out" / "student", params=params, workers=2)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("selection", ["best_valid", "last"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    noisy: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selection: str,
) -> None:
    params = replace(PARAMS, dropout=0.3, selection=selection)
    train(noisy, tmp_path / "unbroken", params=params)
    unfinished, output = tmp_path / "unfinished", tmp_path / "output"
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    epochs = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", epochs)
    started = {**noisy, "unfinished": unfinished}
    # Of two seeds with four epochs each, in the first, between the two, in the second.
    for done, before in ((1, 0), (3, 1), (4, 3), (7, 4)):
        epochs.reset_mock()
        epochs.side_effect = [DEFAULT] * (done - before) + [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            train(started, output, params=params)
        assert epochs.call_count == done - before + 1
        assert not output.exists()
    epochs.reset_mock(side_effect=True)
    train(started, output, params=params)
    assert epochs.call_count == 1
    assert contents(output) == contents(tmp_path / "unbroken")
    assert not unfinished.exists()


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 2e-2}, {"attention": "self"}, {"epochs": 5}, "bytes", "corpus"],
    ids=str,
)
def test_a_checkpoint_of_something_else_is_not_gone_on_from(
    corpus: dict[str, Any],
    noisy: dict[str, Any],
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
        train({**corpus, "unfinished": unfinished}, output)
    params, inputs = PARAMS, corpus
    if change == "bytes":
        path = unfinished / "seed-8.pt"
        path.write_bytes(path.read_bytes()[:-100])
    elif change == "corpus":
        inputs = noisy
    else:
        params = replace(PARAMS, **change)
    epochs.reset_mock(side_effect=True)
    train({**inputs, "unfinished": unfinished}, output, params=params)
    assert epochs.call_count == 2 * params.epochs
    train(inputs, tmp_path / "unbroken", params=params)
    assert contents(output) == contents(tmp_path / "unbroken")


def test_a_damaged_checkpoint_is_told_and_not_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "seed-1.pt"
    assert training.read_checkpoint(path, "me") is None and not caplog.records
    weights = torch.linspace(0, 1, 50)
    training.write_checkpoint(path, "me", {"weights": weights, "epoch": 3})
    whole = path.read_bytes()
    found = training.read_checkpoint(path, "me")
    assert found is not None and found["epoch"] == 3
    assert torch.equal(found["weights"], weights)
    assert training.read_checkpoint(path, "another") is None and not caplog.records
    flips = range(0, len(whole), 13)
    for number, place in enumerate(flips, 1):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 32]) + whole[place + 1 :]
        )
        assert training.read_checkpoint(path, "me") is None
        assert len(caplog.records) == number
    assert "seed-1.pt: damaged" in caplog.text and "begins anew" in caplog.text
    for content in (b"", b"PK\x03\x04", whole[:-1], b"not a checkpoint" * 9):
        path.write_bytes(content)
        assert training.read_checkpoint(path, "me") is None


@pytest.mark.parametrize("together", [False, True])
def test_a_student_whose_last_step_goes_astray_is_none(
    corpus: dict[str, Any], tmp_path: Path, together: bool
) -> None:
    # One step, whose loss is taken before it.
    params = replace(PARAMS, learning_rate=1e30, epochs=1, batch_size=COUNTS["train"])
    with pytest.raises(PipelineError, match=r"loss (nan|inf) on valid.*learning_rate"):
        train({**corpus, "together": together}, tmp_path / "student", params=params)
    assert not (tmp_path / "student").exists()


def test_interrupted_training_leaves_the_old_student(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "student"
    train(corpus, output, system="baseline2", alpha=None)
    before = contents(output)

    def interrupted(*_: Any, **__: Any) -> Any:
        yield
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(processes, "train_student", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, output)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        with pytest.raises(OSError, match="no space"):
            train(corpus, output)
    assert contents(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    train(corpus, output)
    assert sorted(contents(output)) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_only_a_students_folder_is_replaced(
    corpus: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(ConfigurationError, match=r"thesis\.txt"):
        train(corpus, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "all my work"


def test_features_that_are_missing_are_named_with_the_fix(tmp_path: Path) -> None:
    paths = make_corpus(tmp_path)
    table = make_table()
    table.loc[3, "audio_sha256"] = hash_bytes(b"another recording")
    write_manifest(paths["manifest"], table)
    with pytest.raises(CacheError, match=r"tiny/train/003.*extract-acoustic"):
        train(paths, tmp_path / "student")
    write_manifest(paths["manifest"], make_table())
    for part in paths["acoustic"].glob("*.h5"):
        part.unlink()
    with CacheWriter(paths["acoustic"], ACOUSTIC) as writer:
        writer.add("other", hash_bytes(b"other"), np.ones((2, D), np.float32))
    with pytest.raises(CacheError, match=r"acoustic: .*150 of 150.*extract-acoustic"):
        train(paths, tmp_path / "student")
    paths["acoustic_digest"].unlink()
    with pytest.raises(CacheError, match=r"acoustic\.digest: .*extract-acoustic"):
        train(paths, tmp_path / "student")


@pytest.mark.parametrize("kind", ["acoustic", "targets"])
def test_damaged_features_are_not_trained_on(tmp_path: Path, kind: str) -> None:
    paths = make_corpus(tmp_path)
    (part,) = paths[kind].glob("*.h5")
    content = bytearray(part.read_bytes())
    key = next(iter(read_digest(paths[f"{kind}_digest"]).rows.values()))[0]
    content[content.index(CacheReader(paths[kind])[key].tobytes())] ^= 1
    part.write_bytes(content)
    with pytest.raises(CacheError, match=rf"{part.name}: damaged.*not the digest's"):
        train(paths, tmp_path / "student")


def test_what_was_set_aside_is_neither_trained_on_nor_measured(
    tmp_path: Path,
) -> None:
    paths = make_corpus(tmp_path)
    table = make_table()
    bad = table[table["id"].isin(["tiny/train/003", "tiny/test/001"])]
    assert len(bad) == 2
    write_quarantine(paths["quarantine"], bad.assign(reason="empty"))
    good = table.drop(bad.index)
    rows = list(zip(good["id"], good["audio_sha256"], strict=True))
    write_digest(
        paths["acoustic_digest"], paths["acoustic"], ACOUSTIC.fingerprint, rows
    )
    train(paths, tmp_path / "student")
    predicted = pd.read_csv(tmp_path / "student" / "predictions.csv")
    expected = good.loc[good["split"] != "train", "id"]
    assert set(predicted["id"]) == set(expected)
    paths["quarantine"].unlink()
    with pytest.raises(InputError, match=r"quarantine\.csv: .*extract-acoustic"):
        train(paths, tmp_path / "student")


def test_targets_that_are_missing_are_named_with_the_fix(tmp_path: Path) -> None:
    paths = make_corpus(tmp_path, targets_of=("train",))
    table = make_table()
    table.loc[table["id"] == "tiny/valid/004", "text"] = "Turn it off at last"
    write_manifest(paths["manifest"], table)
    with pytest.raises(CacheError, match=r"Turn it off at last.*cache-targets"):
        train(paths, tmp_path / "student")
    write_manifest(paths["manifest"], make_table())
    for part in paths["targets"].glob("*.h5"):
        part.unlink()
    with pytest.raises(CacheError, match=r"targets: .*cache-targets"):
        train(paths, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_intents_of_another_manifest_are_refused(tmp_path: Path) -> None:
    paths = make_corpus(tmp_path)
    (tmp_path / "intents.json").write_text('["off", "on"]')
    with pytest.raises(InputError, match=r"intents\.json: .*prepare"):
        train(paths, tmp_path / "student")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": "aln3"}, "one of baseline2, aln_linguistic, aln"),
        ({"system": "baseline2", "alpha": 0.5}, "leave --alpha out"),
        ({"alpha": None}, "a number from 0 to 1"),
        ({"alpha": 2.0}, "a number from 0 to 1"),
        ({"workers": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_trained_is_refused_first(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    nowhere = {
        name: tmp_path / name
        for name in (
            "manifest",
            "acoustic",
            "acoustic_digest",
            "quarantine",
            "targets",
            "targets_digest",
        )
    }
    with pytest.raises(ConfigurationError, match=message):
        train(nowhere, tmp_path / "student", **changes)
    without = {**nowhere, "targets": None, "targets_digest": None}
    with pytest.raises(ConfigurationError, match="teacher's targets"):
        train(without, tmp_path / "student")
