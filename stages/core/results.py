"""Identify the result of a stage, to compute it only once.

A result is a folder with an `identity.json`: the stage, its `REVISION`, the parameters,
the hash of each input and the hash of each file in the folder. If a stage finds the
identity that it is about to compute, and the files are unchanged, it returns at once.
Device and number of workers are not part of it: results differ by rounding at most.

A replaced result is moved to the folder `kept/` of the corpus, under the hash of its
identity. It is restored from there when its parameters and inputs return. (DVC's run
cache does this only for outputs that DVC deletes before a run.)
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.errors import CacheError
from stages.core.files import whole_folder, write_json
from stages.core.hashing import fingerprint, hash_file

IDENTITY = "identity.json"


def identify(
    stage: str,
    revision: int,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, Path | None],
) -> dict[str, Any]:
    """The identity of a result: everything that determines it.

    Args:
        stage: name of the stage.
        revision: the stage's `REVISION`.
        parameters: all that affect the result; must be serialisable as JSON.
        inputs: the files and folders that the stage reads, by name. A folder is itself
            a result; its `identity.json` is hashed. None and a missing file are null.
    """
    identity = {
        "stage": stage,
        "revision": revision,
        "parameters": dict(parameters),
        "inputs": {name: hash_input(path) for name, path in inputs.items()},
    }
    # As it is read from a file: tuples are lists.
    found: dict[str, Any] = json.loads(json.dumps(identity))
    return found


def hash_input(path: Path | None) -> str | None:
    """SHA-256 of a file, or of the identity of a result; None if it is missing."""
    if path is None:
        return None
    file = path / IDENTITY if path.is_dir() else path
    return hash_file(file) if file.is_file() else None


def record(
    folder: Path, identity: Mapping[str, Any], files: Iterable[str] | None = None
) -> None:
    """Write `identity` and the hashes of the result's files to `folder`.

    Args:
        folder: the complete result.
        identity: from `identify`.
        files: the files of the result, relative to `folder`; all by default.
    """
    if files is None:
        found = (path for path in folder.rglob("*") if path.is_file())
        files = (path.relative_to(folder).as_posix() for path in found)
    hashes = {name: hash_file(folder / name) for name in files if name != IDENTITY}
    write_json(folder / IDENTITY, {**identity, "files": hashes})


def is_finished(folder: Path, identity: Mapping[str, Any]) -> bool:
    """True if `folder` contains the result of `identity` with unchanged files."""
    found = read_identity(folder)
    if found is None or {**found, "files": None} != {**identity, "files": None}:
        return False
    files = {name: folder / name for name in found["files"]}
    return all(
        path.is_file() and hash_file(path) == found["files"][name]
        for name, path in files.items()
    )


def find(output: Path, identity: Mapping[str, Any], kept: Path) -> bool:
    """True if `output` contains the result of `identity`, or `kept` did.

    A result found in `kept` is copied to `output`.

    Args:
        output: folder of the result.
        identity: from `identify`.
        kept: folder of replaced results.
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
    """Yield a temporary folder; on success it becomes `output`, with its identity.

    The previous result is moved to `kept`. If the block raises, nothing changes.
    """
    with whole_folder(output) as folder:
        yield folder
        record(folder, identity)
        _keep(output, kept)


def require(folder: Path, inputs: Mapping[str, Path], *, fix: str) -> dict[str, Any]:
    """The identity of a result that another stage reads.

    Args:
        folder: the result.
        inputs: what it must be made from, as for `identify`; others are not checked.
        fix: how to make it.

    Raises:
        CacheError: there is no result, a file in it has changed, or it was made from
            something else.
    """
    found = read_identity(folder)
    if found is None:
        raise CacheError("no finished result here", path=folder, fix=fix)
    if not is_finished(folder, found):
        raise CacheError("not as its stage wrote it", path=folder, fix=fix)
    for name, path in inputs.items():
        if found["inputs"].get(name) != hash_input(path):
            what = f"made from another {name} than {path}"
            raise CacheError(what, path=folder, fix=fix)
    return found


def name_of(identity: Mapping[str, Any]) -> str:
    """The folder name of a result in `kept`."""
    return fingerprint({**identity, "files": None})[:24]


def _keep(output: Path, kept: Path) -> None:
    found = read_identity(output)
    if found is None or not is_finished(output, found):
        return
    there = kept / name_of(found)
    shutil.rmtree(there, ignore_errors=True)
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(output, there)  # works across file systems


def read_identity(folder: Path) -> dict[str, Any] | None:
    """The identity recorded in `folder`; None if missing or not readable."""
    try:
        found = json.loads((folder / IDENTITY).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    named = isinstance(found, dict) and isinstance(found.get("files"), dict)
    return found if named else None
