"""Sweeps and the ledger: each student of a grid is what it is alone."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest
from conftest import files_in, write_sources

from stages.core.errors import CacheError, ConfigurationError, PipelineError
from stages.core.files import locked
from stages.core.runtime import RunOptions
from stages.student import training
from stages.student.inputs import Sources
from stages.student.ledger import of_inputs, read_ledger, results_table
from stages.student.params import RecommendedParams, StudentParams, Variant
from stages.student.run import run as train_alone
from stages.sweep.params import SweepParams
from stages.sweep.run import Summary, expand, run

PARAMS = StudentParams(
    learning_rate=1e-2, batch_size=16, epochs=4, seeds=(8, 3), gru_width=8
)
VARIANTS = [
    Variant("aln", 0.5, PARAMS),
    Variant("baseline2", None, PARAMS),
    Variant("aln_linguistic", 0.0, replace(PARAMS, learning_rate=3e-3)),
]
# Epochs of one variant.
EPOCHS = PARAMS.epochs * len(PARAMS.seeds)


def sweep(
    sources: Sources,
    folder: Path,
    variants: list[Variant] = VARIANTS,
    *,
    workers: int = 1,
    force: bool = False,
) -> Summary:
    return run(
        variants,
        sources,
        ledger=folder / "results",
        unfinished=folder / "unfinished",
        options=RunOptions("cpu", workers, force=force),
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return write_sources(tmp_path_factory.mktemp("corpus"), noise=2.5)


@pytest.fixture(scope="module")
def swept(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    assert str(sweep(sources, folder)).endswith("results: 3 students, 3 trained now")
    assert not (folder / "unfinished").exists()
    return folder / "results"


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Counts the epochs that are trained."""
    counted = Mock(wraps=training.train_epoch)
    monkeypatch.setattr(training, "train_epoch", counted)
    return counted


def test_each_student_is_what_it_is_alone_and_has_one_entry(
    sources: Sources, swept: Path, tmp_path: Path
) -> None:
    for variant in VARIANTS:
        train_alone(
            variant,
            sources,
            output=tmp_path / variant.system,
            unfinished=tmp_path / "unfinished",
            ledger=tmp_path / "results",
            options=RunOptions("cpu"),
        )
    assert files_in(tmp_path / "results") == files_in(swept)


def test_workers_change_nothing(sources: Sources, swept: Path, tmp_path: Path) -> None:
    sweep(sources, tmp_path, workers=2)
    assert files_in(tmp_path / "results") == files_in(swept)


def test_a_student_with_an_entry_is_not_trained_again(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: Mock
) -> None:
    for variants, force, trained in (
        (VARIANTS[:1], False, 1),
        (VARIANTS[:2], False, 1),
        (VARIANTS[:2], False, 0),
        (VARIANTS[:2], True, 2),
    ):
        epochs.reset_mock()
        summary = sweep(sources, tmp_path, variants, force=force)
        assert summary.trained == trained and len(summary.entries) == len(variants)
        assert epochs.call_count == trained * EPOCHS
    monkeypatch.setattr("stages.student.inputs.REVISION", 2)
    monkeypatch.setattr("stages.student.ledger.REVISION", 2)
    assert of_inputs(read_ledger(tmp_path / "results"), sources.hashes()) == []
    summary = sweep(sources, tmp_path, VARIANTS[:1])
    assert summary.trained == 1 and summary.entries[0]["revision"] == 2
    ledger = read_ledger(tmp_path / "results")
    assert of_inputs(ledger, sources.hashes()) == summary.entries
    assert len(ledger) == 3


def test_equal_variants_are_trained_once(
    sources: Sources, tmp_path: Path, epochs: Mock
) -> None:
    whole = Variant("aln", 1, replace(PARAMS, learning_rate=1, dropout=0))
    same = Variant("aln", 1.0, replace(PARAMS, learning_rate=1.0, dropout=0.0))
    summary = sweep(sources, tmp_path, [whole, VARIANTS[1], same, whole])
    assert epochs.call_count == 2 * EPOCHS
    assert summary.trained == 2 and str(summary).endswith("2 students, 2 trained now")
    systems = [entry["parameters"]["system"] for entry in summary.entries]
    assert systems == ["aln", "baseline2", "aln", "aln"]
    assert sweep(sources, tmp_path, [same]).trained == 0


