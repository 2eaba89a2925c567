"""The feature cache: a matrix an utterance, in HDF5. Only this module imports h5py.

What keeps a cache in order, and no stage needs, stands in `stages/upkeep.py`.

    <directory>/
        .lock         held with flock by the one process that writes, and names it
        <32 hex>.h5   a part, named after the SHA-256 of its own bytes

A part is a complete HDF5 file (format of HDF5 1.10, whose metadata bear checksums)
and never changes once it has its name. Its U utterances are sorted by id:

    frames   (N, D)   float32 or float16, little-endian, contiguous: all end to end
    offsets  (U + 1)  int64: utterance u is frames[offsets[u]:offsets[u + 1]]
    ids      (U)      UTF-8 of fixed length: the utterance each was computed from
    keys     (U)      SHA-256 of the audio file's bytes (acoustic, robustness) or of
                      the normalised text (targets), hexadecimal

Each dataset has the attribute `sha256` (`provenance.hash_array`); the file has
`format`, `version` and the fields of `Header`, `parameters` as JSON. Features belong
to a key, so utterances of one audio or one text share them. Nothing depends on the
time or the machine: the same utterances give the same bytes.

Beside the directory stands the digest, which later stages depend on: a line of JSON
with the header, then a line `id key hash-of-features` for each utterance, sorted; the
same whatever the order, the parts or the number of runs that filled the cache.
"""

import io
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from stages.atomic import atomic_path, write_text
from stages.errors import CacheError, ConfigurationError, PipelineError
from stages.locks import locked
from stages.provenance import hash_array, hash_bytes

FORMAT = "aln-features"
VERSION = 1
COMMANDS = {
    "acoustic": "`aln-pipeline extract-acoustic`",
    "targets": "`aln-pipeline cache-targets`",
    "robustness": "`aln-pipeline robustness`",
}
DTYPES = ("float32", "float16")
PLAIN_FORMAT = "aln-features-plain"
# HDF5 1.10 whatever the library: the bytes must not depend on it.
_LIBVER = ("v110", "v110")
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Header:
    """What every part of one cache shares."""

    kind: str  # acoustic, targets or robustness
    encoder: str  # the name people know it by
    fingerprint: str  # of all that decides a value: weights, front end, dtype …
    parameters: dict[str, Any]  # the same for people to read; JSON-able
    dim: int  # values a frame
    dtype: str  # float32 or float16, as stored
    frame_step: int  # samples at 16 kHz between frames; 0 for one vector a text

    def __post_init__(self) -> None:
        """Refuse a kind or dtype that the format has no room for."""
        if self.kind not in COMMANDS or self.dtype not in DTYPES:
            raise ConfigurationError(
                "features of this kind or dtype cannot be cached",
                found=f"{self.kind!r}, {self.dtype!r}",
                expected=f"{' or '.join(COMMANDS)}, {' or '.join(DTYPES)}",
            )

    def difference(self, other: "Header") -> str:
        """What sets features of `other` apart from these: `dtype float16, here …`."""
        own = {"encoder": self.encoder, **self.parameters}
        others = {"encoder": other.encoder, **other.parameters}
        return ", ".join(
            f"{name} {others.get(name)!s:.20}, here {own.get(name)!s:.20}"
            for name in sorted(own.keys() | others.keys())
            if own.get(name) != others.get(name)
        )

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The dtype of frames on disk, whatever the machine's byte order."""
        return np.dtype(self.dtype).newbyteorder("<")


@dataclass(frozen=True)
class Digest:
    """A digest file: the header and, by id, (key, hash of features)."""

    header: Header
    rows: dict[str, tuple[str, str]]


