"""The code behind each stage's results, as a hash that a person confirms.

A stage's result is identified by its inputs, its parameters and the stage's `REVISION`.
So when the code changes, somebody must decide whether the same inputs and parameters
now give another result. `tests/revisions.json` has, for each stage, its `REVISION` and
the hash of the code that its `run` reaches, without docstrings, comments and error
messages. `tests/test_graph.py` fails when they differ. Then bump `REVISION` in the
stage's params.py, or decide that results stay the same, and record the new hashes:

    python -m tests.revisions
"""

import ast
import hashlib
import importlib
import json
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
RECORDED = Path(__file__).with_suffix(".json")
STAGES = (
    "corpus",
    "acoustic",
    "unlabelled",
    "pretraining",
    "teacher",
    "targets",
    "student",
    "baseline1",
    "robustness",
    "rejection",
    "report",
)


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[Path]:
    """Files below stages/ that a file imports anywhere, functions included."""
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports are not followed"
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    files = {REPOSITORY.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    below = {file for file in files if file.is_relative_to(REPOSITORY / "stages")}
    return {file for file in below if file.is_file()}


def code_of(stage: str) -> list[Path]:
    """Files below stages/ that run when the stage's `run` does, sorted."""
    seen: set[Path] = set()
    waiting = {REPOSITORY / "stages" / stage / "run.py"}
    while waiting:
        path = waiting.pop()
        seen.add(path)
        waiting |= imported(path) - seen
    return sorted(seen)


def essence(node: object) -> str:
    """A syntax tree as text, without docstrings and without what errors say.

    The same in every version of Python; `ast.dump` is not.
    """
    if isinstance(node, list):
        kept = (
            one
            for one in node
            if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        )
        return f"[{','.join(map(essence, kept))}]"
    if isinstance(node, ast.JoinedStr):
        # Python 3.12 adds empty strings to nested formats.
        values = [one for one in node.values if getattr(one, "value", None) != ""]
        return f"JoinedStr({essence(values)})"
    if isinstance(node, ast.Raise):
        # Which error is raised matters: some set a recording aside, others stop.
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return f"Raise({essence(error)})"
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={essence(value)}"
            for name, value in ast.iter_fields(node)
            if value not in (None, [])
        )
        return f"{type(node).__name__}({','.join(fields)})"
    return repr(node)


def hash_of(stage: str) -> str:
    """SHA-256 of the code behind a stage's results."""
    digest = hashlib.sha256()
    for path in code_of(stage):
        name = path.relative_to(REPOSITORY).as_posix()
        digest.update(f"{name}\n{essence(parse(path))}\n".encode())
    return digest.hexdigest()


def current() -> dict[str, dict[str, int | str]]:
    """What revisions.json should hold."""
    return {
        stage: {
            "revision": importlib.import_module(f"stages.{stage}.params").REVISION,
            "code": hash_of(stage),
        }
        for stage in STAGES
    }


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(current(), indent=2) + "\n", encoding="utf-8")
    print(f"{RECORDED}: recorded")
