"""The size that an audio file's header states, compared with the file.

A file that ends early was cut off. One that goes on after its samples, with something
that is not another chunk, is from a recorder that was killed before it finished the
header: libsndfile would read nothing of it, or a part.
"""

import struct
import zlib
from pathlib import Path

from stages.core.errors import RecordingError

CUT_OFF = "the recording is cut off"
FIX = "restore the file; in a corpus, drop its row or use --on-error quarantine"

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
}
_AU = {b".snd": ">II", b"dns.": "<II"}
_FLAC = b"fLaC\0\0\0\x22"
"""How a FLAC file starts."""

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the other order."""

_TAGS = (b"ID3", b"TAG", b"APETAGEX")


def check_size(data: bytes, path: Path | str) -> None:
    """Compare the stated size with the file.

    Raises:
        RecordingError: the recording is cut off, its header unfinished, or it is one of
            several in the file.
    """
    if data.startswith(b"OggS"):
        _check_pages(data, path)
    if data.startswith(b"fLaC") and data.find(_FLAC, 4) > 0:
        raise _several(path)
    start, stated = _stated(data)
    there = max(0, len(data) - start)
    # Some programs state the size of the file, or what of it follows the first size.
    if there < stated < _UNKNOWN and stated not in (len(data), len(data) - 8):
        raise RecordingError(
            CUT_OFF,
            path=path,
            found=f"{there:,} bytes of samples",
            expected=f"{stated:,}, from the header",
            fix=FIX,
        )
    if not _is_explained(data, data[start + stated :], stated):
        raise unfinished(path, f"{stated:,} bytes of samples stated, but {there:,}")


def unfinished(path: Path | str, found: str) -> RecordingError:
    """The error for a file with more samples than its header states."""
    return RecordingError(
        "the header is unfinished, possibly since the recorder was killed",
        path=path,
        found=f"{found} follow",
        fix="write the header again, e.g. `sox --ignore-length IN.wav OUT.wav` or "
        "`ffmpeg -i IN.flac OUT.wav`; in a corpus, drop its row or use --on-error "
        "quarantine",
    )


def is_filling(rest: bytes) -> bool:
    """Whether `rest` is empty or one byte many times, as zeros or blanks."""
    return not rest.strip(rest[:1])


def flac_count(data: bytes) -> int:
    """Samples that a FLAC file states; 0 if unknown, or if it is another file."""
    if not data.startswith(_FLAC) or len(data) < 26:
        return 0
    return int.from_bytes(data[21:26], "big") & 0xF_FFFF_FFFF


def without_size(data: bytes) -> bytes:
    """`data` as libsndfile reads all samples, no fewer and nothing else."""
    start, stated = _stated(data)
    if data[:4] in _AU and stated >= _UNKNOWN:  # it knows only one unknown size
        return data[:8] + b"\xff" * 4 + data[12:]
    if data.startswith(b"riff"):  # it would read to the end of the file
        return data[: start + stated]
    if flac_count(data):
        return data[:21] + bytes([data[21] & 0xF0, 0, 0, 0, 0]) + data[26:]
    return data


def _stated(data: bytes) -> tuple[int, int]:
    """Where the samples start, and their bytes; the end and 0 if none are stated."""
    if data[:4] in _AU and len(data) >= 12:
        start, stated = struct.unpack_from(_AU[data[:4]], data, 4)
        return start, stated
    if data[:4] in _CONTAINERS:
        return _chunk_of_samples(data)
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
    container = _CONTAINERS.get(data[:4])
    padding = -stated % container[-1] if container else 0
    return any(
        is_filling(after)
        or after.startswith(_TAGS)
        or (container is not None and _is_chunk(data, after))
        for after in (rest, rest[padding:])
    )


def _is_chunk(data: bytes, rest: bytes) -> bool:
    """Whether a chunk is next in `rest`, at the end of `data`."""
    _, name, kind, counted, _ = _CONTAINERS[data[:4]]
    head = name + struct.calcsize(kind) - counted
    if len(rest) < name + 8 or not all(32 <= one < 127 for one in rest[:4]):
        return False
    # A last one that is damaged is no sign of a killed recorder.
    if len(data) - 1 <= struct.unpack_from(kind, data, name)[0] + head < _UNKNOWN:
        return True
    return struct.unpack_from(kind, rest, name)[0] + head <= len(rest)


def _check_pages(data: bytes, path: Path | str) -> None:
    """Of an OGG file, which states no size, all pages are there, of one stream."""
    place, last = 0, 0
    while not last and data.startswith(b"OggS", place) and len(data) >= place + 27:
        last, lengths = data[place + 5] & 4, data[place + 26]
        size = 27 + lengths + sum(data[place + 27 : place + 27 + lengths])
        page = data[place : place + size]
        place += size
        if len(page) == size and not _is_sound(page):
            raise RecordingError(
                "the recording is damaged",
                path=path,
                found="a page that differs from its checksum",
                fix=FIX,
            )
    if not last or place > len(data):
        raise RecordingError(
            CUT_OFF, path=path, found="no end of the last page", fix=FIX
        )
    if data.find(b"OggS", place) > 0:
        raise _several(path)


def _is_sound(page: bytes) -> bool:
    """Whether an OGG page has its checksum: CRC-32, bits in the other order."""
    content = page[:22] + bytes(4) + page[26:]
    found = zlib.crc32(content.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return found.to_bytes(4, "big") == page[22:26].translate(_MIRRORED)


def _several(path: Path | str) -> RecordingError:
    return RecordingError(
        "several recordings in one file, of which libsndfile reads the first",
        path=path,
        fix="write them as one, e.g. `ffmpeg -i IN OUT.wav`",
    )
