"""MP3: the frames of a file, found by their headers, with their number in front.

libsndfile's decoder (mpg123) believes the count in the first frame, estimates it if
there is none, skips what it does not understand, and prints notes about tags. So it
gets only frames, and their right count.
"""

import re
import struct
from pathlib import Path

from stages.core.errors import RecordingError
from stages.speech.sizes import CUT_OFF, FIX, is_filling

_MPEG_1 = 3
"""The two bits of the version; 2 is MPEG-2 and 0 is MPEG-2.5."""

_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = {_MPEG_1: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000)}
_RATES[0] = (11_025, 12_000, 8_000)

_SPEED = 9
"""The place of a bit rate whose frames have room for the count at any sample rate."""

_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN")
"""How a tag after the last frame can start."""


def is_mp3(data: bytes) -> bool:
    """Whether libsndfile would take `data`, after tags at the start, for MP3."""
    return data[:1] == b"\xff" and data[1:2] >= b"\xe0"


def with_frame_count(data: bytes, path: Path | str) -> bytes:
    """The frames in `data`; the first one has no sound and states the others' number.

    Raises:
        RecordingError: the recording is cut off or empty, or something is between its
            frames.
    """
    frames = _frames(data, path)
    count, there = len(frames) - 1, sum(map(len, frames))
    stated, size, place = _stated(frames[0])
    # Some programs also count the first frame.
    if stated > count + 1 or (stated == count + 1 and size > there):
        raise RecordingError(
            CUT_OFF,
            path=path,
            found=f"{count:,} frames",
            expected=f"{stated:,}, from the header",
            fix=FIX,
        )
    if place and not count:
        raise RecordingError("the recording is empty", path=path, fix=FIX)
    if stated and stated >= count:  # it also has the encoder's delay
        counts = struct.pack(">2I", count, there)[: 8 if size else 4]
        frames[0] = frames[0][:place] + counts + frames[0][place + len(counts) :]
    else:  # none, or from a recorder that was killed
        sound = frames[1:] if place else frames
        frames = [_count_frame(frames[0], len(sound)), *sound]
    return b"".join(frames)


def _frames(data: bytes, path: Path | str) -> list[bytes]:
    if data[-128:-125] == b"TAG":
        data = data[:-128]
    frames: list[bytes] = []
    place = 0
    kind = _kind(data)
    while length := _length(data[place : place + 4], kind):
        frames.append(data[place : place + length])
        place = after_tags(data, place + length)
    rest = data[place:]
    if frames and (place > len(data) or 0 < len(rest) < 4):
        raise RecordingError(CUT_OFF, path=path, found="a part of a frame", fix=FIX)
    known = is_filling(rest) or rest.startswith(_TAGS) or b"APETAGEX" in rest
    if not frames or not known or _goes_on(rest, kind):
        raise RecordingError(
            "the recording is damaged, or not MP3 of layer III",
            path=path,
            found=f"{len(rest):,} bytes that are no frames, after {len(frames):,}",
            expected="frames to the end",
            fix=FIX,
        )
    return frames


def after_tags(data: bytes, place: int = 0) -> int:
    """Where tags (ID3v2) at `place` end."""
    while data[place : place + 3] == b"ID3" and len(data) >= place + 10:
        flags, *size = data[place + 5 : place + 10]
        footer = 10 * bool(flags & 0x10)
        place += 10 + sum(part << 7 * (3 - i) for i, part in enumerate(size)) + footer
    return place


def _kind(head: bytes) -> tuple[int, int, bool]:
    """What all frames of a file share: version and layer, rate, mono."""
    if len(head) < 4 or head[0] != 0xFF:
        return 0, 0, False
    return head[1] & 0xFE, head[2] & 0x0C, head[3] >= 0xC0


def _length(head: bytes, kind: tuple[int, int, bool]) -> int:
    """Bytes of the frame with this header; 0 if it is none, or of another kind."""
    if len(head) < 4 or _kind(head) != kind:
        return 0
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    speed, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer != 1 or rate == 3 or not 0 < speed < 15:
        return 0
    kilobits = (_KILOBITS if version == _MPEG_1 else _KILOBITS_2)[speed - 1]
    bits = 144_000 if version == _MPEG_1 else 72_000
    return bits * kilobits // _RATES[version][rate] + (head[2] >> 1 & 1)


def _goes_on(rest: bytes, kind: tuple[int, int, bool]) -> bool:
    """Whether two frames, one after the other, are somewhere in `rest`."""
    for match in re.finditer(rb"\xff(?=[\xe0-\xfe])", rest):
        place = match.start()
        length = _length(rest[place : place + 4], kind)
        if length and _length(rest[place + length :][:4], kind):
            return True
    return False


def _stated(frame: bytes) -> tuple[int, int, int]:
    """Frames and bytes that a first frame states, 0 if not; the place of its count."""
    for name in (b"Xing", b"Info"):
        place = frame[:64].find(name) + 4
        if place > 4 and len(frame) >= place + 12:
            flags, *counts = struct.unpack_from(">3I", frame, place)
            count = counts.pop(0) if flags & 1 else 0
            return count, counts[0] if flags & 2 else 0, place + 4
    return 0, 0, 0


def _count_frame(frame: bytes, count: int) -> bytes:
    """A first frame as an encoder writes it, for frames of which `frame` is one."""
    head = bytes([0xFF, frame[1] | 1, _SPEED << 4 | frame[2] & 0x0C, frame[3]])
    version, mono = head[1] >> 3 & 3, head[3] >= 0xC0
    side = (17 if mono else 32) if version == _MPEG_1 else (9 if mono else 17)
    start = head + bytes(side) + b"Xing" + struct.pack(">2I", 1, count)
    return start.ljust(_length(head, _kind(head)), b"\0")
