"""Writing features to a cache, and reading them by key."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from stages.cache.format import (
    PART_FRAMES,
    Header,
    check_header,
    check_id,
    command,
    damaged,
    no_features,
    offsets_of,
    part_bytes,
    part_paths,
    read_part,
    write_part,
)
from stages.core.errors import CacheError
from stages.core.files import locked
from stages.core.hashing import hash_array

logger = logging.getLogger(__name__)


class CacheWriter:
    """Adds features to a cache, part by part; a context manager.

    Holds the directory's lock. On exit, also after an exception, all utterances added
    so far are written. Finished parts are never changed. Memory: about three parts.

    Args:
        directory: the cache, created if it is not there.
        header: of the features that will be added.
        part_frames: a part is written once it has so many frames; by default that of
            `PART_FRAMES`.
    """

    def __init__(
        self, directory: Path, header: Header, *, part_frames: int | None = None
    ) -> None:
        self.directory = directory
        self.header = header
        self.part_frames = part_frames or PART_FRAMES[header.kind]
        self._finished: set[str] = set()  # keys
        self._pending: dict[str, tuple[str, np.ndarray]] = {}  # id and frames by key
        self._pending_frames = 0
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        """Take the lock and read which features are there.

        Raises:
            CacheError: another process is writing, a part is damaged, or one with the
                same fingerprint has another header.
        """
        with ExitStack() as stack:
            stack.enter_context(locked(self.directory))
            others: dict[str, Header] = {}
            unused = 0
            for part in map(read_part, part_paths(self.directory)):
                fingerprint = part.header.fingerprint
                if fingerprint == self.header.fingerprint:
                    check_header(part, self.header)
                    self._finished.update(part.keys)
                else:
                    others[fingerprint] = part.header
                    unused += len(part.keys)
            if others:
                logger.warning(
                    "%d cached utterances are not used, because their features are "
                    "from another encoder: %s; `aln-pipeline cache gc` removes them",
                    unused,
                    " and ".join(
                        f"{name} {theirs!s:.20}, here {ours!s:.20}"
                        for _, other in sorted(others.items())
                        for name, (ours, theirs) in self.header.differences(
                            other
                        ).items()
                    ),
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Write the remaining utterances and release the lock."""
        assert self._stack is not None
        with self._stack:
            self.flush()
        self._stack = None

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that no part has, in order, without repetitions."""
        return [key for key in dict.fromkeys(keys) if key not in self._finished]

    def add(self, id: str, key: str, frames: np.ndarray) -> None:
        """Add `frames` (T, D) of utterance `id`; does nothing if `key` is known.

        Raises:
            CacheError: NaN or infinite values, or an id with control characters.
        """
        assert self._stack is not None, "add() outside the with block"
        assert len(frames) and frames.shape == (len(frames), self.header.dim)
        assert frames.dtype == self.header.dtype
        check_id(self.directory, id)
        if not np.isfinite(frames).all():
            limit = ", up to 65,504 in float16" if frames.dtype == "float16" else ""
            raise CacheError(
                f"the features of {id!r} cannot be cached",
                path=self.directory,
                found="NaN or infinite values",
                expected=f"finite values{limit}",
            )
        if key in self._finished or key in self._pending:
            return
        # A view would keep the whole batch in memory, or change with its buffer.
        self._pending[key] = (id, np.array(frames, order="C"))
        self._pending_frames += len(frames)
        if self._pending_frames >= self.part_frames:
            self.flush()

    def flush(self) -> None:
        """Write the utterances added since the last part as a part, if any.

        Raises:
            CacheError: the part cannot be written.
        """
        if not self._pending:
            return
        write_part(self.directory, part_bytes(self.header, self._pending))
        self._finished.update(self._pending)
        self._pending = {}
        self._pending_frames = 0


class CacheReader:
    """Reads features by key; memory-maps each part on first use.

    Safe to pickle and to fork. Knows the parts that existed when it was created.

    Args:
        directory: the cache.
        fingerprint: of the encoder; not needed if the cache has only one.

    Raises:
        CacheError: no features of that encoder, several encoders and no fingerprint, a
            damaged part, or parts of one fingerprint with different headers.
    """

    def __init__(self, directory: Path, *, fingerprint: str | None = None) -> None:
        self.directory = directory
        parts = [read_part(path) for path in part_paths(directory)]
        encoders = {p.header.fingerprint: p.header.encoder for p in parts}
        chosen = fingerprint
        if chosen is None and len(encoders) == 1:
            chosen = next(iter(encoders))
        if chosen not in encoders:
            several = fingerprint is None and encoders
            names = [f"{encoders[code]} {code}" for code in sorted(encoders)]
            fix = f"run {command(directory, parts[0].header.kind if parts else None)}"
            raise CacheError(
                "features of several encoders" if several else "no such features",
                path=directory,
                found=", ".join(names) or "nothing",
                expected=fingerprint or "one encoder's features",
                fix=f"{fix}, then `aln-pipeline cache gc`" if several else fix,
            )
        self._parts = [p for p in parts if p.header.fingerprint == chosen]
        self.header = self._parts[0].header
        self._index: dict[str, tuple[int, int, int]] = {}  # part, start, stop
        for number, part in enumerate(self._parts):
            check_header(part, self.header)
            spans = zip(part.keys, part.offsets[:-1], part.offsets[1:], strict=True)
            for key, start, stop in spans:
                self._index.setdefault(key, (number, start, stop))
        self._maps: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the maps, which would be copied as arrays."""
        return {**self.__dict__, "_maps": {}}

    def __contains__(self, key: object) -> bool:
        """Whether the features of `key` are there."""
        return key in self._index

    def __getitem__(self, key: str) -> np.ndarray:
        """The features of `key`, a read-only view (T, D) in the stored dtype."""
        number, start, stop = self._locate([key])[0]
        if number not in self._maps:
            self._maps[number] = self._parts[number].map_frames()
        return self._maps[number][start:stop]

    def lengths(self, keys: Sequence[str]) -> np.ndarray:
        """The number of frames of each of `keys`, (U) int64."""
        places = self._locate(keys)
        return np.array([stop - start for _, start, stop in places], dtype=np.int64)

    def load(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Read the features of U `keys` into memory, in the order of `keys`.

        Returns:
            frames (N, D) float32 and offsets (U + 1) int64: utterance u is
            frames[offsets[u]:offsets[u + 1]].

        Raises:
            CacheError: keys that are not there.
        """
        offsets = offsets_of(self.lengths(keys))
        frames = np.empty((offsets[-1], self.header.dim), dtype=np.float32)
        for key, start, stop in zip(keys, offsets[:-1], offsets[1:], strict=True):
            frames[start:stop] = self[key]
        return frames, offsets

    def check(self, hashes: Mapping[str, str]) -> None:
        """Check features against their hashes, by key.

        Raises:
            CacheError: features that are missing or different.
        """
        self._locate(list(hashes))
        for key, expected in hashes.items():
            if hash_array(self[key]) != expected:
                path = self._parts[self._index[key][0]].path
                raise damaged(path, f"the features of {key:.12} differ from the digest")

    def hashes(self, keys: Iterable[str]) -> dict[str, str]:
        """The hash of the features of each key, after checking the parts' checksums.

        Goes part by part, so memory does not grow with the cache.

        Raises:
            CacheError: features that are missing, or a damaged part.
        """
        by_part: dict[int, list[str]] = {}
        wanted = list(keys)
        for key, (number, _, _) in zip(wanted, self._locate(wanted), strict=True):
            by_part.setdefault(number, []).append(key)
        found = {}
        for number, part in enumerate(self._parts):
            frames = part.check_frames()
            for key in by_part.get(number, ()):
                _, start, stop = self._index[key]
                found[key] = hash_array(frames[start:stop])
        return found

    def _locate(self, keys: Sequence[str]) -> list[tuple[int, int, int]]:
        absent = [f"{key:.12}" for key in keys if key not in self._index]
        if absent:
            raise no_features(self.directory, absent, len(keys), self.header.kind)
        return [self._index[key] for key in keys]
