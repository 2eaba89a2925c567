"""Write files that are either complete or absent, and lock folders.

What is being written has a name of its own next to its final name,
`.<name>.<host>-<process>.tmp`. If the process is killed, the next one that writes to
the same folder removes it.
"""

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from stages.core.errors import CacheError

_TEMPORARY = re.compile(r"\.(.+)\.([^/]+)-(\d+)\.(tmp|old)", re.DOTALL)

# Of linux/fcntl.h and linux/fs.h.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# renameat2 where the file system cannot exchange.
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


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
    _sweep_once(path.parent.resolve())
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
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    temporary = _hidden(folder, "tmp")
    _remove(temporary)  # of a killed process with the same number
    temporary.mkdir()
    try:
        yield temporary
        for path in [*sorted(temporary.rglob("*")), temporary]:
            flush_path(path)
        if folder.exists():
            exchange(temporary, folder)
        else:
            os.replace(temporary, folder)
        flush_path(folder.parent)
    finally:
        _remove(temporary)


def exchange(a: Path, b: Path) -> None:
    """Swap two folders.

    At once where the system can (Linux, but not on NFS). Elsewhere with three renames:
    if the process is killed between them, the next `sweep` puts `b` back.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = _AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b)
        if renameat2(*paths, _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NO_EXCHANGE:
            raise OSError(number, os.strerror(number), str(b))
    previous = _hidden(b, "old")
    os.replace(b, previous)
    try:
        os.replace(a, b)
    except BaseException:
        os.replace(previous, b)
        raise
    os.replace(previous, a)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine were writing in `folder`.

    What they were about to replace is put back, if it is not there.
    """
    for leftover in sorted(folder.glob(".*.*")):
        found = _TEMPORARY.fullmatch(leftover.name)
        if not found or found[2] != os.uname().nodename or _is_running(int(found[3])):
            continue
        final = folder / found[1]
        if found[4] == "old" and not final.exists():
            os.replace(leftover, final)
        else:
            _remove(leftover)


@cache
def _sweep_once(folder: Path) -> None:
    """`sweep`, once in a process: some folders get thousands of files."""
    sweep(folder)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's, or not a number of one
        pass
    return True


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
                fix="put cache/ on a local disk, for example with a link",
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


def _hidden(path: Path, suffix: str) -> Path:
    """A name next to `path` that no other running process uses."""
    process = f"{os.uname().nodename}-{os.getpid()}"
    return path.with_name(f".{path.name}.{process}.{suffix}")
