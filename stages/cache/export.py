"""Export: features of a cache in one HDF5 file that any program can read.

    frames   (N, D)   as they are cached, contiguous
    offsets  (U + 1)  int64: utterance u is frames[offsets[u]:offsets[u + 1]]
    ids      (U)      UTF-8 of fixed length, and so `keys` and each extra column

Nothing is compressed. The attributes of the file are the fields of `Header`,
`parameters` as JSON, and a `format` of its own.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from stages.cache.format import LIBVER, describe_header, offsets_of, unwritable
from stages.cache.store import CacheReader
from stages.core.files import atomic_path

PLAIN_FORMAT = "aln-features-plain"


def write_plain(
    path: Path,
    reader: CacheReader,
    rows: Sequence[tuple[str, str]],
    columns: Mapping[str, Sequence[str]],
    *,
    hashes: Mapping[str, str],
    slice_frames: int = 8192,
) -> None:
    """Write the features of U utterances to one file, in the order of `rows`.

    Args:
        path: the file, replaced if it is there.
        reader: of the cache.
        rows: (id, key) of each utterance.
        columns: text columns to add, by name, (U).
        hashes: of the features by key, checked before they are written.
        slice_frames: so many frames are written at once; memory is about three slices.

    Raises:
        CacheError: features that are missing, damaged or do not have their hash, or the
            file cannot be written.
    """
    header = reader.header
    keys = [key for _, key in rows]
    offsets = offsets_of(reader.lengths(keys))
    texts = {"ids": [id for id, _ in rows], "keys": keys, **columns}
    attributes = {
        **describe_header(header),
        "format": PLAIN_FORMAT,
        "parameters": json.dumps(header.parameters, sort_keys=True),
    }
    try:
        with (
            atomic_path(path) as temporary,
            # Through a stream: on a full disk, HDF5's own driver ends the process.
            temporary.open("w+b") as stream,
            h5py.File(stream, "w", libver=LIBVER) as file,
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
    except OSError as error:
        raise unwritable(path, error) from error