class CacheWriter:
    """Adds features to a cache, part by part; a context manager.

    Holds the directory's lock. On leaving, by an exception too, what is complete is
    written. Finished parts are never touched. Memory: about three times a part.

    Args:
        directory: the cache, made if it is not there.
        header: what is going to be added.
        part_frames: a part is written once it has at least so many frames.
    """

    def __init__(
        self, directory: Path, header: Header, *, part_frames: int = 65_536
    ) -> None:
        self.directory = directory
        self.header = header
        self.part_frames = part_frames
        self._finished: set[str] = set()  # keys
        self._ids: set[str] = set()
        self._pending: dict[str, tuple[str, np.ndarray]] = {}  # id and frames by key
        self._pending_frames = 0
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        """Take the lock and read what is there.

        Raises:
            CacheError: another process writes, a part is damaged, or one of the same
                fingerprint has another header.
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
                    "%d cached utterances are not used, their features being others: "
                    "%s; `aln-pipeline cache gc` reclaims the space",
                    unused,
                    " and ".join(
                        self.header.difference(others[name]) for name in sorted(others)
                    ),
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Write what is in hand and release the lock."""
        assert self._stack is not None
        with self._stack:
            self.flush()
        self._stack = None

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that no finished part has, each once, in their order."""
        return [key for key in dict.fromkeys(keys) if key not in self._finished]

    def add(self, id: str, key: str, frames: np.ndarray) -> None:
        """Add `frames` (T, D) computed from utterance `id`; a known `key` is a no-op.

        Raises:
            CacheError: not (T, D) with T > 0, another dtype, NaN or infinite values,
                an id added before with another key; names the id.
        """
        assert self._stack is not None, "add() outside of the with block"
        header = self.header
        _check_names(self.directory, id, key)
        what, found, expected = f"the features of {id!r} cannot be cached", None, None
        shaped = frames.ndim == 2 and len(frames) and frames.shape[1] == header.dim
        if not shaped or frames.dtype != header.dtype:
            found = f"{frames.dtype} {frames.shape}"
            expected = f"{header.dtype} (T, {header.dim}) with T > 0"
        elif not np.isfinite(frames).all():
            found, expected = "NaN or infinite values", "finite ones"
            if header.dtype == "float16" and not np.isnan(frames).any():
                expected += ", up to 65,504 in float16: use float32"
        elif key in self._finished or key in self._pending:
            return
        elif id in self._ids:
            found, expected = "an id with two keys", "an id for each utterance"
        if found:
            raise CacheError(what, path=self.directory, found=found, expected=expected)
        # A copy, since a view would keep the batch alive or change with its buffer.
        self._pending[key] = (id, np.array(frames, order="C"))
        self._pending_frames += len(frames)
        self._ids.add(id)
        if self._pending_frames >= self.part_frames:
            self.flush()

    def flush(self) -> None:
        """Write what is in hand as a part, if there is anything.

        Raises:
            CacheError: the disk refuses.
        """
        if not self._pending:
            return
        write_part(self.directory, part_bytes(self.header, self._pending))
        self._finished.update(self._pending)
        self._pending = {}
        self._pending_frames = 0


class CacheReader:
    """Reads features by key; maps each part on first use, in each process anew.

    Safe to pickle and to fork. Sees the parts that were there when it was made.

    Args:
        directory: the cache.
        fingerprint: of the encoder wanted; may be left out where there is only one.

    Raises:
        CacheError: nothing of that encoder, several encoders and none named, a
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
            stage = command(directory, parts[0].header.kind if parts else None)
            raise CacheError(
                "features of several encoders" if several else "no such features there",
                path=directory,
                found=", ".join(names) or "nothing",
                expected=fingerprint or "one encoder's features",
                fix=f"run {stage}" + ", then `aln-pipeline cache gc`" * bool(several),
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
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """All but the maps, which another process must open for itself."""
        return {**self.__dict__, "_maps": {}}

    def __contains__(self, key: object) -> bool:
        """Whether the features of `key` are there."""
        return key in self._index

    def __getitem__(self, key: str) -> np.ndarray:
        """The features of `key`, a read-only view (T, D) in the stored dtype."""
        number, start, stop = self._locate([key])[0]
        if self._process != os.getpid():
            self._maps, self._process = {}, os.getpid()
        if number not in self._maps:
            self._maps[number] = self._parts[number].map_frames()
        return self._maps[number][start:stop]

    def lengths(self, keys: Sequence[str]) -> np.ndarray:
        """The number of frames of each of `keys`, (U) int64."""
        places = self._locate(keys)
        return np.array([stop - start for _, start, stop in places], dtype=np.int64)

    def load(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Frames (N, D) float32 of `keys`, end to end in their order, and offsets.

        Utterance u is frames[offsets[u]:offsets[u + 1]]; offsets (U + 1) int64.

        Raises:
            CacheError: a key is not there; says how many and names the first.
        """
        offsets = _cumulate(self.lengths(keys))
        frames = np.empty((offsets[-1], self.header.dim), dtype=np.float32)
        for key, start, stop in zip(keys, offsets[:-1], offsets[1:], strict=True):
            frames[start:stop] = self[key]
        return frames, offsets

    def check(self, hashes: Mapping[str, str]) -> None:
        """Hold features against hashes of them, by key.

        Raises:
            CacheError: features that are missing, or others.
        """
        self._locate(list(hashes))
        for key, expected in hashes.items():
            if hash_array(self[key]) != expected:
                path = self._parts[self._index[key][0]].path
                raise damaged(path, f"the features of {key:.12} are not the digest's")

    def hashes(self, keys: Iterable[str]) -> dict[str, str]:
        """The hash of the features of each of `keys`, none of them damaged.

        One part after another, so that memory does not grow with the cache.

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


def write_digest(
    path: Path, directory: Path, fingerprint: str, rows: Iterable[tuple[str, str]]
) -> None:
    """Write the digest of `rows`, the (id, key) of every utterance of the corpus.

    Raises:
        CacheError: as `CacheReader`; a row whose features are not there; an id twice;
            a damaged part, or the disk refuses.
    """
    rows = sorted(rows)
    reader = CacheReader(directory, fingerprint=fingerprint)
    absent = [id for id, key in rows if key not in reader]
    if absent:
        raise no_features(directory, absent, len(rows), reader.header.kind)
    keys: dict[str, str] = {}
    for id, key in rows:
        _check_names(path, id, key)
        if id in keys:
            raise CacheError(f"id {id!r} stands twice in the corpus", path=path)
        keys[id] = key
    # Of what is not damaged, or the digest would make it the truth.
    hashes = reader.hashes(dict.fromkeys(keys.values()))
    lines = [json.dumps(_describe(reader.header), sort_keys=True)]
    lines += [f"{id} {key} {hashes[key]}" for id, key in keys.items()]
    try:
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise unwritable(path, error) from error


def read_digest(path: Path) -> Digest:
    """The digest in `path`.

    Raises:
        CacheError: the file is missing or not a digest.
    """
    fix = f"run {COMMANDS.get(path.stem, 'the stage that writes it')}"
    try:
        first, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        header = _make_header(json.loads(first))
        triples = [line.rsplit(" ", 2) for line in lines]
        rows = {id: (key, features) for id, key, features in triples}
    except FileNotFoundError:
        raise CacheError("no digest there", path=path, fix=fix) from None
    except (KeyError, TypeError, ValueError, PipelineError) as error:
        raise CacheError(f"not a digest ({error})", path=path, fix=fix) from error
    return Digest(header, rows)


def write_plain(
    path: Path,
    reader: CacheReader,
    rows: Sequence[tuple[str, str]],
    columns: Mapping[str, Sequence[str]],
    *,
    hashes: Mapping[str, str],
    slice_frames: int = 8192,
) -> None:
    """Write the features of `rows`, (id, key) of U utterances, for other programs.

    One HDF5 file, the utterances in the order of `rows`, nothing compressed:

        frames   (N, D)   as they are cached, contiguous
        offsets  (U + 1)  int64: utterance u is frames[offsets[u]:offsets[u + 1]]
        ids      (U)      UTF-8 of fixed length, and so `keys` and each of `columns`

    Its attributes are the fields of `Header`, `parameters` as JSON, and a `format` of
    its own. Memory: about three slices, however many features there are.

    Args:
        path: the file, replaced if it is there.
        reader: of the cache.
        rows: what to write.
        columns: more about each row by name, (U).
        hashes: of the features by key, which must be those that are written.
        slice_frames: at least so many frames are written at once.

    Raises:
        CacheError: features that are missing, damaged or others than `hashes` say, or
            the disk refuses.
    """
    header = reader.header
    keys = [key for _, key in rows]
    offsets = _cumulate(reader.lengths(keys))
    texts = {"ids": [id for id, _ in rows], "keys": keys, **columns}
    attributes = {
        **_describe(header),
        "format": PLAIN_FORMAT,
        "parameters": json.dumps(header.parameters, sort_keys=True),
    }
    try:
        with (
            atomic_path(path) as beside,
            h5py.File(beside, "w", libver=_LIBVER) as file,
        ):
            for name, value in attributes.items():
                file.attrs[name] = value
            file.create_dataset("offsets", data=offsets, track_times=False)
            for name, column in texts.items():
                encoded = [text.encode() for text in column]
                longest = max(map(len, encoded), default=0)
                dtype = h5py.string_dtype("utf-8", max(longest, 1))  # never empty
                array = np.array(encoded, dtype)
                file.create_dataset(name, data=array, track_times=False)
            frames = file.create_dataset(
                "frames",
                shape=(int(offsets[-1]), header.dim),
                dtype=header.stored_dtype,
                track_times=False,
            )
            first = 0
            while first < len(keys):
                stop = np.searchsorted(offsets, offsets[first] + slice_frames)
                last = min(int(stop), len(keys))
                reader.check({key: hashes[key] for key in keys[first:last]})
                matrices = [reader[key] for key in keys[first:last]]
                frames[offsets[first] : offsets[last]] = np.concatenate(matrices)
                first = last
    # Closing, h5py hides what the disk said behind an error of its own.
    except (OSError, RuntimeError) as error:
        raise unwritable(path, error) from error


@dataclass(frozen=True)
class Part:
    """A part's content but its frames: U utterances, offsets (U + 1)."""

    path: Path
    header: Header
    ids: list[str]
    keys: list[str]
    offsets: list[int]
    start: int  # of frames, in bytes from the beginning of the file
    frames_sha256: str

    def map_frames(self) -> np.ndarray:
        """The part's frames (N, D), memory-mapped read-only.

        Raises:
            CacheError: the file is gone or shorter than it was.
        """
        shape = (self.offsets[-1], self.header.dim)
        dtype = self.header.stored_dtype
        try:
            mapped = np.memmap(self.path, dtype, "r", offset=self.start, shape=shape)
        except (OSError, ValueError) as error:
            raise damaged(self.path, error) from error
        # As a plain array: slicing numpy's memmap class is several times slower.
        return mapped.view(np.ndarray)

    def check_frames(self) -> np.ndarray:
        """The part's frames, as `map_frames`, held against their checksum.

        Raises:
            CacheError: they are damaged.
        """
        frames = self.map_frames()
        if hash_array(frames) != self.frames_sha256:
            raise damaged(self.path, "the checksum of frames does not hold")
        return frames


def part_paths(directory: Path) -> list[Path]:
    """The files of the parts in `directory`, sorted."""
    return sorted(directory.glob("[!.]*.h5"))


def part_bytes(header: Header, pending: Mapping[str, tuple[str, np.ndarray]]) -> bytes:
    """A part as a file's content; `pending` has (id, features) by key."""
    rows = sorted((id, key) for key, (id, _) in pending.items())
    matrices = [pending[key][1] for _, key in rows]
    arrays = {
        "ids": np.array([id.encode() for id, _ in rows]),
        "keys": np.array([key.encode() for _, key in rows]),
        "offsets": _cumulate([len(matrix) for matrix in matrices]),
        "frames": np.concatenate(matrices, dtype=header.stored_dtype),
    }
    parameters = json.dumps(header.parameters, sort_keys=True)
    attributes = {**_describe(header), "parameters": parameters}
    buffer = io.BytesIO()
    # Fixed-length strings and no times: nothing varies between runs.
    # Aligned to a cache line, so that mapped frames can be used as they are.
    alignment = {"alignment_threshold": 1, "alignment_interval": 64}
    with h5py.File(buffer, "w", libver=_LIBVER, **alignment) as file:
        for name, value in attributes.items():
            text = isinstance(value, str)
            file.attrs[name] = np.bytes_(value.encode()) if text else value
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array, track_times=False)
            dataset.attrs["sha256"] = np.bytes_(hash_array(array).encode())
    return buffer.getvalue()


def part_name(content: bytes) -> str:
    """What a part is called, by all its bytes."""
    return f"{hash_bytes(content)[:32]}.h5"


def write_part(directory: Path, content: bytes) -> None:
    """Write a part under its name, if it is not there.

    Raises:
        CacheError: the disk refuses.
    """
    path = directory / part_name(content)
    try:
        if not path.exists():
            with atomic_path(path) as beside:
                beside.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error


def read_part(path: Path) -> Part:
    """All of a part but its frames.

    Raises:
        CacheError: it cannot be read, is damaged, or is of another version.
    """
    try:
        # Parts never change, and some file systems have no locks to give.
        with h5py.File(path, "r", locking=False) as file:
            head = {name: value.item() for name, value in file.attrs.items()}
            names = ("ids", "keys", "offsets")
            arrays = {name: file[name][:] for name in names}
            hashes = {n: file[n].attrs["sha256"].decode() for n in (*names, "frames")}
            frames = file["frames"]
            shape, dtype, start = frames.shape, frames.dtype, frames.id.get_offset()
        head = {k: v.decode() if isinstance(v, bytes) else v for k, v in head.items()}
        header = _make_header({**head, "parameters": json.loads(head["parameters"])})
        for name, array in arrays.items():
            if hash_array(array) != hashes[name]:
                raise ValueError(f"the checksum of {name} does not hold")
        ids, keys, offsets = (arrays[name].tolist() for name in names)
        if offsets[0] != 0 or np.diff(offsets).min() < 1:
            raise ValueError("offsets do not rise from 0")
        if not len(ids) == len(keys) == len(offsets) - 1:
            raise ValueError("ids, keys and offsets differ in length")
        if shape != (offsets[-1], header.dim) or dtype != header.stored_dtype:
            raise ValueError(f"frames are {dtype} {shape}")
        if start is None:
            raise ValueError("frames are not contiguous")
        return Part(
            path=path,
            header=header,
            ids=[id.decode() for id in ids],
            keys=[key.decode() for key in keys],
            offsets=offsets,
            start=start,
            frames_sha256=hashes["frames"],
        )
    # h5py meets a damaged file with almost any exception.
    except Exception as error:
        raise damaged(path, error) from error


def _describe(header: Header) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, **asdict(header)}


