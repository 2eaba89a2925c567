"""Two processes run the same command at once."""

from collections import Counter

import pytest

from faults.commands import COMMANDS, differences, leftovers, snapshot
from faults.conftest import Laboratory

pytestmark = pytest.mark.slow

ROUNDS = 3


@pytest.mark.parametrize("name", COMMANDS)
def test_two_processes_lose_nothing(
    laboratory: Laboratory, counts: Counter[str], name: str
) -> None:
    case = COMMANDS[name]
    _, new, _ = laboratory.expected(case)
    problems = []
    for number in range(ROUNDS):
        folder = laboratory.copy(case)
        answers = laboratory.run(folder, case.command, case.command)
        problems += [f"{number}: {one.problem()}" for one in answers if one.problem()]
        if all(answer.status for answer in answers):
            problems.append(f"{number}: both refused, {answers}")
        # The second of two that train may keep what the first has written.
        found = snapshot(folder)
        kept = {name for name in found if name.startswith("cache/tiny/kept/")}
        found = {name: found[name] for name in found.keys() - (kept - new.keys())}
        bad = differences(found, new) + leftovers(folder)
        problems += [f"{number}: {name}" for name in bad]
    counts["rounds of two processes"] += ROUNDS
    assert not problems, "\n".join(problems)
