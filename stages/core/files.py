"""Writing files so that one bearing its final name is always complete."""

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
    """Yield a path beside `path`; on success flush it to disk and rename it there.

    If the block raises, the temporary file is removed and `path` is untouched. Without
    `flush` thousands of files take seconds, not minutes, and a power cut may cost some.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        if flush:
            flush_path(beside)
        os.replace(beside, path)
        if flush:
            flush_path(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`; on success it takes `folder`'s place.

    If the block raises, it is removed and `folder` is untouched.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    former = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    for leftover in (beside, former):  # of a killed process that had our number
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        for path in sorted(beside.iterdir()):
            flush_path(path)
        if folder.exists():
            os.replace(folder, former)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_path(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON with sorted keys."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")


def flush_path(path: Path) -> None:
    """Make a file, or the renames in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which dies with the process.

    Raises:
        CacheError: another process holds it, or there can be no such directory.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        stream = (directory / ".lock").open("a+")
    except OSError as error:
        raise CacheError(f"cannot be written ({error})", path=directory) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            raise CacheError(
                f"process {holder} is writing to this cache",
                path=directory,
                fix="wait until it ends, or stop it; what it has finished is kept",
            ) from None
        try:
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            # The lock is ours, so whoever began these files is dead.
            for leftover in sorted(directory.glob(".*.tmp")):
                leftover.unlink(missing_ok=True)
            yield
        finally:
            # Empty again, since DVC hashes the directory; and unlocked by hand, since
            # a forked worker may still have the file open.
            stream.truncate(0)
            fcntl.flock(stream, fcntl.LOCK_UN)
