"""Two processes run at once."""

from collections import Counter

import pytest

from faults.commands import (
    COMMANDS,
    HALF,
    SMALLER,
    Case,
    differences,
    leftovers,
    snapshot,
)
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


COLLECT = COMMANDS["cache gc"]


@pytest.mark.parametrize(
    "command",
    [
        ("extract-acoustic", HALF),
        ("train-student", "aln", HALF),
        ("train-student", "baseline2", SMALLER, HALF),
        ("cache", "export", "x.h5", "--force"),
        ("cache", "verify"),
        ("cache", "gc", "--dry-run"),
    ],
    ids=" ".join,
)
def test_garbage_is_collected_while_another_command_runs(
    laboratory: Laboratory, counts: Counter[str], command: tuple[str, ...]
) -> None:
    both = Case(command, (*COLLECT.before, COLLECT.command), COLLECT.change)
    _, new, _ = laboratory.expected(both)
    problems = []
    for number in range(ROUNDS):
        folder = laboratory.copy(COLLECT)
        answers = laboratory.run(folder, COLLECT.command, command)
        # A part can be gone that a reader has found.
        accepted = ("verify",) if "verify" in command else ()
        problems += [
            f"{number}: {one.problem()}"
            for one in answers
            if one.problem() and not (accepted and "Traceback" not in one.stderr)
        ]
        for again in (COLLECT.command, command):
            (answer,) = laboratory.run(folder, again)
            if answer.status or answer.problem():
                problems.append(f"{number}: then {again}: {answer.problem()}")
        bad = differences(snapshot(folder), new) + leftovers(folder)
        problems += [f"{number}: {name}" for name in bad]
    counts["rounds of two processes"] += ROUNDS
    assert not problems, "\n".join(problems)
