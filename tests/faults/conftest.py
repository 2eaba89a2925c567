"""One warm process, the finished folder, and what undisturbed commands make of it."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import LINE

from faults.commands import FINAL, Answer, Case, copy, snapshot

_HERE = Path(__file__).parent
_COUNTS: Counter[str] = Counter()


class Laboratory:
    """Runs commands on copies of the finished folder, with faults."""

    def __init__(self, given: Path, folder: Path, shim: Path | None) -> None:
        self.folder = folder
        self.finished = copy(given, folder / "finished")
        self.shim = shim
        environment = {
            **os.environ,
            # No threads, which a fork would lose.
            **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "RAYON")},
            "TOKENIZERS_PARALLELISM": "false",
            "ALN_WORKERS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]),
            **({"LD_PRELOAD": str(shim)} if shim else {}),
        }
        self._server = subprocess.Popen(
            [sys.executable, _HERE / "server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        statuses = self._ask([str(self.finished), *LINE, *FINAL])
        assert not any(statuses), statuses
        self.start, self.expected = cache(self._start), cache(self._expected)

    def close(self) -> None:
        """Stop the warm process."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def run(
        self,
        folder: Path,
        *commands: tuple[str, ...],
        number: int = 0,
        error: int = 0,
        lasting: bool = False,
        limit: int = -1,
        seconds: float = 60,
    ) -> list[Answer]:
        """Run `commands` at once in `folder`; see server.py."""
        job = {
            "folder": str(folder),
            "commands": commands,
            "number": number,
            "error": error,
            "lasting": lasting,
            "limit": limit,
            "seconds": seconds,
        }
        return [Answer(**answer) for answer in self._ask(job)]

    def copy(self, case: Case) -> Path:
        """A copy of the folder on which a case starts; replaces the last one."""
        return copy(self.start(case), self.folder / "copy")

    def _start(self, case: Case) -> Path:
        if not case.before and case.change is None:
            return self.finished
        if case.killed and self.shim is None:
            pytest.skip("no C compiler")
        folder = copy(self.finished, self.folder / f"start {hash(case)}")
        if case.change is not None:
            case.change(folder)
        for command in case.before:
            (answer,) = self.run(folder, command)
            assert answer.status == 0, answer
        if case.killed:
            renamed = [n for n, kind in enumerate(answer.log, 1) if kind == "r"]
            while not any(folder.glob(case.killed)):
                copy(self.finished, folder)
                self.run(folder, command, number=renamed.pop(0) + 1)
        return folder

    def _expected(self, case: Case) -> tuple[dict[str, str], dict[str, str], Answer]:
        """What an undisturbed command finds, what it leaves, and its answer."""
        folder = copy(self.start(case), self.folder / "undisturbed")
        old = snapshot(folder)
        (answer,) = self.run(folder, case.command)
        assert answer.status == 0, answer
        return old, snapshot(folder), answer

    def _ask(self, question: Any) -> Any:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


@pytest.fixture(scope="session")
def laboratory(
    _given: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Laboratory]:
    """One for all faults; with the shim if there is a C compiler."""
    folder = tmp_path_factory.mktemp("faults")
    shim = folder / "shim.so"
    if compiler := shutil.which("cc"):
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", shim, _HERE / "shim.c"]
        subprocess.run([*command, "-ldl"], check=True)
    made = Laboratory(_given, folder, shim if compiler else None)
    yield made
    made.close()


@pytest.fixture
def disturbed(laboratory: Laboratory) -> Laboratory:
    """The laboratory, where it has the shim."""
    if laboratory.shim is None:
        pytest.skip("no C compiler")
    return laboratory


@pytest.fixture(scope="session")
def counts() -> Counter[str]:
    """How many faults of each kind there were; shown at the end."""
    return _COUNTS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the counts."""
    if _COUNTS:
        listed = ", ".join(f"{value:,} {name}" for name, value in _COUNTS.items())
        terminalreporter.write_line(f"faults: {listed}")
