"""What a stage's result was made from, so that it is recognised and not made again.

A result is a folder. Its `identity.json` names the stage, the stage's `REVISION`, the
parameters, the hash of every input, and the hash of every file in the result. A stage
that finds its own identity there, and the files as they were written, has nothing to
do. Device and number of workers are left out: they change nothing beyond rounding.

A result that another one replaces is moved to the corpus's folder `kept/`, named after
the hash of its identity, and comes back from there when its parameters do. (DVC's cache
of runs does the same only for outputs that it deletes before a run.)
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.files import whole_folder, write_json
from stages.core.hashing import fingerprint, hash_file

IDENTITY = "identity.json"


def identify(
    stage: str,
    revision: int,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, Path | None],
) -> dict[str, Any]:
    """What makes a result the one that is wanted.

    Args:
        stage: its name.
        revision: the stage's `REVISION`. Raise it with any change after which the same
            inputs and parameters give another result.
        parameters: that decide the result, JSON-able.
        inputs: the files and folders it is made from, by what they are called. A folder
            is a result and counts by its identity. None, or a file that is missing, is
            recorded as null.
    """
    identity = {
        "stage": stage,
        "revision": revision,
        "parameters": dict(parameters),
        "inputs": {name: hash_input(path) for name, path in inputs.items()},
    }
    # As it comes back from a file, with tuples as lists.
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found


def hash_input(path: Path | None) -> str | None:
    """SHA-256 of a file, or of a result's identity; None where there is none."""
    if path is None:
        return None
    file = path / IDENTITY if path.is_dir() else path
    return hash_file(file) if file.is_file() else None


def record(
    folder: Path, identity: Mapping[str, Any], files: Iterable[str] | None = None
) -> None:
    """Write `identity` and the hashes of the result's files to `folder`.

    Args:
        folder: the result, complete.
        identity: of `identify`.
        files: the result's files, relative to `folder`; all of them by default.
    """
    if files is None:
        found = (path for path in folder.rglob("*") if path.is_file())
        files = (path.relative_to(folder).as_posix() for path in found)
    hashes = {name: hash_file(folder / name) for name in files if name != IDENTITY}
    write_json(folder / IDENTITY, {**identity, "files": hashes})


def is_finished(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the result of `identity`, none of its files changed."""
    found = read_identity(folder)
    if found is None or {**found, "files": None} != {**identity, "files": None}:
        return False
    files = {name: folder / name for name in found["files"]}
    return all(
        path.is_file() and hash_file(path) == found["files"][name]
        for name, path in files.items()
    )


def find(output: Path, identity: Mapping[str, Any], kept: Path) -> bool:
    """Whether the result of `identity` is in `output`, brought back from `kept` if not.

    Args:
        output: where the result belongs.
        identity: of `identify`.
        kept: folder of the results that others replaced.
    """
    if is_finished(output, identity):
        return True
    there = kept / name_of(identity)
    if not is_finished(there, identity):
        return False
    with whole_folder(output) as folder:
        shutil.copytree(there, folder, dirs_exist_ok=True)
        _keep(output, kept)
    return True


@contextmanager
def result_folder(
    output: Path, identity: Mapping[str, Any], kept: Path
) -> Iterator[Path]:
    """Yield a new folder; on success record `identity` in it and put it at `output`.

    The result that was there goes to `kept`. If the block raises, nothing changes.
    """
    with whole_folder(output) as folder:
        yield folder
        record(folder, identity)
        _keep(output, kept)


def name_of(identity: Mapping[str, Any]) -> str:
    """What the result of `identity` is called among those that are kept."""
    return fingerprint({**identity, "files": None})[:24]


def _keep(output: Path, kept: Path) -> None:
    found = read_identity(output)
    if found is None or not is_finished(output, found):
        return
    there = kept / name_of(found)
    shutil.rmtree(there, ignore_errors=True)
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(output, there)  # may be on another file system


def read_identity(folder: Path) -> dict[str, Any] | None:
    """The identity recorded in `folder`; None where there is no readable one."""
    try:
        found = json.loads((folder / IDENTITY).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    named = isinstance(found, dict) and isinstance(found.get("files"), dict)
    return found if named else None
