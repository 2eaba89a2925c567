"""Sweeps and the ledger: many students at once are what each is alone."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest
from test_student_run import PARAMS, contents, make_corpus

from pipeline.layout import student_name
from stages.core.errors import CacheError, ConfigurationError, PipelineError
from stages.core.files import locked
from stages.student import training
from stages.student.inputs import Job
from stages.student.ledger import (
    describe,
    find,
    of_inputs,
    read_ledger,
    record,
    results_table,
)
from stages.student.run import run as train_alone
from stages.sweep.params import SweepParams
from stages.sweep.run import Summary, Variant, expand, run

VARIANTS = [
    Variant("aln", 0.5, PARAMS),
    Variant("baseline2", None, PARAMS),
    Variant("aln_linguistic", 0.0, replace(PARAMS, learning_rate=3e-3)),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_corpus(tmp_path_factory.mktemp("corpus"), noise=2.5)


def sweep(
    corpus: dict[str, Any],
    folder: Path,
    variants: list[Variant] = VARIANTS,
    workers: int = 1,
) -> Summary:
    return run(
        variants,
        Job(PARAMS, "aln", 0.5, **corpus, device="cpu"),
        ledger=folder / "results",
        unfinished=folder / "unfinished",
        workers=workers,
    )


@pytest.fixture(scope="module")
def swept(corpus: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    assert str(sweep(corpus, folder)).endswith("results: 3 students, 3 trained now")
    (lock,) = (folder / "unfinished").iterdir()
    assert lock.name == ".lock" and not lock.read_bytes()
    return folder / "results"


def test_each_student_is_what_it_is_alone_and_has_one_entry(
    corpus: dict[str, Any], swept: Path, tmp_path: Path
) -> None:
    for number, (system, alpha, params) in enumerate(VARIANTS):
        train_alone(
            params,
            system=system,
            alpha=alpha,
            **corpus,
            output=tmp_path / f"student{number}",
            ledger=tmp_path / "results",
            device="cpu",
        )
    assert contents(tmp_path / "results") == contents(swept)


def test_workers_change_nothing(
    corpus: dict[str, Any], swept: Path, tmp_path: Path
) -> None:
    sweep(corpus, tmp_path, workers=2)
    assert contents(tmp_path / "results") == contents(swept)


def test_what_has_an_entry_is_not_trained_again(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", epochs)
    for variants, trained in ((VARIANTS[:1], 1), (VARIANTS[:2], 1), (VARIANTS[:2], 0)):
        epochs.reset_mock()
        summary = sweep(corpus, tmp_path, variants)
        assert summary.trained == trained and len(summary.entries) == len(variants)
        assert epochs.call_count == trained * PARAMS.epochs * len(PARAMS.seeds)


def test_students_of_another_revision_are_trained_again(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(corpus, tmp_path, VARIANTS[:1])
    (path,) = (tmp_path / "results").iterdir()
    entry = json.loads(path.read_text())
    # As entries were before they had a revision: they are of the first one.
    assert entry.pop("revision") == 1
    path.write_text(json.dumps(entry))
    assert sweep(corpus, tmp_path, VARIANTS[:1]).trained == 0
    assert of_inputs(read_ledger(path.parent), entry["inputs"])
    monkeypatch.setattr("stages.student.ledger.REVISION", 2)
    assert of_inputs(read_ledger(path.parent), entry["inputs"]) == []
    summary = sweep(corpus, tmp_path, VARIANTS[:1])
    assert summary.trained == 1 and summary.entries[0]["revision"] == 2
    assert sweep(corpus, tmp_path, VARIANTS[:1]).trained == 0
    shown = of_inputs(read_ledger(path.parent), entry["inputs"])
    assert shown == summary.entries
    assert len(read_ledger(path.parent)) == 2


def test_one_and_one_point_zero_are_one_student(
    corpus: dict[str, Any], tmp_path: Path
) -> None:
    whole = Variant("aln", 1, replace(PARAMS, learning_rate=1, dropout=0))
    same = Variant("aln", 1.0, replace(PARAMS, learning_rate=1.0, betas=(0.9, 0.999)))
    jobs = [
        Job(one.params, one.system, one.alpha, **corpus, device="cpu")
        for one in (whole, same)
    ]
    assert jobs[0].identity(3) == jobs[1].identity(3)
    assert describe(jobs[0]) == describe(jobs[1])
    assert student_name("aln", 1) == "aln-1"  # as DVC calls its folder
    summary = sweep(corpus, tmp_path, [whole])
    assert sweep(corpus, tmp_path, [same]).trained == 0
    # As it was recorded before that was so.
    (path,) = (tmp_path / "results").iterdir()
    entry = json.loads(path.read_text())
    former = {**entry, "alpha": 1}
    former["parameters"] = {**entry["parameters"], "dropout": 0}
    del former["revision"]
    written = record(path.parent, former)
    assert written != path
    for variant in (whole, same):
        assert len(read_ledger(path.parent)) == 1
        path.unlink(missing_ok=True)
        again = sweep(corpus, tmp_path, [variant])
        assert again.trained == 0 and again.entries[0]["seeds"] == entry["seeds"]
    (found,) = read_ledger(path.parent)
    assert json.dumps(found["alpha"]) == "1.0"
    assert summary.entries[0]["parameters"] == found["parameters"]


def test_equal_variants_are_trained_once(
    corpus: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", epochs)
    one, other = VARIANTS[:2]
    summary = sweep(corpus, tmp_path, [one, other, one._replace(alpha=0.50), one])
    assert epochs.call_count == 2 * PARAMS.epochs * len(PARAMS.seeds)
    assert summary.trained == 2 and str(summary).endswith("2 students, 2 trained now")
    assert [entry["system"] for entry in summary.entries] == [
        "aln",
        "baseline2",
        "aln",
        "aln",
    ]


def test_variants_of_other_seeds_are_others(
    corpus: dict[str, Any], tmp_path: Path
) -> None:
    seeds = ((8,), (8, 3), (3, 8))
    params = [replace(PARAMS, epochs=1, seeds=one) for one in seeds]
    summary = sweep(corpus, tmp_path, [Variant("aln", 0.5, one) for one in params])
    assert summary.trained == 3
    found = [[run["seed"] for run in entry["seeds"]] for entry in summary.entries]
    assert found == [[8], [8, 3], [3, 8]]


def test_two_sweeps_do_not_remove_each_others_checkpoints(
    corpus: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "unfinished" / "checkpoint.pt"
    with locked(other.parent):
        other.write_bytes(b"of a sweep that is at work")
        with pytest.raises(CacheError, match=rf"unfinished: process {os.getpid()} "):
            sweep(corpus, tmp_path, VARIANTS[:1])
        assert other.exists() and not (tmp_path / "results").exists()
    assert sweep(corpus, tmp_path, VARIANTS[:1]).trained == 1


def test_a_parameter_that_is_no_more_is_shown(swept: Path) -> None:
    entry = read_ledger(swept)[0]
    entry["parameters"] = {**entry["parameters"], "momentum": 0.5}
    (row,) = results_table([entry], PARAMS).to_dict("records")
    assert "momentum 0.5" in row["changes"]


def test_a_killed_sweep_keeps_its_students_and_goes_on(
    corpus: dict[str, Any],
    swept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    epochs = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", epochs)
    # The first student, then five of the second one's eight epochs.
    epochs.side_effect = [DEFAULT] * 13 + [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        sweep(corpus, tmp_path)
    assert len(read_ledger(tmp_path / "results")) == 1
    epochs.reset_mock(side_effect=True)
    sweep(corpus, tmp_path)
    assert epochs.call_count == 3 + 8
    assert contents(tmp_path / "results") == contents(swept)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_student_that_fails_does_not_cost_the_others(
    corpus: dict[str, Any], swept: Path, tmp_path: Path, workers: int
) -> None:
    variants = [Variant("aln", 0.8, replace(PARAMS, learning_rate=1e30)), *VARIANTS]
    with pytest.raises(
        PipelineError, match=r"1 of 4 students .* aln, .* 1e\+30: .* loss (nan|inf)"
    ):
        sweep(corpus, tmp_path, variants, workers)
    assert contents(tmp_path / "results") == contents(swept)


def test_a_sweep_of_baseline2_needs_no_targets(
    corpus: dict[str, Any], swept: Path, tmp_path: Path
) -> None:
    nowhere = {"targets": tmp_path / "no", "targets_digest": tmp_path / "no.digest"}
    sweep({**corpus, **nowhere}, tmp_path, VARIANTS[1:2])
    (path,) = (tmp_path / "results").iterdir()
    assert path.read_bytes() == (swept / path.name).read_bytes()
    with pytest.raises(CacheError, match=r"no\.digest: "):
        sweep({**corpus, **nowhere}, tmp_path)


def test_a_grid_is_every_combination() -> None:
    grid = SweepParams(
        systems=("baseline2", "aln"), alpha=(0.1, 0.9), learning_rate=(1e-3, 1e-4)
    )
    found = [(one[0], one[1], one[2].learning_rate) for one in expand(PARAMS, grid)]
    assert found == [
        (system, alpha, rate)
        for rate in (1e-3, 1e-4)
        for system, alpha in (("baseline2", None), ("aln", 0.1), ("aln", 0.9))
    ]
    usual = expand(PARAMS, SweepParams(systems=("aln",), alpha=()))
    assert usual == [Variant("aln", alpha, PARAMS) for alpha in PARAMS.alpha]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"systems": ("aln2",)}, "sweep.systems .* some of baseline2"),
        ({"systems": ()}, "sweep.systems"),
        (
            {"alpha": (0.5, 0.5)},
            "sweep.alpha has a value twice; .* expected each value once; fix: leave",
        ),
        ({"alpha": (0, 0.0)}, "sweep.alpha has a value twice"),
        ({"alpha": (0.5, 1.5)}, "sweep.alpha .* found 1.5; expected .* from 0 to 1"),
        ({"learning_rate": (1e-3, 0.0)}, "sweep.learning_rate .* above 0"),
        ({"batch_size": (0,)}, "sweep.batch_size .* 1 or more"),
        ({"gru_width": (-1,)}, "sweep.gru_width .* 1 or more"),
        ({"dropout": (0.1, 1.5)}, "sweep.dropout .* found 1.5; .* below 1"),
    ],
)
def test_what_is_no_grid_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        SweepParams(**values)


def test_the_table_is_sorted_by_valid_and_names_what_differs(swept: Path) -> None:
    entries = read_ledger(swept)
    table = results_table(entries, replace(PARAMS, epochs=9))
    assert sorted(table["system"]) == sorted(one.system for one in VARIANTS)
    rows = {row.system: row for row in table.itertuples()}
    assert rows["aln_linguistic"].changes == "epochs 4, learning_rate 0.003"
    assert rows["aln"].changes == "epochs 4" and rows["aln"].alpha == "0.5"
    assert rows["baseline2"].alpha == "" and rows["baseline2"].seeds == 2
    assert set(table["best"]) == {"★"}
    valid = [float(text.split(" ± ")[0]) for text in table["valid"]]
    assert valid == sorted(valid, reverse=True)
    for row in table.itertuples(index=False):
        entry = next(one for one in entries if one["system"] == row.system)
        mean, deviation = entry["test_macro_f1"], entry["test_macro_f1_std"]
        assert row[table.columns.get_loc("test macro-F1")] == (
            f"{mean:.2f} ± {deviation:.2f}"
        )
    worse = {**entries[0], "valid_accuracy": entries[0]["valid_accuracy"] - 1}
    again = results_table([worse, *entries], PARAMS)
    assert again["best"].tolist().count("") == 1
    assert again[again["best"] == ""]["system"].item() == entries[0]["system"]


def test_an_entry_without_macro_f1_is_shown_without(
    swept: Path, tmp_path: Path
) -> None:
    path = sorted(swept.iterdir())[0]
    entry = json.loads(path.read_text())
    former = {name: value for name, value in entry.items() if "macro_f1" not in name}
    (tmp_path / path.name).write_text(json.dumps(former))
    (row,) = results_table(read_ledger(tmp_path), PARAMS).to_dict("records")
    assert row["valid"] and row["test"]
    assert row["valid macro-F1"] == row["test macro-F1"] == ""


def test_entries_of_other_inputs_are_told_apart(
    corpus: dict[str, Any], swept: Path, tmp_path: Path
) -> None:
    other = make_corpus(tmp_path)
    entries = read_ledger(swept)
    for paths, count in ((corpus, 3), (other, 0)):
        inputs = describe(Job(PARAMS, "aln", 0.5, **paths, device="cpu"))["inputs"]
        assert len(of_inputs(entries, inputs)) == count
    # baseline2 reads no targets: other ones leave its entry as it is.
    mixed = {**corpus, "targets_digest": other["quarantine"]}
    inputs = describe(Job(PARAMS, "aln", 0.5, **mixed, device="cpu"))["inputs"]
    assert [one["system"] for one in of_inputs(entries, inputs)] == ["baseline2"]


def test_a_damaged_entry_is_named(swept: Path, tmp_path: Path) -> None:
    path = next(swept.iterdir())
    other = tmp_path / path.name
    for text in ("{", "{}", path.read_text().replace('"alpha": ', '"alpha": 1')):
        other.write_text(text)
        with pytest.raises(CacheError, match=rf"{path.name}: not a student's results"):
            read_ledger(tmp_path)
    assert find(tmp_path / "nowhere", read_ledger(swept)[0]) is None