def _make_header(head: Mapping[str, Any]) -> Header:
    if (head["format"], head["version"]) != (FORMAT, VERSION):
        raise ValueError(f"{head['format']!r}, version {head['version']}")
    if not isinstance(head["parameters"], dict):
        raise ValueError("its parameters are no object")
    return Header(**{field.name: head[field.name] for field in fields(Header)})


def check_header(part: Part, expected: Header) -> None:
    """Hold a part against the header that others of its fingerprint have.

    Raises:
        CacheError: they differ; names the fields.
    """
    wanted = json.loads(json.dumps(asdict(expected)))
    found = {k: v for k, v in asdict(part.header).items() if v != wanted[k]}
    if found:
        raise CacheError(
            "same fingerprint but another header",
            path=part.path,
            found=", ".join(f"{name} {value!r}" for name, value in found.items()),
            expected=", ".join(f"{name} {wanted[name]!r}" for name in found),
            fix="delete the folder and run " + command(part.path.parent, expected.kind),
        )


def _check_names(path: Path, id: str, key: str) -> None:
    """Hold an id and its key against what a line of the digest can keep."""
    if not id or _UNSTORABLE.search(id) or not re.fullmatch("[!-~]+", key):
        raise CacheError(
            f"id {id!r} with key {key!r} cannot be stored",
            path=path,
            expected="an id without control characters, a hexadecimal key",
        )


