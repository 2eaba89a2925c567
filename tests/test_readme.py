"""The README's figures of the demo are those that were measured last."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

README = Path("README.md").read_text("utf-8")


def row(beginning: str) -> list[str]:
    """The figures of the one table row that begins so."""
    (line,) = [
        line for line in README.splitlines() if line.startswith(f"| {beginning} |")
    ]
    return [cell.strip() for cell in line.strip("| ").split("|")[1:]]


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("Baseline-1, ground-truth text", "baseline1_text"),
        ("Baseline-1, recognised text", "baseline1_asr"),
        ("Baseline-2", "baseline2"),
        ("ALN linguistic, α 0.5", "aln_linguistic-0.5"),
        ("ALN linguistic, α 0.8", "aln_linguistic-0.8"),
        ("ALN, α 0.5", "aln-0.5"),
        ("ALN, α 0.8", "aln-0.8"),
    ],
)
def test_scores_are_those_of_the_report(name: str, system: str) -> None:
    # Another table has a row of this name too.
    assert f"| {name} | {' | '.join(reported(system))} |" in README


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("Baseline-2", "baseline2"),
        ("ALN linguistic, α 0.8", "aln_linguistic-0.8"),
        ("ALN, α 0.5", "aln-0.5"),
    ],
)
def test_scores_under_noise_are_those_of_the_report(name: str, system: str) -> None:
    rows = [condition["systems"][system] for condition in committed()["robustness"]]
    told = [f"{one['accuracy']:.2f} ± {one['accuracy_std']:.2f}" for one in rows]
    assert len(told) == 6 and f"| {name} | {' | '.join(told)} |" in README


def test_the_word_error_rate_is_that_of_the_report() -> None:
    rate = committed()["recognition"]["test"]["word_error_rate"]
    assert f"errs in {rate:.1f}% of the words" in README


def committed() -> dict[str, Any]:
    """The report as committed: a run on another machine or corpus leaves another."""
    told = subprocess.run(
        ["git", "show", "HEAD:report/results.json"], capture_output=True, text=True
    )
    if told.returncode:
        pytest.skip("no git repository")
    return json.loads(told.stdout)


def reported(system: str) -> list[str]:
    """Accuracies and macro-F1 of a system in the report."""
    scores = committed()["systems"][system]
    figures = []
    for name in ("valid_accuracy", "test_accuracy", "test_macro_f1"):
        figure = f"{scores[name]:.2f}"
        if scores["seeds"] > 1:
            figure += f" ± {scores[f'{name}_std']:.2f}"
        figures.append(figure)
    return figures


def test_the_encoders_worth_is_what_stands_beside_it() -> None:
    notes = json.loads(Path("data/demo/encoder.json").read_text())
    names = {
        "voices of another synthesiser, heard wordings": (
            "flite's voices, built from recordings of people; wordings of train"
        ),
        "voices of another synthesiser, unseen wordings": (
            "the same, wordings that train never said"
        ),
    }
    assert len(notes["conditions"]) == 10
    for condition, accuracies in notes["conditions"].items():
        shown = [float(figure) for figure in row(names.get(condition, condition))]
        measured = [accuracies[name] for name in ("trained", "random", "log_mel")]
        assert shown == pytest.approx(measured, abs=0.0501), condition
