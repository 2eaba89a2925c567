"""What the audio files of a corpus are: duration and hash, remembered between runs.

`<cache>/recordings.json` keeps each file's size and the times of its last modification
and of its last change of state, which no tool can set back, so that a file is read
again only if one of them changed. It is a note to ourselves: nothing that
depends on the manifest depends on it.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile

from stages.core.errors import InputError, RecordingError
from stages.core.files import write_json
from stages.core.hashing import hash_file
from stages.core.runtime import progress


@dataclass(frozen=True)
class Recording:
    """Duration in seconds, 0 where it cannot be told, and SHA-256 of the bytes."""

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
    """Duration and hash of each of `paths` under `root`, in their order.

    Args:
        root: the corpus root.
        paths: relative to it.
        remembered: the file in which results are kept.
        workers: threads; hashing lets others run.
        on_error: with `quarantine`, a file that is empty or not audio lasts 0 seconds
            and is left to extraction, which sets it aside.

    Raises:
        InputError: a file is missing; names it.
        RecordingError: a file is empty or not audio.
    """
    known = _read(remembered)

    def one(path: str) -> tuple[list[int], Recording]:
        file = root / path
        try:
            state = file.stat()
        except OSError:
            raise InputError(
                "no such audio file",
                path=file,
                fix="complete the corpus, or pass its folder with --root",
            ) from None
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        note = known.get(path)
        # What lasts 0 seconds was bad under another `on_error`.
        if note is not None and note["stamp"] == stamp and note["seconds"]:
            return stamp, Recording(note["seconds"], note["sha256"])
        try:
            seconds = _seconds(file)
        except RecordingError:
            if on_error == "stop":
                raise
            seconds = 0.0
        return stamp, Recording(seconds, hash_file(file))

    results: dict[str, tuple[list[int], Recording]] = {}
    try:
        with ThreadPoolExecutor(workers) as pool:
            found = progress(
                pool.map(one, paths),
                total=len(paths),
                description="reading headers",
                unit="file",
            )
            for path, result in zip(paths, found, strict=True):
                results[path] = result
    finally:
        # Also when a file is bad: the others need not be read again.
        notes = {
            path: {"stamp": stamp, "seconds": one.seconds, "sha256": one.sha256}
            for path, (stamp, one) in results.items()
        }
        if notes != known:
            write_json(
                remembered, {**known, **notes} if len(notes) < len(paths) else notes
            )
    return [results[path][1] for path in paths]


def _seconds(file: Path) -> float:
    try:
        header = soundfile.info(file)
    except soundfile.LibsndfileError as error:
        raise RecordingError(
            "not an audio file that libsndfile reads",
            path=file,
            found=error.error_string,
            expected="WAV, FLAC, OGG, MP3 or NIST SPHERE",
            fix="convert the file, drop its row, or use --on-error quarantine",
        ) from None
    if header.frames == 0:
        raise RecordingError(
            "the recording is empty",
            path=file,
            fix="drop its row, or use --on-error quarantine",
        )
    return header.frames / header.samplerate


def _read(remembered: Path) -> dict:
    try:
        return json.loads(remembered.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
