"""The format of the feature cache: header, parts, and the errors that name them.

    <directory>/
        .lock         held with flock by the writing process; contains its id
        <32 hex>.h5   a part, named after the SHA-256 of its own bytes
    <directory>.digest   see `stages/cache/digest.py`

A part is a complete HDF5 file (format of HDF5 1.10, whose metadata have checksums) and
never changes once it has its name. Its U utterances are sorted by id:

    frames   (N, D)   float32 or float16, little-endian, contiguous: all end to end
    offsets  (U + 1)  int64: utterance u is frames[offsets[u]:offsets[u + 1]]
    ids      (U)      UTF-8 of fixed length: the utterance each was computed from
    keys     (U)      SHA-256 of the audio file's bytes (acoustic, robustness), of the
                      normalised text (targets, posteriors), or of all that decides a
                      recording (rejection, unlabelled), hexadecimal

Each dataset has the attribute `sha256` (`stages.core.hashing.hash_array`). The file has
the attributes `format`, `version` and the fields of `Header`, `parameters` as JSON.
Features belong to a key, so utterances with the same audio or text share them. Nothing
depends on the time or the machine: the same utterances give the same bytes.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stages.core.errors import CacheError
from stages.core.files import atomic_path
from stages.core.hashing import hash_array, hash_bytes
from stages.core.text import name_some

FORMAT = "aln-features"
VERSION = 1
COMMANDS = {
    "acoustic": "`aln-pipeline extract-acoustic`",
    "targets": "`aln-pipeline cache-targets`",
    "posteriors": "`aln-pipeline cache-targets`",
    "robustness": "`aln-pipeline robustness --force`",
    "rejection": "`aln-pipeline rejection --force`",
    "unlabelled": "`aln-pipeline unlabelled`",
}
OF_TEXTS = ("targets", "posteriors")
"""The kinds that have a row for each text, under an id of its own."""
PART_FRAMES = {
    "acoustic": 8192,
    "targets": 65_536,
    "posteriors": 65_536,
    "robustness": 8192,
    "rejection": 8192,
    "unlabelled": 8192,
}
"""A part is written once it has so many frames. 8,192 are about 20 minutes of speech,
8 MB: the most that a killed run loses."""
# Always HDF5 1.10: the bytes must not depend on the version of the library.
LIBVER = ("v110", "v110")
_UNSTORABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Header:
    """What all parts with features of one encoder have in common."""

    kind: str  # a key of COMMANDS
    encoder: str  # its name, for messages
    fingerprint: str  # of everything that decides a value: weights, front end, dtype
    parameters: dict[str, Any]  # the same in readable form; JSON-able
    dim: int  # values a frame
    dtype: str  # float32 or float16, as stored
    frame_step: int  # samples at 16 kHz between frames; 0 for one vector a text

    def differences(self, other: "Header") -> dict[str, tuple[Any, Any]]:
        """The fields and parameters that differ: their values here and in `other`."""
        flat = []
        for header in (self, other):
            fields = json.loads(json.dumps(asdict(header)))
            parameters = fields.pop("parameters")
            flat.append(fields | {f"parameters.{k}": v for k, v in parameters.items()})
        own, others = flat
        return {
            name: (own.get(name), others.get(name))
            for name in dict.fromkeys([*own, *others])
            if own.get(name) != others.get(name)
        }

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The dtype of frames on disk, always little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")


@dataclass(frozen=True)
class Part:
    """A part without its frames: U utterances, offsets (U + 1)."""

    path: Path
    header: Header
    ids: list[str]
    keys: list[str]
    offsets: list[int]
    start: int  # of frames, in bytes from the beginning of the file
    size: int  # of the file, in bytes
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
        """The part's frames, as `map_frames`, after checking their checksum.

        Raises:
            CacheError: they are damaged.
        """
        frames = self.map_frames()
        if hash_array(frames) != self.frames_sha256:
            raise damaged(self.path, "wrong checksum of frames")
        return frames


def part_paths(directory: Path) -> list[Path]:
    """The files of the parts in `directory`, sorted."""
    return sorted(directory.glob("[!.]*.h5"))


def part_bytes(header: Header, pending: Mapping[str, tuple[str, np.ndarray]]) -> bytes:
    """The bytes of a part with `pending`: (id, features (T, D)) by key."""
    rows = sorted((id, key) for key, (id, _) in pending.items())
    matrices = [pending[key][1] for _, key in rows]
    arrays = {
        "ids": np.array([id.encode() for id, _ in rows]),
        "keys": np.array([key.encode() for _, key in rows]),
        "offsets": offsets_of([len(matrix) for matrix in matrices]),
        "frames": np.concatenate(matrices, dtype=header.stored_dtype),
    }
    parameters = json.dumps(header.parameters, sort_keys=True)
    attributes = {**describe_header(header), "parameters": parameters}
    buffer = io.BytesIO()
    # Fixed-length strings and no times: nothing varies between runs.
    # Aligned to a cache line, so that mapped frames can be used as they are.
    alignment = {"alignment_threshold": 1, "alignment_interval": 64}
    with h5py.File(buffer, "w", libver=LIBVER, **alignment) as file:
        for name, value in attributes.items():
            text = isinstance(value, str)
            file.attrs[name] = np.bytes_(value.encode()) if text else value
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array, track_times=False)
            dataset.attrs["sha256"] = np.bytes_(hash_array(array).encode())
    return buffer.getvalue()


def part_name(content: bytes) -> str:
    """The file name of a part, from its bytes."""
    return f"{hash_bytes(content)[:32]}.h5"


def write_part(directory: Path, content: bytes) -> None:
    """Write a part under its name, unless it is there.

    Raises:
        CacheError: the disk refuses.
    """
    path = directory / part_name(content)
    try:
        if not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error


def read_part(path: Path) -> Part:
    """Read a part without its frames.

    Raises:
        CacheError: it cannot be read, is damaged, or is of another version.
    """
    try:
        # Parts never change, and some file systems have no locks.
        with h5py.File(path, "r", locking=False) as file:
            head = {name: value.item() for name, value in file.attrs.items()}
            names = ("ids", "keys", "offsets")
            arrays = {name: file[name][:] for name in names}
            hashes = {n: file[n].attrs["sha256"].decode() for n in (*names, "frames")}
            start = file["frames"].id.get_offset()
        head = {k: v.decode() if isinstance(v, bytes) else v for k, v in head.items()}
        header = parse_header({**head, "parameters": json.loads(head["parameters"])})
        for name, array in arrays.items():
            if hash_array(array) != hashes[name]:
                raise ValueError(f"wrong checksum of {name}")
        ids, keys, offsets = (arrays[name].tolist() for name in names)
        return Part(
            path=path,
            header=header,
            ids=[id.decode() for id in ids],
            keys=[key.decode() for key in keys],
            offsets=offsets,
            start=start,
            size=path.stat().st_size,
            frames_sha256=hashes["frames"],
        )
    # A damaged file makes h5py raise almost any exception.
    except Exception as error:
        raise damaged(path, error) from error


def describe_header(header: Header) -> dict[str, Any]:
    """The header as a file has it, with format and version."""
    return {"format": FORMAT, "version": VERSION, **asdict(header)}


def parse_header(head: Mapping[str, Any]) -> Header:
    """The header that `describe_header` describes.

    Raises:
        KeyError, TypeError, ValueError: it is not one, or of another version.
    """
    if (head["format"], head["version"]) != (FORMAT, VERSION):
        raise ValueError(f"{head['format']!r}, version {head['version']}")
    if not isinstance(head["parameters"], dict):
        raise ValueError("its parameters are not an object")
    return Header(**{field.name: head[field.name] for field in fields(Header)})


def check_header(part: Part, expected: Header) -> None:
    """Check a part against the header that goes with its fingerprint.

    Raises:
        CacheError: they differ; names the fields.
    """
    if fields := part.header.differences(expected):
        raise CacheError(
            "same fingerprint but another header",
            path=part.path,
            found=", ".join(f"{name} {one!r}" for name, (one, _) in fields.items()),
            expected=", ".join(f"{name} {one!r}" for name, (_, one) in fields.items()),
            fix="delete the folder and run " + command(part.path.parent, expected.kind),
        )


def check_id(path: Path, id: str) -> None:
    """Check that a line of the digest can hold an id."""
    if not id or _UNSTORABLE.search(id):
        raise CacheError(
            f"id {id!r} cannot be stored",
            path=path,
            expected="an id without control characters",
        )


def no_features(
    directory: Path, names: Sequence[str], total: int, kind: str | None = None
) -> CacheError:
    """The error for features that are not cached."""
    return CacheError(
        f"no features of {len(names)} of {total} utterances ({name_some(names)})",
        path=directory,
        fix=f"run {command(directory, kind)}",
    )


def damaged(path: Path, why: object) -> CacheError:
    """The error for a part that cannot be read or is damaged."""
    clause = " ".join(str(why).split())  # HDF5's messages have several lines
    if isinstance(why, OSError) and why.errno:
        return CacheError(f"cannot be read ({clause})", path=path)
    if "already open" in clause or "locking flag" in clause:
        return CacheError(
            f"another program has, or was killed while it had, it open ({clause})",
            path=path,
            fix="close it there, or after a kill run `h5clear -s` on it, or delete it "
            f"and run {command(path.parent)}",
        )
    return CacheError(
        f"damaged, or not a part of version {VERSION} ({clause})",
        path=path,
        fix=f"delete it and run {command(path.parent)}; the other parts are kept",
    )


def unwritable(path: Path, why: Exception) -> CacheError:
    """The error for a file that cannot be written."""
    return CacheError(
        f"cannot be written ({why})",
        path=path,
        fix="free disk space or correct the permissions; finished work is kept",
    )


def command(directory: Path, kind: str | None = None) -> str:
    """The command that fills a cache; without `kind`, by its place in `cache/`."""
    names = (kind, directory.name, directory.parent.name)
    known = (COMMANDS[name] for name in names if name in COMMANDS)
    return next(known, "the stage that writes it")


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of U matrices starts and the last ends, (U + 1) int64."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
