"""The size that an audio file's header states, compared with the file.

A file that ends early was cut off. One that goes on after its samples, with something
that is not another chunk, is from a recorder that was killed before it finished the
header: libsndfile would read nothing of it, or a part.
"""

import struct
from pathlib import Path

from stages.core.errors import RecordingError

CUT_OFF = "the recording is cut off"
FIX = "restore the file; in a corpus, drop its row or use --on-error quarantine"

SLACK = 1024
"""Bytes or samples that can be missing."""

_MP3_SLACK = 4096
"""Bytes: two of the largest frames, since some programs do not count the first."""

_UNKNOWN = 0x7FFF0000
"""Programs that do not know the size when they write the header write at least this."""

# By a file's first bytes: where its first chunk is, the length of a chunk's name, the
# type of its size, how many bytes of name and size this counts, and the alignment.
_CONTAINERS = {
    b"RIFF": (12, 4, "<I", 0, 2),
    b"RIFX": (12, 4, ">I", 0, 2),
    b"RF64": (12, 4, "<I", 0, 2),
    b"FORM": (12, 4, ">I", 0, 2),
    b"riff": (40, 16, "<Q", 24, 8),  # W64
    b"caff": (8, 4, ">Q", 0, 1),
}
_MP3 = (b"ID3", b"\xff")
_AU = {b".snd": ">II", b"dns.": "<II"}


def check_size(data: bytes, path: Path | str) -> None:
    """Compare the stated size with the file.

    Raises:
        RecordingError: the recording is cut off, or its header unfinished.
    """
    if data.startswith(b"OggS"):
        _check_last_page(data, path)
        return
    start, stated = _stated(data)
    there = len(data) - start
    is_mp3 = data.startswith(_MP3)
    slack = _MP3_SLACK if is_mp3 else SLACK if stated else 0
    # That of an MP3 file is too often wrong by tags; its frames are counted instead.
    if stated - there > slack and stated < _UNKNOWN and not is_mp3:
        raise RecordingError(
            CUT_OFF,
            path=path,
            found=f"{there:,} bytes of samples",
            expected=f"{stated:,}, from the header",
            fix=FIX,
        )
    rest = data[start + stated :]
    if len(rest) > slack and not _is_explained(data, rest, stated):
        raise RecordingError(
            "the header is unfinished, possibly since the recorder was killed",
            path=path,
            found=f"{stated:,} bytes of samples stated, but {there:,} follow",
            fix="write the header again, e.g. `sox --ignore-length IN.wav OUT.wav` or "
            "`ffmpeg -i IN.mp3 OUT.wav`; in a corpus, drop its row or use --on-error "
            "quarantine",
        )


def with_known_size(data: bytes) -> bytes:
    """`data` as libsndfile reads it to its end: AU has a single unknown size."""
    if data[:4] in _AU and _stated(data)[1] >= _UNKNOWN:
        return data[:8] + b"\xff" * 4 + data[12:]
    return data


def after_tags(data: bytes) -> int:
    """Where the tags (ID3v2) at the start of an MP3 file end."""
    place = 0
    while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        flags, *size = data[place + 5 : place + 10]
        footer = 10 * bool(flags & 0x10)
        place += 10 + sum(part << 7 * (3 - i) for i, part in enumerate(size)) + footer
    return place


def mp3_counts(data: bytes) -> tuple[int, int] | None:
    """Frames and bytes that an MP3 file states (Xing or Info); 0 if one is missing."""
    start = after_tags(data)
    head = data[start : start + 64]
    for name in (b"Xing", b"Info"):
        place = head.find(name) + 4
        if place > 4 and len(head) >= place + 12:
            flags, *counts = struct.unpack_from(">3I", head, place)
            frames = counts.pop(0) if flags & 1 else 0
            return frames, counts[0] if flags & 2 else 0
    return None


def _stated(data: bytes) -> tuple[int, int]:
    """Where the samples start, and their bytes; the end and 0 if none are stated."""
    if data[:4] in _AU and len(data) >= 12:
        start, stated = struct.unpack_from(_AU[data[:4]], data, 4)
        return start, stated
    if data[:4] in _CONTAINERS:
        return _chunk_of_samples(data)
    if data.startswith(_MP3):
        counts = mp3_counts(data)
        if counts is not None and counts[1]:
            return after_tags(data), counts[1]
    return len(data), 0


def _chunk_of_samples(data: bytes) -> tuple[int, int]:
    place, name, kind, counted, alignment = _CONTAINERS[data[:4]]
    head = name + struct.calcsize(kind)
    while place + head <= len(data):
        size = struct.unpack_from(kind, data, place + name)[0]
        if data[place : place + 4] in (b"data", b"SSND"):
            if data[:4] == b"RF64" and size == 0xFFFFFFFF and data[12:16] == b"ds64":
                size = struct.unpack_from("<Q", data, 28)[0]
            return place + head, max(0, size - counted)
        # A size of 0 in W64 would not lead on.
        place += max(head, head - counted + size + -size % alignment)
    return len(data), 0


def _is_explained(data: bytes, rest: bytes, stated: int) -> bool:
    """Whether `rest`, after the stated samples, needs not be samples."""
    if data.startswith(b"riff") or (data.startswith(b"FORM") and not stated):
        return True  # libsndfile reads these to the end
    if not rest.strip(b"\0"):
        return True
    if data[:4] in _AU:
        return False
    if data[:4] not in _CONTAINERS:  # MP3: tags, unless another stream follows
        start = after_tags(rest)
        return rest[start : start + 1] != b"\xff"
    _, name, kind, _, _ = _CONTAINERS[data[:4]]
    for place in (0, 1):  # of an odd size, padded or not
        head = rest[place : place + 4]
        if len(rest) >= place + name + 8 and all(32 <= one < 127 for one in head):
            size = struct.unpack_from(kind, rest, place + name)[0]
            if size <= len(rest):
                return True
    return False


def _check_last_page(data: bytes, path: Path | str) -> None:
    """Of an OGG file, which states no size, the last page is there to its end."""
    page = data[data.rfind(b"OggS") :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(segments):
        raise RecordingError(CUT_OFF, path=path, found="a part of a page", fix=FIX)