def no_features(
    directory: Path, names: Sequence[str], total: int, kind: str | None = None
) -> CacheError:
    """An error that says how many features are not there and how to get them."""
    first = ", ".join(names[:3]) + ", …" * (len(names) > 3)
    return CacheError(
        f"no features of {len(names)} of {total} utterances ({first})",
        path=directory,
        fix=f"run {command(directory, kind)}",
    )


def damaged(path: Path, why: object) -> CacheError:
    """An error that says what is wrong with a part and how to replace it."""
    clause = " ".join(str(why).split())  # HDF5 breaks its lines
    if isinstance(why, OSError) and why.errno:
        return CacheError(f"cannot be read ({clause})", path=path)
    return CacheError(
        f"damaged, or not a part of version {VERSION} ({clause})",
        path=path,
        fix=f"delete it and run {command(path.parent)}; the other parts are kept",
    )


def unwritable(path: Path, why: Exception) -> CacheError:
    """An error that says that the disk refuses."""
    return CacheError(
        f"cannot be written ({why})",
        path=path,
        fix="make room or mend the permissions; what is finished is kept",
    )


def command(directory: Path, kind: str | None = None) -> str:
    """What fills the cache; where nothing can be read, its folder's name tells."""
    return COMMANDS.get(kind or directory.name, " or ".join(COMMANDS.values()))


def _cumulate(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
