"""The documentation shows the latest figures; its links and commands exist."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.cli import main

PAGES = [
    Path(name) for name in ("README.md", "CONTRIBUTING.md", "data/README.md")
] + sorted(Path("docs").glob("*.md"))
SYSTEMS = {
    "Baseline-1, ground-truth text": "baseline1_text",
    "Baseline-1, recognised text": "baseline1_asr",
    "Baseline-2": "baseline2",
    "ALN linguistic, α 0.5": "aln_linguistic-0.5",
    "ALN linguistic, α 0.8": "aln_linguistic-0.8",
    "ALN, α 0.5": "aln-0.5",
    "ALN, α 0.8": "aln-0.8",
    "Recommended": "recommended",
}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The report as committed: a run on another machine or corpus leaves another."""
    shown = subprocess.run(
        ["git", "show", "HEAD:report/results.json"], capture_output=True, text=True
    )
    if shown.returncode:
        pytest.skip("no git repository")
    return json.loads(shown.stdout)


@pytest.mark.parametrize("name", SYSTEMS)
def test_accuracies_are_those_of_the_report(report: dict[str, Any], name: str) -> None:
    system = SYSTEMS[name]
    scores = report["systems"][system]
    several = scores["seeds"] > 1
    (unseen,) = [row for row in report["groups"] if row.get("wording") == "unseen"]
    measured = [
        figure(scores[score], scores[f"{score}_std"], several)
        for score in ("valid_accuracy", "test_accuracy", "test_macro_f1")
    ]
    wordings = figure(
        unseen["accuracy"][system], unseen["accuracy_std"][system], several
    )
    assert [*measured, wordings] in rows("docs/results.md", name)
    (overview,) = rows("README.md", name)
    assert overview[1:] == [measured[1], wordings]


@pytest.mark.parametrize("name", [name for name in SYSTEMS if "Baseline-1" not in name])
def test_accuracies_under_noise_are_those_of_the_report(
    report: dict[str, Any], name: str
) -> None:
    scores = [row["systems"][SYSTEMS[name]] for row in report["robustness"]]
    measured = [figure(one["accuracy"], one["accuracy_std"], True) for one in scores]
    assert rows("docs/robustness.md", name) == [measured]


@pytest.mark.parametrize("name", [name for name in SYSTEMS if "Baseline-1" not in name])
def test_rejection_is_that_of_the_report(report: dict[str, Any], name: str) -> None:
    students = report["rejection"]["students"]
    (scores,) = [one for one in students if one["system"] == SYSTEMS[name]]
    places = {"test_rejected": 2, "test_accuracy_with_rejection": 2}
    for kind in ("speech", "noise", "silence"):
        places |= {f"{kind}_false_accepts": 1, f"{kind}_auroc": 3}
    measured = [
        f"{scores[one]:.{digits}f} ± {scores[f'{one}_std']:.{digits}f}"
        for one, digits in places.items()
    ]
    assert rows("docs/rejection.md", name) == [measured]


def test_the_exported_accuracy_is_that_of_the_report(report: dict[str, Any]) -> None:
    accuracy = f"{report['rejection']['export']['test_accuracy']:.2f}"
    text = Path("docs/using.md").read_text("utf-8")
    assert f"5.23 | {accuracy} |" in text and f"This prints {accuracy}%" in text


def test_degradations_are_those_of_the_report(report: dict[str, Any]) -> None:
    degradations = [row["degradation"] for row in report["robustness"]]
    ratios = [row["snr"] for row in report["robustness"]]
    (heading,) = rows("docs/robustness.md", "system")
    assert len(heading) == len(degradations)
    for shown, degradation, ratio in zip(heading, degradations, ratios, strict=True):
        assert shown.startswith(degradation)
        assert ratio is None or shown.endswith(f" {ratio:g} dB")


def test_the_word_error_rate_is_that_of_the_report(report: dict[str, Any]) -> None:
    rate = report["recognition"]["test"]["word_error_rate"]
    accuracy = report["systems"]["baseline1_asr"]["test_accuracy"]
    name = "`train`, a 3-gram of the train texts"
    assert rows("docs/recognisers.md", name) == [[f"{rate:.1f}", f"{accuracy:.1f}"]]


def test_the_encoders_accuracies_are_those_in_its_json() -> None:
    conditions = json.loads(Path("data/demo/encoder.json").read_text())["conditions"]
    assert len(conditions) == 10
    for condition, accuracies in conditions.items():
        name = condition.replace("voices of another synthesiser", "flite's voices")
        (shown,) = rows("docs/results.md", name)
        measured = [accuracies[column] for column in ("trained", "random", "log_mel")]
        assert list(map(float, shown)) == pytest.approx(measured, abs=0.0501), condition


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_and_their_options_exist(page: Path) -> None:
    text = re.sub(r"\\\n\s*", "", page.read_text("utf-8"))
    for line in re.findall(r"aln-pipeline ([a-z][^`#\n]*)", text):
        words = line.split()
        command: click.Command = main
        while words and isinstance(command, click.Group):
            name = words.pop(0)
            assert name in command.commands, line
            command = command.commands[name]
        known = {option for one in command.params for option in one.opts}
        used = {word for word in words if word.startswith("-") and word != "-"}
        assert used <= known, line


def rows(page: str, name: str) -> list[list[str]]:
    """The cells of the table rows of a page that begin with `name`."""
    lines = Path(page).read_text("utf-8").splitlines()
    found = [line for line in lines if line.startswith(f"| {name} |")]
    return [
        [cell.strip() for cell in line.strip("| ").split("|")[1:]] for line in found
    ]


def figure(value: float, deviation: float, several: bool) -> str:
    """A figure as tables show it."""
    return f"{value:.2f} ± {deviation:.2f}" if several else f"{value:.2f}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
