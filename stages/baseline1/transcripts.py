"""The cache of transcripts, by recogniser and recording: one line per utterance.

    <directory>/<recogniser's fingerprint, 32 digits>.tsv
        # <recogniser's name>
        <SHA-256 of the recording><tab><id><tab><transcript, possibly empty><tab><sum>

        models/   lexicons and language models of the encoder's beam search

The sum is the first 16 digits of the SHA-256 of the line before it. Each line is
flushed when it is complete, so a killed run loses only the utterances in progress, and
the next run resumes there. The id is for people; a recording that is renamed, or occurs
twice in the corpus, is transcribed once.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stages.core.errors import CacheError
from stages.core.files import locked
from stages.core.hashing import hash_bytes

_LINE = re.compile(r"(([0-9a-f]{64})\t[^\t]*\t([^\t]*))\t([0-9a-f]{16})")


class Transcripts(dict[str, str]):
    """The transcripts of one recogniser by the recording's hash."""

    stream: IO[str]

    def add(self, key: str, id: str, text: str) -> None:
        """Add the transcript of a recording."""
        text = " ".join(text.split())
        line = f"{key}\t{' '.join(id.split())}\t{text}"
        self.stream.write(f"{line}\t{_sum(line)}\n")
        self.stream.flush()
        self[key] = text


@contextmanager
def open_transcripts(
    directory: Path, fingerprint: str, name: str
) -> Iterator[Transcripts]:
    """The transcripts of a recogniser, to read and to add to, with `directory` locked.

    Raises:
        CacheError: a damaged line, or another process is writing.
    """
    path = directory / f"{fingerprint[:32]}.tsv"
    with locked(directory):
        whole = _repair(path)
        transcripts = Transcripts(_parse(path, whole))
        with open(path, "a", encoding="utf-8") as stream:
            if not whole:
                stream.write(f"# {' '.join(name.split())}\n")
            transcripts.stream = stream
            yield transcripts


def _repair(path: Path) -> str:
    """The file's text; cuts off an incomplete last line, which a killed run leaves."""
    if not path.exists():
        return ""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with open(path, "r+b") as stream:
            stream.truncate(len(whole))
    return whole.decode("utf-8", "replace")  # then the line's sum is wrong


def read_transcripts(path: Path) -> dict[str, str]:
    """The transcripts in a file by the recording's hash.

    Raises:
        CacheError: a damaged line.
    """
    return dict(_parse(path, path.read_bytes().decode("utf-8", "replace")))


def _parse(path: Path, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n")[:-1], 1):
        if line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None or found[4] != _sum(found[1]):
            raise CacheError(
                f"line {number} is damaged, or not a transcript",
                path=path,
                found=repr(line[:60]),
                expected="hash, id, text and sum, separated by tabs",
                fix="delete that line; its recording is transcribed again",
            )
        yield found[2], found[3]


def _sum(line: str) -> str:
    return hash_bytes(line.encode())[:16]
