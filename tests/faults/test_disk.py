"""The disk fails or is full: one line of error, nothing lost, and then as ever."""

import errno
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.commands import COMMANDS, Case, copy, differences, leftovers, lost, snapshot
from faults.conftest import Laboratory

pytestmark = pytest.mark.slow

FAULTS = 6
"""Of each command with each error."""
LIMIT = 2000
"""Bytes that a file can have."""
FREE = 12_288
"""Bytes that are left on a full disk: three pages."""


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_a_failing_disk_is_one_line_of_error(
    disturbed: Laboratory, counts: Counter[str], name: str, error: int
) -> None:
    case = COMMANDS[name]
    log = disturbed.expected(case)[2].log
    # A full disk stays full; files on it can be synced and renamed.
    kinds = "owmt" if error == errno.ENOSPC else "owmtfr"
    numbers = [number for number, kind in enumerate(log, 1) if kind in kinds]
    chosen = random.Random(name).sample(numbers, min(FAULTS, len(numbers)))
    problems = []
    for number in sorted(chosen):
        folder = disturbed.copy(case)
        fault = {"number": number, "error": error, "lasting": error == errno.ENOSPC}
        found = _disturb(disturbed, case, folder, **fault) + _after(
            disturbed, case, folder
        )
        problems += [f"{number} ({log[number - 1]}): {problem}" for problem in found]
    counts["failures of the disk"] += len(chosen)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", COMMANDS)
def test_files_that_cannot_grow_are_one_line_of_error(
    laboratory: Laboratory, counts: Counter[str], name: str
) -> None:
    case = COMMANDS[name]
    folder = laboratory.copy(case)
    problems = _disturb(laboratory, case, folder, limit=LIMIT)
    problems += _after(laboratory, case, folder)
    counts["limits of size"] += 1
    assert not problems, "\n".join(problems)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path]
    try:
        subprocess.run(mounted, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system takes root")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_of_error(
    laboratory: Laboratory, counts: Counter[str], disk: Path, name: str
) -> None:
    case = COMMANDS[name]
    folder = copy(laboratory.start(case), disk / "root")
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            stream.truncate(stream.tell() - FREE)
    problems = _disturb(laboratory, case, folder)
    filler.unlink()
    problems += _after(laboratory, case, folder)
    counts["full disks"] += 1
    assert not problems, "\n".join(problems)


def _disturb(
    laboratory: Laboratory, case: Case, folder: Path, **fault: Any
) -> list[str]:
    """What is wrong with a command during a fault."""
    old, new, _ = laboratory.expected(case)
    (answer,) = laboratory.run(folder, case.command, **fault)
    problems = [answer.problem()] if answer.problem() else []
    if answer.status == 0:
        changed = differences(snapshot(folder), new)
        problems += [f"ends with 0, but {bad}" for bad in changed]
    return problems + [f"lost {bad}" for bad in lost(folder, old, new)]


def _after(laboratory: Laboratory, case: Case, folder: Path) -> list[str]:
    """What is wrong after the same command has run without a fault."""
    _, new, _ = laboratory.expected(case)
    (again,) = laboratory.run(folder, case.command)
    if again.status or again.problem():
        return [f"then {again.problem()}"]
    found = differences(snapshot(folder), new) + leftovers(folder)
    return [f"then {bad}" for bad in found]
