"""Durations: of what computed something, and never at the expense of a stage."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import LINE, pipeline

import stages.student.run
from pipeline.durations import Stopwatch, read_durations
from pipeline.layout import Layout

DURATIONS = Layout("tiny").durations
STAGES = {"corpus", "acoustic", "unlabelled", "teacher", "targets", "baseline1"}
STAGES |= {"baseline2", "aln_linguistic-0.5", "aln_linguistic-1", "aln-0.5", "aln-1"}
STAGES |= {"recommended", "robustness", "rejection"}


def test_the_last_run_that_computed_something_is_recorded(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_durations(DURATIONS)
    assert first.keys() == STAGES and all(0 < one < 100 for one in first.values())
    DURATIONS.unlink()
    for command in LINE:
        assert pipeline(*command).exit_code == 0
    assert not DURATIONS.exists()
    aln = ("train-student", "aln", "--alpha", "1", "--force")
    assert pipeline(*aln).exit_code == 0
    (seconds,) = read_durations(DURATIONS).values()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages.student.run, "run", interrupt)
        assert pipeline(*aln).exit_code == 130
        assert pipeline("train-student", "baseline2", "--force").exit_code == 130
    assert read_durations(DURATIONS) == {"aln-1": seconds}
    assert pipeline("cache", "info").exit_code == 0
    assert pipeline("cache", "gc").exit_code == 0
    assert pipeline("rejection", "--force").exit_code == 0
    found = read_durations(DURATIONS)
    assert found.keys() == {"aln-1", "rejection"} and found["aln-1"] == seconds


def test_a_duration_that_cannot_be_written_does_not_fail_its_stage(
    finished: Path,
) -> None:
    DURATIONS.unlink()
    DURATIONS.mkdir()
    done = pipeline("-v", "rejection", "--force")
    assert done.exit_code == 0 and "durations.json: not recorded" in done.stderr
    assert read_durations(DURATIONS) == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"a": {}}', "\xff"])
def test_a_damaged_file_is_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "durations.json"
    path.write_text(text, "latin-1")
    assert read_durations(path) == {}
    Stopwatch(path).stop("teacher", computed=True)
    assert read_durations(path).keys() == {"teacher"}


def test_stages_that_end_at_once_are_all_recorded(tmp_path: Path) -> None:
    path, names = tmp_path / "durations.json", [f"aln-{n}" for n in range(20)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda name: Stopwatch(path).stop(name, computed=True), names))
    assert read_durations(path).keys() == set(names)


def test_each_student_of_a_command_is_timed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 12.5, 100.0, 103.25])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    path = tmp_path / "durations.json"
    stopwatch = Stopwatch(path)
    stopwatch.stop("aln-0.2", computed=True)
    stopwatch.stop("aln-0.5", computed=False)
    stopwatch.stop("aln-0.8", computed=True)
    assert read_durations(path) == {"aln-0.2": 2.5, "aln-0.8": 3.25}
