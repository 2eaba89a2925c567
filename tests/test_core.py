"""Results are found again, checkpoints are whole, workers stop."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.core.checkpoint import read_checkpoint, write_checkpoint
from stages.core.errors import CacheError, InputError, PipelineError
from stages.core.files import atomic_path
from stages.core.results import (
    find,
    identify,
    is_finished,
    name_of,
    require,
    result_folder,
)
from stages.core.workers import count_step, run_in_processes

ONE = identify("student", 1, {"alpha": 0.5, "seeds": (1, 2)}, {})
OTHER = identify("student", 1, {"alpha": 1, "seeds": (1, 2)}, {})


def write_result(output: Path, identity: dict[str, Any], kept: Path, text: str) -> None:
    with result_folder(output, identity, kept) as folder:
        (folder / "seeds").mkdir()
        (folder / "seeds" / "1.csv").write_text(text)


def test_a_result_is_finished_only_with_the_same_identity(tmp_path: Path) -> None:
    table, earlier = tmp_path / "table.csv", tmp_path / "earlier"
    output, kept = tmp_path / "output", tmp_path / "kept"

    def wanted(stage: str = "student", revision: int = 1, alpha: float = 0.5) -> dict:
        inputs = {"table": table, "earlier": earlier, "none": None}
        return identify(stage, revision, {"alpha": alpha, "seeds": (1, 2)}, inputs)

    table.write_text("a")
    write_result(earlier, ONE, kept, "x")
    write_result(output, wanted(), kept, "y")
    assert is_finished(output, wanted())
    for other in (wanted(stage="teacher"), wanted(revision=2), wanted(alpha=0.6)):
        assert not is_finished(output, other)
    table.write_text("b")
    assert not is_finished(output, wanted())
    table.unlink()
    assert not is_finished(output, wanted())
    table.write_text("a")
    assert is_finished(output, wanted())
    write_result(earlier, OTHER, kept, "x")
    assert not is_finished(output, wanted())


@pytest.mark.parametrize("name", ["seeds/1.csv", "identity.json"])
@pytest.mark.parametrize("content", ["other text", None])
def test_a_damaged_result_is_not_finished(
    tmp_path: Path, name: str, content: str | None
) -> None:
    output, kept = tmp_path / "output", tmp_path / "kept"
    write_result(output, ONE, kept, "some text")
    assert find(output, ONE, kept)
    (output / name).unlink()
    if content is not None:
        (output / name).write_text(content)
    assert not find(output, ONE, kept)
    write_result(output, OTHER, kept, "another")
    assert not kept.exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_replaced_result_comes_back_with_the_same_bytes(
    tmp_path: Path, snapshot: Any, damaged: bool
) -> None:
    output, kept = tmp_path / "output", tmp_path / "kept"
    write_result(output, ONE, kept, "first")
    first = snapshot(output)
    if damaged:  # a copy of the first result, which is kept again
        there = kept / name_of(ONE)
        shutil.copytree(output, there)
        (there / "seeds" / "1.csv").write_text("First")
    write_result(output, OTHER, kept, "second")
    second = snapshot(output)
    for _ in range(2):
        assert find(output, ONE, kept) and snapshot(output) == first
        assert find(output, OTHER, kept) and snapshot(output) == second
    (kept / name_of(ONE) / "seeds" / "1.csv").write_text("First")
    assert not find(output, ONE, kept) and snapshot(output) == second


def test_a_stray_file_is_not_kept(tmp_path: Path) -> None:
    output, kept = tmp_path / "output", tmp_path / "kept"
    write_result(output, ONE, kept, "first")
    (output / "stray").write_text("mine")
    write_result(output, OTHER, kept, "second")
    assert find(output, ONE, kept) and not (output / "stray").exists()


def test_a_result_that_is_read_must_be_whole_and_of_its_inputs(tmp_path: Path) -> None:
    table, output = tmp_path / "table.csv", tmp_path / "output"
    table.write_text("a")
    identity = identify("teacher", 1, {"seed": 1}, {"table": table})
    with pytest.raises(CacheError, match=r"output: no finished result.*fix: train"):
        require(output, {}, fix="train")
    write_result(output, identity, tmp_path / "kept", "weights")
    assert require(output, {"table": table}, fix="train")["parameters"] == {"seed": 1}
    table.write_text("b")
    with pytest.raises(CacheError, match=r"made from another table.*fix: train"):
        require(output, {"table": table}, fix="train")
    (output / "seeds" / "1.csv").write_text("Weights")
    with pytest.raises(CacheError, match="not as its stage wrote it"):
        require(output, {}, fix="train")
    path = output / "identity.json"
    text = path.read_text()
    for changed in (
        text.replace('"seed": 1', '"seed": 2'),
        text.replace('"revision": 1,', '"revision": 1, "revision": 1,'),
        text + "\n",
        "[]",
        "[" * 100_000,
    ):
        path.write_text(changed)
        with pytest.raises(CacheError, match=r"wrote it: identity\.json is damaged"):
            require(output, {}, fix="train")


def test_a_block_that_raises_changes_nothing(tmp_path: Path, snapshot: Any) -> None:
    output, kept, file = tmp_path / "output", tmp_path / "kept", tmp_path / "file"
    write_result(output, ONE, kept, "first")
    file.write_text("first")
    before = snapshot(tmp_path)
    with (
        pytest.raises(OSError, match="disk full"),
        result_folder(output, OTHER, kept) as folder,
        atomic_path(file) as temporary,
    ):
        (folder / "new").write_text("half")
        temporary.write_text("half")
        raise OSError("disk full")
    assert snapshot(tmp_path) == before and not kept.exists()


def test_a_damaged_checkpoint_is_named_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "seed-1.pt"
    assert read_checkpoint(path, "me") is None and not caplog.records
    weights = torch.linspace(0, 1, 50)
    write_checkpoint(path, "me", {"weights": weights, "epoch": 3})
    whole = path.read_bytes()
    found = read_checkpoint(path, "me")
    assert found is not None and found["epoch"] == 3
    assert torch.equal(found["weights"], weights)
    assert read_checkpoint(path, "another") is None and not caplog.records
    damaged = [b"", b"PK\x03\x04", whole[:-1]]
    for place in range(0, len(whole), 13):
        flipped = bytes([whole[place] ^ 32])
        damaged.append(whole[:place] + flipped + whole[place + 1 :])
    for number, content in enumerate(damaged, 1):
        path.write_bytes(content)
        assert read_checkpoint(path, "me") is None
        assert len(caplog.records) == number
    assert "seed-1.pt: damaged checkpoint" in caplog.text


# Jobs of worker processes.


def job(number: int) -> int:
    if number == 7:
        raise InputError("bad job", path="seven", found=7)
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05 * (number % 2))
    return number


def counted(number: int) -> None:
    count_step()
    time.sleep(0.5)


def sleep(folder: Path, number: int) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def test_results_are_in_order_until_a_job_raises() -> None:
    found = []
    with pytest.raises(InputError, match=r"^seven: bad job; found 7$"):
        for one in run_in_processes(job, range(50), 2, preload=[]):
            found.append(one)
    assert found == list(range(7))


def test_steps_in_workers_move_the_bar() -> None:
    class Bar:
        n = 0

        def update(self, steps: int) -> None:
            self.n += steps

    bar = Bar()
    assert list(run_in_processes(counted, range(2), 1, preload=[], bar=bar))
    assert bar.n == 2


def test_a_killed_worker_ends_the_run_with_advice() -> None:
    with pytest.raises(PipelineError, match=r"worker process died.*--workers"):
        list(run_in_processes(job, [1, 2, -1, *range(8, 50)], 2, preload=[]))


def test_closing_stops_running_jobs() -> None:
    stream = run_in_processes(time.sleep, [0] + [600] * 9, 2, preload=[])
    next(stream)
    stream.close()


_CHILD = """
import sys
from functools import partial
from pathlib import Path
from stages.core.workers import run_in_processes
from test_core import sleep
list(run_in_processes(partial(sleep, Path(sys.argv[1])), range(9), 2, preload=[]))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_worker_outlives_a_killed_run(tmp_path: Path) -> None:
    paths = os.pathsep.join(sys.path)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, tmp_path],
        env={**os.environ, "PYTHONPATH": paths},
    )
    deadline = time.monotonic() + 60
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.kill()
    child.wait()
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, workers
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
