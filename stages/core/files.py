"""Write files that are either complete or absent, and lock folders.

What is being written has a name of its own next to its final name,
`.<name>.<16 hex digits>.tmp`, and is locked. If the process is killed, the lock ends,
and the next process that writes to the same folder removes it.
"""

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from stages.core.errors import CacheError

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{16}\.(tmp|old)", re.DOTALL)

# Of linux/fcntl.h and linux/fs.h.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# renameat2 where the file system cannot exchange.
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def atomic_path(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield an empty temporary file next to `path`; on success rename it to `path`.

    If the block raises, the temporary file is removed and `path` is unchanged.

    Args:
        path: the file to write; its folder is created.
        flush: sync to disk first. Without it, a power cut can lose files, but writing
            thousands of them takes seconds, not minutes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(os.path.realpath(path.parent))
    with _reserved(path, lambda temporary: temporary.touch(exist_ok=False)) as one:
        yield one
        if flush:
            flush_path(one)
        os.replace(one, path)
        if flush:
            flush_path(path.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it replaces `folder`.

    If the block raises, the temporary folder is removed and `folder` is unchanged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    with _reserved(folder, Path.mkdir) as temporary:
        yield temporary
        for path in [*sorted(temporary.rglob("*")), temporary]:
            flush_path(path)
        if folder.exists():
            exchange(temporary, folder)
        else:
            os.replace(temporary, folder)
        flush_path(folder.parent)


def exchange(new: Path, folder: Path) -> None:
    """Put the folder `new` in place of `folder`, which gets its name or is removed.

    At once where the system can (Linux, but not on NFS). Elsewhere with two renames: if
    the process is killed between them, the next `sweep` puts `folder` back.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(folder)
        if renameat2(*paths, _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NO_EXCHANGE:
            raise OSError(number, os.strerror(number), str(folder))
    previous = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.old")
    os.replace(folder, previous)
    try:
        os.replace(new, folder)
    except BaseException:
        os.replace(previous, folder)
        raise
    _remove(previous)


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing in `folder`.

    What they were about to replace is put back, if it is not there.
    """
    for leftover in sorted(folder.glob(".*.*")):
        found = _LEFTOVER.fullmatch(leftover.name)
        # Another process can be doing the same, and not all leftovers are ours.
        with suppress(OSError):
            if not found:
                continue
            if found[2] == "old" and not (folder / found[1]).exists():
                os.replace(leftover, folder / found[1])
            elif (lock := _lock(leftover)) is not None:
                _remove(leftover)
                os.close(lock)


@cache
def _sweep_once(folder: str) -> None:
    """`sweep`, once in a process: some folders get thousands of files."""
    sweep(Path(folder))


@contextmanager
def _reserved(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder next to `path`, locked; removed at the end."""
    while True:
        # Cut, since `path` can have the longest name that there can be.
        name = f".{path.name[:50]}.{secrets.token_hex(8)}.tmp"
        temporary = path.with_name(name)
        make(temporary)
        # Another process can sweep it away until it is locked.
        with suppress(FileNotFoundError, BlockingIOError):
            lock = _lock(temporary)
            if temporary.exists():
                break
    try:
        yield temporary
    finally:
        _remove(temporary)
        if lock is not None:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """A descriptor that keeps a file or folder locked; None where there are no locks.

    Raises:
        BlockingIOError: another process has locked it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON with sorted keys, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return text + "\n"


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
        CacheError: another process holds the lock, the folder is not writable, or its
            file system has no locks.
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
        except OSError as error:
            raise CacheError(
                f"its file system has no locks ({error})",
                path=folder,
                fix="move the repository to a local disk",
            ) from None
        try:
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n")
            stream.flush()
            for leftover in sorted(folder.glob(".*.tmp")):
                _remove(leftover)
            yield
        finally:
            # Empty, since DVC hashes the folder. Closing the file is not enough to
            # unlock it: a forked worker can still have it open.
            stream.truncate(0)
            fcntl.flock(stream, fcntl.LOCK_UN)
