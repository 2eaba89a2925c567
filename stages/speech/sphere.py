"""NIST SPHERE: find recordings whose samples are compressed, before they are decoded.

libsndfile reads SPHERE without compression. If the header does not name the
compression, it would read compressed samples as plain ones and give noise.
"""

import re
from pathlib import Path

from stages.core.errors import RecordingError

_SHORTEN = b"ajkg"
"""The first bytes of samples compressed by shorten."""


def sphere_compression(data: bytes) -> str:
    """The compression of the samples, from the header or the samples; "" if none.

    Args:
        data: a file, or its start with the header and the first samples.
    """
    length = data[8:16].strip()
    if not data.startswith(b"NIST_1A\n") or not length.isdigit():
        return ""
    fields = data[:1024].split(b"end_head")[0].decode("latin-1")
    coding = re.search(r"^sample_coding -s\d+ [^,\n]*,\s*(\S+)", fields, re.MULTILINE)
    if coding:
        return coding[1]
    return "shorten" if data[int(length) :].startswith(_SHORTEN) else ""


def compressed_sphere(
    path: Path | str, compression: str, where: str = ""
) -> RecordingError:
    """The error for a compressed recording, or for several, of which `path` is one."""
    kind = "shorten-compressed" if "shorten" in compression else "compressed"
    return RecordingError(
        f"{kind} SPHERE, which libsndfile does not read",
        path=path,
        found=compression + where,
        fix="unpack with `w_decode -o pcm FILE COPY` of NIST's SPHERE tools or "
        "`sph2pipe -p FILE COPY` of the LDC; for the `atis` preset, a copy with the "
        "same name below the corpus root replaces the original",
    )