def test_seeds_and_their_order_make_a_student(sources: Sources, tmp_path: Path) -> None:
    seeds = ((8,), (8, 3), (3, 8))
    params = [replace(PARAMS, epochs=1, seeds=one) for one in seeds]
    summary = sweep(sources, tmp_path, [Variant("aln", 0.5, one) for one in params])
    assert summary.trained == 3
    found = [[one["seed"] for one in entry["seeds"]] for entry in summary.entries]
    assert found == [[8], [8, 3], [3, 8]]


def test_two_sweeps_do_not_remove_each_others_checkpoints(
    sources: Sources, tmp_path: Path
) -> None:
    other = tmp_path / "unfinished" / "checkpoint.pt"
    with locked(other.parent):
        other.write_bytes(b"of a sweep that runs")
        with pytest.raises(CacheError, match=rf"unfinished: process {os.getpid()} "):
            sweep(sources, tmp_path, VARIANTS[:1])
        assert other.exists() and not (tmp_path / "results").exists()
    assert sweep(sources, tmp_path, VARIANTS[:1]).trained == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_sweep_keeps_its_students_and_resumes(
    sources: Sources,
    swept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epochs: Mock,
    workers: int,
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    # The first student, then five of the second one's eight epochs.
    epochs.side_effect = [DEFAULT] * (EPOCHS + 5) + [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        sweep(sources, tmp_path)
    assert len(read_ledger(tmp_path / "results")) == 1
    epochs.reset_mock(side_effect=True)
    assert sweep(sources, tmp_path, workers=workers).trained == 2
    if workers == 1:
        assert epochs.call_count == 3 + EPOCHS
    assert files_in(tmp_path / "results") == files_in(swept)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_student_that_fails_does_not_cost_the_others(
    sources: Sources, swept: Path, tmp_path: Path, workers: int
) -> None:
    variants = [Variant("aln", 0.8, replace(PARAMS, learning_rate=1e30)), *VARIANTS]
    with pytest.raises(
        PipelineError, match=r"1 of 4 students .* aln, .* 1e\+30: .* loss (nan|inf)"
    ):
        sweep(sources, tmp_path, variants, workers=workers)
    assert files_in(tmp_path / "results") == files_in(swept)


def test_a_sweep_of_baseline2_needs_no_targets(
    sources: Sources, swept: Path, tmp_path: Path
) -> None:
    without = replace(sources, targets=tmp_path / "targets")
    sweep(without, tmp_path, VARIANTS[1:2])
    (path,) = (tmp_path / "results").iterdir()
    assert path.read_bytes() == (swept / path.name).read_bytes()
    with pytest.raises(CacheError, match=r"targets\.json: no such file.*dvc repro"):
        sweep(without, tmp_path)


def test_a_grid_is_every_combination() -> None:
    grid = SweepParams(
        systems=("baseline2", "aln"), alpha=(0.1, 0.9), learning_rate=(1e-3, 1e-4)
    )
    found = [
        (one.system, one.alpha, one.params.learning_rate)
        for one in expand(PARAMS, grid, RecommendedParams())
    ]
    assert found == [
        (system, alpha, rate)
        for rate in (1e-3, 1e-4)
        for system, alpha in (("baseline2", None), ("aln", 0.1), ("aln", 0.9))
    ]
    usual = expand(PARAMS, SweepParams(systems=("aln",), alpha=()), RecommendedParams())
    assert usual == [Variant("aln", alpha, PARAMS) for alpha in PARAMS.alpha]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"systems": ("aln2",)}, "sweep.systems .* one of baseline2"),
        ({"systems": ()}, "sweep.systems"),
        ({"alpha": (0, 0.0)}, "sweep.alpha .* different values"),
        ({"alpha": (0.5, 1.5)}, "sweep.alpha .* 0 to 1"),
        ({"learning_rate": (1e-3, 0.0)}, "sweep.learning_rate .* above 0"),
        ({"batch_size": (0,)}, "sweep.batch_size .* 1 to 1,000,000"),
        ({"gru_width": (-1,)}, "sweep.gru_width .* 1 to 4,096"),
        ({"dropout": (0.1, 1.5)}, "sweep.dropout .* below 1"),
    ],
)
def test_an_unusable_grid_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        SweepParams(**values)


