"""A command is killed; nothing is lost, and the next run gives what it would have."""

import random
from collections import Counter

import pytest

from faults.commands import COMMANDS, differences, leftovers, lost, snapshot
from faults.conftest import Laboratory

pytestmark = pytest.mark.slow

AT_RANDOM = 4
"""Kills of each command at a random time."""
SLOW = ("train-teacher", "baseline1", "report")
"""Commands that are killed at renames only; the others also at each fsync."""


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_lost_by_a_kill(
    disturbed: Laboratory, counts: Counter[str], name: str
) -> None:
    case = COMMANDS[name]
    old, new, answer = disturbed.expected(case)
    # Just before and, as the next one follows at once, just after.
    kinds = "r" if name in SLOW else "fr"
    points = [{"number": n} for n, kind in enumerate(answer.log, 1) if kind in kinds]
    points.append({"number": len(answer.log)})
    random_times = random.Random(name)
    points += [
        {"seconds": max(random_times.random() * answer.seconds, 0.001)}
        for _ in range(AT_RANDOM)
    ]
    problems = []
    for point in points:
        folder = disturbed.copy(case)
        (killed,) = disturbed.run(folder, case.command, **point)
        if killed.status >= 0 and "number" in point:
            problems.append(f"{point}: not killed, {killed}")
        problems += [f"{point}: lost {bad}" for bad in lost(folder, old, new)]
        (again,) = disturbed.run(folder, case.command)
        if again.status or again.problem():
            problems.append(f"{point}: then {again.problem()}")
            continue
        found = differences(snapshot(folder), new) + leftovers(folder)
        problems += [f"{point}: then {bad}" for bad in found]
    counts["kills"] += len(points)
    assert not problems, "\n".join(problems)
