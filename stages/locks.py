"""One writer to a directory: a lock that dies with its process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import CacheError


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
