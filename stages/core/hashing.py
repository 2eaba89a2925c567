"""Hashes of files, arrays and parameters."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def hash_bytes(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal.

    Raises:
        OSError: it cannot be read; names it, as Python does only if it is not opened.
    """
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def hash_array(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and bytes in hexadecimal."""
    array = np.asarray(array, order="C")
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.data)
    return digest.hexdigest()


def fingerprint(values: Mapping[str, Any]) -> str:
    """SHA-256 of `values` as JSON with sorted keys and no spaces, in hexadecimal."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hash_bytes(text.encode())


def fingerprint_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Fingerprint of named arrays; their order does not matter."""
    return fingerprint({name: hash_array(array) for name, array in arrays.items()})
