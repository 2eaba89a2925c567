"""Paths in tables, as the disk spells them, and advice about those of missing files."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from stages.core.table import clean_text


def path_on_disk(root: Path, path: str) -> str:
    """`path` as the disk spells it: `é` is one character or, from a Mac, two.

    What nobody sees, such as a blank at the end, is left out if the disk has it so. If
    there is no such file in any spelling, `path` is unchanged.
    """
    if os.path.isfile(root / path):
        return path
    found = Path()
    for part in Path(path).parts:
        forms = [
            unicodedata.normalize(form, text)
            for text in (part, clean_text(part))
            for form in ("NFC", "NFD")
        ]
        known = [one for one in (part, *forms) if os.path.exists(root / found / one)]
        if not known:
            return path
        found /= known[0]
    return found.as_posix() if os.path.isfile(root / found) else path


def missing_fix(paths: Iterable[str]) -> str | None:
    """What is wrong with the paths of missing files, if one shows it."""
    for path in paths:
        if "\\" in path:
            return "write / in place of \\ in the paths"
        if not re.search(r"\.\w{1,9}$", path):
            return "check that columns are not swapped: a recording's name has a suffix"
    return None


def short_path(path: str, most: int = 100) -> str:
    """`path`, cut if it is too long for a message."""
    return path if len(path) <= most else f"{path[:most]}…"