def test_the_table_is_sorted_by_valid_and_names_what_differs(swept: Path) -> None:
    entries = read_ledger(swept)
    table = results_table(entries, replace(PARAMS, epochs=9), RecommendedParams())
    rows = {row["system"]: row for row in table.to_dict("records")}
    assert sorted(rows) == sorted(one.system for one in VARIANTS)
    assert rows["aln_linguistic"]["changes"] == "epochs 4, learning_rate 0.003"
    assert rows["aln"]["changes"] == "epochs 4" and rows["aln"]["alpha"] == "0.5"
    assert rows["baseline2"]["alpha"] == "" and rows["baseline2"]["seeds"] == 2
    assert set(table["best"]) == {"★"}
    valid = [float(text.split(" ± ")[0]) for text in table["valid"]]
    assert valid == sorted(valid, reverse=True)
    for entry in entries:
        mean, deviation = entry["test_macro_f1"], entry["test_macro_f1_std"]
        row = rows[entry["parameters"]["system"]]
        assert row["test macro-F1"] == f"{mean:.2f} ± {deviation:.2f}"
    worse = {**entries[0], "valid_accuracy": entries[0]["valid_accuracy"] - 1}
    again = results_table([worse, *entries], PARAMS, RecommendedParams())
    assert again["best"].tolist().count("") == 1
    assert again[again["best"] == ""]["system"].item() == worse["parameters"]["system"]
    removed = {**entries[0]["parameters"], "momentum": 0.5}
    changed = [{**entries[0], "parameters": removed}]
    (row,) = results_table(changed, PARAMS, RecommendedParams()).to_dict("records")
    assert "momentum 0.5" in row["changes"]


def test_the_table_names_the_recommended_student(swept: Path) -> None:
    entry = read_ledger(swept)[0]
    recommended = RecommendedParams(system="aln")
    variants = [
        recommended.variant(PARAMS),
        replace(recommended, alpha=0.1).variant(replace(PARAMS, epochs=9)),
        replace(recommended, standardisation=False).variant(PARAMS),
    ]
    entries = [
        {
            **entry,
            "parameters": json.loads(json.dumps(variant.parameters())),
            "valid_accuracy": 9.0 - place,
        }
        for place, variant in enumerate(variants)
    ]
    table = results_table(entries, PARAMS, recommended)
    named = table[["system", "alpha", "changes", "best"]]
    assert list(named.itertuples(index=False, name=None)) == [
        ("recommended", "0.8", "", "★"),
        ("recommended", "0.1", "epochs 9", ""),
        (
            "aln",
            "0.8",
            "transfer utterance, teacher_classifier True, unlabelled True",
            "★",
        ),
    ]


def test_entries_of_other_inputs_are_left_out(
    sources: Sources, swept: Path, tmp_path: Path
) -> None:
    entries, hashes = read_ledger(swept), sources.hashes()
    other = write_sources(tmp_path).hashes()
    assert len(of_inputs(entries, hashes)) == 3
    assert of_inputs(entries, other) == []
    # baseline2 reads no targets: its entry fits any.
    (found,) = of_inputs(entries, {**hashes, "targets": "other"})
    assert found["parameters"]["system"] == "baseline2"


def test_a_damaged_entry_is_named(swept: Path, tmp_path: Path) -> None:
    path = next(swept.iterdir())
    text = json.dumps({**json.loads(path.read_text()), "revision": 7})
    for content in ("{", "{}", text):
        (tmp_path / path.name).write_text(content)
        with pytest.raises(CacheError, match=rf"{path.name}: not a student's results"):
            read_ledger(tmp_path)
