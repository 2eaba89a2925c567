"""NIST SPHERE: find recordings whose samples are compressed, before they are read.

libsndfile reads SPHERE without compression. If the header does not name the
compression, it would read compressed samples as plain ones and give noise.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from stages.core.errors import InputError

_SHORTEN = b"ajkg"
"""The first bytes of samples compressed by shorten."""


def sphere_compression(file: Path) -> str:
    """The compression of the samples, from the header or the samples; "" if none.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            header = stream.read(1024)
            length = header[8:16].strip()
            if not header.startswith(b"NIST_1A\n") or not length.isdigit():
                return ""
            stream.seek(int(length))
            start = stream.read(4)
    except OSError as error:
        raise InputError(
            "the recording cannot be read", path=file, found=error.strerror
        ) from None
    fields = header.split(b"end_head")[0].decode("latin-1")
    coding = re.search(r"^sample_coding -s\d+ [^,\n]*,\s*(\S+)", fields, re.MULTILINE)
    if coding:
        return coding[1]
    return "shorten" if start == _SHORTEN else ""


def check_uncompressed(files: Iterable[Path]) -> None:
    """Raise InputError if any of `files` is compressed SPHERE; names the first."""
    files = list(files)
    packed = [(file, how) for file in files if (how := sphere_compression(file))]
    if packed:
        file, how = packed[0]
        kind = "shorten-compressed" if "shorten" in how else "compressed"
        raise InputError(
            f"{kind} SPHERE, which libsndfile does not read",
            path=file,
            found=f"{how} in {len(packed)} of {len(files)} files",
            fix="unpack with `w_decode -o pcm FILE COPY` of NIST's SPHERE tools or "
            "`sph2pipe -p FILE COPY` of the LDC; a copy with the same name below the "
            "corpus root replaces the original",
        )
