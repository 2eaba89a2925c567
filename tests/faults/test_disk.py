"""The disk fails or is full: one line of error, nothing lost, and then as ever."""

import errno
import random
from collections import Counter

import pytest

from faults.commands import COMMANDS, Case, differences, leftovers, lost, snapshot
from faults.conftest import Laboratory

pytestmark = pytest.mark.slow

FAULTS = 8
"""Of each command with each error."""
LIMITS = (0, 500, 5000)
"""Bytes that a file can have."""


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_a_failing_disk_is_one_line_of_error(
    disturbed: Laboratory, counts: Counter[str], name: str, error: int
) -> None:
    case = COMMANDS[name]
    log = disturbed.expected(case)[2].log
    # A full disk stays full; it lets files be synced and renamed.
    kinds = "owmt" if error == errno.ENOSPC else "owmtfr"
    numbers = [number for number, kind in enumerate(log, 1) if kind in kinds]
    chosen = random.Random(name).sample(numbers, min(FAULTS, len(numbers)))
    problems = []
    for number in sorted(chosen):
        fault = {"number": number, "error": error, "lasting": error == errno.ENOSPC}
        problems += [
            f"{number} ({log[number - 1]}): {problem}"
            for problem in _check(disturbed, case, fault)
        ]
    counts["disk faults"] += len(chosen)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", COMMANDS)
def test_files_that_cannot_grow_are_one_line_of_error(
    laboratory: Laboratory, counts: Counter[str], name: str
) -> None:
    problems = []
    for limit in LIMITS:
        found = _check(laboratory, COMMANDS[name], {"limit": limit})
        problems += [f"{limit} bytes: {problem}" for problem in found]
    counts["limits of size"] += len(LIMITS)
    assert not problems, "\n".join(problems)


def _check(laboratory: Laboratory, case: Case, fault: dict[str, int]) -> list[str]:
    """What is wrong with a command during a fault, and after it."""
    old, new, _ = laboratory.expected(case)
    folder = laboratory.copy(case)
    (answer,) = laboratory.run(folder, case.command, **fault)
    problems = [answer.problem()] if answer.problem() else []
    if answer.status == 0:
        problems += [f"ends with 0, but {bad}" for bad in differences(snapshot(folder), new)]
    problems += [f"lost {bad}" for bad in lost(folder, old, new)]
    (again,) = laboratory.run(folder, case.command)
    if again.status or again.problem():
        return [*problems, f"then {again.problem()}"]
    found = differences(snapshot(folder), new) + leftovers(folder)
    return problems + [f"then {bad}" for bad in found]
