"""Transcripts, kept by what was heard and by whom: a line an utterance.

    <directory>/<recogniser's fingerprint, 32 digits>.tsv
        # <recogniser's name>
        <SHA-256 of the recording><tab><id><tab><what was recognised, perhaps nothing>

        models/   lexicons and language models of the encoder's beam search

A line is flushed once it is whole, so a killed run loses the utterances in hand, and
the next one goes on from there. The id is for people; a recording that is renamed, or
stands twice in the corpus, is transcribed once.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stages.core.errors import CacheError
from stages.core.files import locked

_LINE = re.compile(r"([0-9a-f]{64})\t([^\t]*)\t([^\t]*)")


class Transcripts:
    """The transcripts of one recogniser; made by `open_transcripts`."""

    def __init__(self, stream: IO[str], known: dict[str, str]) -> None:
        self._stream = stream
        self._known = known

    def __getitem__(self, key: str) -> str:
        """What was recognised in the recording with this hash."""
        return self._known[key]

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that are not transcribed yet."""
        return {key for key in keys if key not in self._known}

    def add(self, key: str, id: str, text: str) -> None:
        """Keep what was recognised in a recording."""
        text = " ".join(text.split())
        self._stream.write(f"{key}\t{' '.join(id.split())}\t{text}\n")
        self._stream.flush()
        self._known[key] = text


@contextmanager
def open_transcripts(
    directory: Path, fingerprint: str, name: str
) -> Iterator[Transcripts]:
    """The transcripts of a recogniser, to read and to add to; alone in `directory`.

    Raises:
        CacheError: a damaged line, or another process writes.
    """
    path = directory / f"{fingerprint[:32]}.tsv"
    with locked(directory):
        whole = _repair(path)
        known = dict(_parse(path, whole))
        with open(path, "a", encoding="utf-8") as stream:
            if not whole:
                stream.write(f"# {' '.join(name.split())}\n")
            yield Transcripts(stream, known)


def _repair(path: Path) -> str:
    """The file's text, once the half line that a killed run left is cut off."""
    if not path.exists():
        return ""
    try:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with open(path, "r+b") as stream:
                stream.truncate(len(whole))
        return whole.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CacheError(
            f"not a file of transcripts ({error})", path=path, fix=f"delete {path}"
        ) from error


def _parse(path: Path, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n")[:-1], 1):
        if line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise CacheError(
                f"line {number} is no transcript",
                path=path,
                found=repr(line[:60]),
                expected="hash, id and text, parted by tabs",
                fix="delete that line, and its recording is transcribed again",
            )
        yield found[1], found[3]
