"""Write files that are either complete or absent, and lock folders."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.errors import CacheError


@contextmanager
def atomic_path(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success rename it to `path`.

    If the block raises, the temporary file is removed and `path` is unchanged.

    Args:
        path: the file to write; its folder is created.
        flush: sync to disk first. Without it, a power cut can lose files, but writing
            thousands of them takes seconds, not minutes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _hidden(path, "tmp")
    try:
        yield temporary
        if flush:
            flush_path(temporary)
        os.replace(temporary, path)
        if flush:
            flush_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it replaces `folder`.

    If the block raises, the temporary folder is removed and `folder` is unchanged.
    """
    temporary, previous = _hidden(folder, "tmp"), _hidden(folder, "old")
    for leftover in (temporary, previous):  # of a killed process with the same number
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in sorted(temporary.iterdir()):
            flush_path(path)
        if folder.exists():
            os.replace(folder, previous)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")


def flush_path(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder`, which is created, for this process. The lock ends with it.

    Temporary files and folders that a killed process left in it are removed.

    Raises:
        CacheError: another process holds the lock, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("a+")
    except OSError as error:
        raise CacheError(f"cannot be written ({error})", path=folder) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise CacheError(
                f"process {stream.read().strip() or 'unknown'} is writing to this "
                "folder",
                path=folder,
                fix="wait until it ends, or stop it; finished work is kept",
            ) from None
        try:
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            for leftover in sorted(folder.glob(".*.tmp")):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            yield
        finally:
            # Empty, since DVC hashes the folder. Closing the file is not enough to
            # unlock it: a forked worker can still have it open.
            stream.truncate(0)
            fcntl.flock(stream, fcntl.LOCK_UN)


def _hidden(path: Path, suffix: str) -> Path:
    """A name next to `path` that no other running process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{suffix}")
