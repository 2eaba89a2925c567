"""Paths of a corpus's files on disk, and links that DVC cannot follow.

DVC hashes a corpus to see whether it changed. It follows links to files, and the corpus
itself can be a link, but it does not look into a linked folder below, and it stops at a
link that leads nowhere.
"""

import errno
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from stages.core.errors import InputError
from stages.corpus.params import CorpusParams

COPY = (
    "move that folder into the corpus, or copy it with `cp -rl`, which takes no space "
    "on the same disk"
)
ALLOW = "set corpus.outside_paths to allow, if DVC need not notice changes there"
_IGNORED = {".git", ".hg", ".dvc"}  # by DVC


def check_links(params: CorpusParams, root: Path) -> None:
    """Raise InputError at a link below `root` that DVC cannot follow.

    Linked folders are accepted if `params.outside_paths` is `allow`.
    """
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - _IGNORED)
        for name in [*folders, *sorted(names)]:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                continue
            if not os.path.exists(path):
                raise InputError(
                    "the link leads nowhere",
                    path=path,
                    found=f"a link to {os.readlink(path)}",
                    fix="restore that file, or delete the link: DVC stops at it",
                )
            if os.path.isdir(path) and params.outside_paths != "allow":
                raise InputError(
                    "a linked folder below the corpus root, where DVC notices no "
                    "changes",
                    path=path,
                    found=f"a link to {os.readlink(path)}",
                    fix=f"{COPY}; or {ALLOW}",
                )


def path_on_disk(root: Path, path: str) -> str:
    """`path` as the disk spells it: `é` is one character or, from a Mac, two.

    If there is no such file in either spelling, it is unchanged.
    """
    if os.path.isfile(root / path):
        return path
    found = Path()
    for part in Path(path).parts:
        forms = [unicodedata.normalize(form, part) for form in ("NFC", "NFD")]
        known = [form for form in (part, *forms) if os.path.exists(root / found / form)]
        if not known:
            return path
        found /= known[0]
    return found.as_posix() if os.path.isfile(root / found) else path


def missing_fix(root: Path, paths: Iterable[str]) -> str | None:
    """What is wrong with the paths of missing files, if one shows it."""
    for path in paths:
        if "\\" in path:
            return "write / in place of \\ in the paths"
        try:
            os.stat(root / path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return "check that columns are not swapped: this is too long for a path"
    return None


def short_path(path: str, most: int = 100) -> str:
    """`path`, cut if it is too long for a message."""
    return path if len(path) <= most else f"{path[:most]}…"
