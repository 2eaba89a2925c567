"""Durations and hashes of a corpus's recordings, cached between runs.

Each is decoded by the function that extraction uses, so what that would refuse is
refused here, and the duration is that of what can be decoded.

`recordings.json` in the corpus's folder has each file's size, modification time and
change time (which no tool can set back). A file is read again only if one of them
differs, or if the cache does not match its own checksum. No later stage depends on it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stages.core.checksums import read_sealed, write_sealed
from stages.core.errors import InputError, RecordingError
from stages.core.hashing import hash_bytes
from stages.core.runtime import progress
from stages.speech.loading import decode, read_recording

_Note = dict
"""What `recordings.json` has of a recording: stamp (size, times), seconds, sha256."""


@dataclass(frozen=True)
class Recording:
    """Duration in seconds, 0 if the file cannot be read, and SHA-256 of the file."""

    seconds: float
    sha256: str


def inspect_recordings(
    root: Path,
    paths: list[str],
    remembered: Path,
    workers: int,
    *,
    on_error: str = "stop",
) -> list[Recording]:
    """Duration and hash of each of `paths`, in their order.

    Args:
        root: the corpus root.
        paths: relative to `root`.
        remembered: the file that caches the results.
        workers: number of threads.
        on_error: with `quarantine`, a recording that cannot be used lasts 0 seconds;
            extraction quarantines it.

    Raises:
        InputError: a file is missing or unreadable.
        RecordingError: a recording cannot be used.
    """
    known = _read(remembered)
    notes: dict[str, _Note] = {}

    def inspect(path: str) -> _Note:
        return _inspect(root / path, known.get(path), on_error)

    try:
        with ThreadPoolExecutor(workers) as pool:
            found = progress(
                pool.map(inspect, paths),
                total=len(paths),
                description="reading recordings",
                unit="file",
            )
            for path, note in zip(paths, found, strict=True):
                notes[path] = note
    finally:
        # After an error too, so a repeated run does not read these files again.
        if notes != known:
            kept = {**known, **notes} if len(notes) < len(paths) else notes
            write_sealed(remembered, {"recordings": kept})
    return [Recording(notes[path]["seconds"], notes[path]["sha256"]) for path in paths]


def _inspect(file: Path, known: _Note | None, on_error: str) -> _Note:
    """The note of a recording: `known` if the file has not changed."""
    try:
        state = file.stat()
    except OSError:
        raise InputError(
            "no such audio file",
            path=file,
            fix="complete the corpus, or pass its folder with --root",
        ) from None
    stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    # A file of 0 seconds was not readable; `on_error` may have changed since.
    if known is not None and known["stamp"] == stamp and known["seconds"]:
        return known
    data = read_recording(file)
    try:
        wave, rate = decode(data, file)
        seconds = len(wave) / rate
    except RecordingError:
        if on_error == "stop":
            raise
        seconds = 0.0
    return {"stamp": stamp, "seconds": seconds, "sha256": hash_bytes(data)}


def _read(remembered: Path) -> dict:
    """The notes, if they are as they were written."""
    try:
        return read_sealed(remembered)["recordings"]
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
