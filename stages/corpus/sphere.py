"""NIST SPHERE in the LDC's releases: recordings to unpack before anything is read."""

from collections.abc import Iterable
from pathlib import Path

from stages.core.errors import InputError
from stages.speech.sphere import compressed_sphere, sphere_compression

_START = 65_536
"""Bytes that contain the header, of usually 1,024, and the first samples."""


def compression_of(file: Path) -> str:
    """The compression of a SPHERE file's samples; "" if none.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return sphere_compression(stream.read(_START))
    except OSError as error:
        raise InputError(
            "the recording cannot be read", path=file, found=error.strerror
        ) from None


def check_uncompressed(files: Iterable[Path]) -> None:
    """Raise RecordingError if any of `files` is compressed SPHERE; names the first."""
    files = list(files)
    packed = [(file, how) for file in files if (how := compression_of(file))]
    if packed:
        file, how = packed[0]
        raise compressed_sphere(file, how, f" in {len(packed)} of {len(files)} files")
