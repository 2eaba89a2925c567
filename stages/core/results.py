"""Identify the result of a stage, to compute it only once.

A result is a folder with an `identity.json`: the stage, its `REVISION`, the parameters,
the hash of each input, the hash of each file in the folder, and its own checksum. If a
stage finds the identity that it is about to compute, and the files are unchanged, it
returns at once. Device and number of workers are not part of it: results differ by
rounding at most.

A replaced result is copied to the folder `kept/` of the corpus, under the hash of its
identity. It is restored from there when its parameters and inputs return. (DVC's run
cache does this only for outputs that DVC deletes before a run.)
"""

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.checksums import read_sealed, write_sealed
from stages.core.errors import CacheError
from stages.core.files import sweep, whole_folder
from stages.core.hashing import fingerprint, hash_file

log = logging.getLogger(__name__)

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


def model_files(path: Path) -> dict[str, Path]:
    """The inputs `model/<name>` of a model: its file, or the files of its folder.

    Empty where there is neither, as for a name on the hub.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {f"model/{file.name}": file for file in files if file.is_file()}


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
    write_sealed(folder / IDENTITY, {**identity, "files": hashes})


def damage(folder: Path) -> str | None:
    """What is wrong with the result in `folder`; None if it is as it was written.

    Also None where there is no `identity.json`, and so no result.
    """
    if not (folder / IDENTITY).is_file():
        return None
    found = read_identity(folder)
    if found is None:
        return f"{IDENTITY} is damaged"
    for name, expected in found["files"].items():
        path = folder / name
        if not path.is_file():
            return f"no {name}"
        if hash_file(path) != expected:
            return f"{name} has changed"
    return None


def is_finished(folder: Path, identity: Mapping[str, Any]) -> bool:
    """True if `folder` contains the result of `identity` with unchanged files."""
    found = read_identity(folder)
    if found is None or {**found, "files": None} != {**identity, "files": None}:
        return False
    return damage(folder) is None


def find(output: Path, identity: Mapping[str, Any], kept: Path) -> bool:
    """Whether the result of `identity` is in `output`; brings it back from `kept`.

    Args:
        output: where the result belongs.
        identity: of `identify`.
        kept: folder of the results that others replaced.
    """
    sweep(output.parent)
    if is_finished(output, identity):
        return True
    if problem := damage(output):
        log.warning("%s: %s; replaced", output, problem)
    there = kept / name_of(identity)
    if not is_finished(there, identity):
        return False
    with whole_folder(output) as folder:
        _copy(there, folder)
        _keep(output, kept)
    return is_finished(output, identity)


@contextmanager
def result_folder(
    output: Path, identity: Mapping[str, Any], kept: Path
) -> Iterator[Path]:
    """Yield a temporary folder; on success it becomes `output`, with its identity.

    The previous result goes to `kept`. If the block raises, nothing changes.
    """
    with whole_folder(output) as folder:
        yield folder
        record(folder, identity)
        _keep(output, kept)


def require(
    folder: Path, inputs: Mapping[str, Path], *, fix: str, alone: bool = False
) -> dict[str, Any]:
    """The identity of a result that another stage reads.

    Args:
        folder: the result.
        inputs: what it must be made from, as for `identify`; others are not checked.
        fix: how to make it.
        alone: whether there can be no other file, as transformers would read it.

    Raises:
        CacheError: there is no result, a file in it has changed or is not from its
            stage, or it was made from something else.
    """
    if problem := damage(folder):
        raise CacheError(f"not as its stage wrote it: {problem}", path=folder, fix=fix)
    found = read_identity(folder)
    if found is None:
        raise CacheError("no finished result here", path=folder, fix=fix)
    others = {path.name for path in folder.glob("[!.]*")} - {*found["files"], IDENTITY}
    if alone and others:
        what = "not from its stage"
        raise CacheError(what, path=folder / min(others), fix="move it away")
    for name, path in inputs.items():
        if found["inputs"].get(name) != hash_input(path):
            what = f"made from another {name} than {path}"
            raise CacheError(what, path=folder, fix=fix)
    return found


def name_of(identity: Mapping[str, Any]) -> str:
    """The folder name of a result in `kept`."""
    return fingerprint({**identity, "files": None})[:24]


def _keep(output: Path, kept: Path) -> None:
    """Copy the result in `output`, if it is one, to `kept`."""
    found = read_identity(output)
    if found is None or not is_finished(output, found):
        return
    there = kept / name_of(found)
    if not is_finished(there, found):
        with whole_folder(there) as folder:
            _copy(output, folder)


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a result, and no others, to a new folder."""
    found = read_identity(source)
    for name in (*(found["files"] if found else ()), IDENTITY):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def read_identity(folder: Path) -> dict[str, Any] | None:
    """The identity recorded in `folder`; None where there is none, or a damaged one."""
    try:
        return read_sealed(folder / IDENTITY)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
