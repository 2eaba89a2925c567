"""What a corpus cannot contain, because DVC cannot hash it.

DVC hashes a corpus to see whether it changed. It follows links to files, and the corpus
itself can be a link, but it does not look into a linked folder below, and it stops at a
link that leads nowhere. A device or a pipe may never end.
"""

import os
import stat
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
    """Raise InputError at what DVC cannot hash below `root`.

    Linked folders are accepted if `params.outside_paths` is `allow`.
    """
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - _IGNORED)
        for name in [*folders, *sorted(names)]:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                continue
            if os.path.islink(path) and not os.path.exists(path):
                raise InputError(
                    "the link leads nowhere",
                    path=path,
                    found=f"a link to {os.readlink(path)}",
                    fix="restore that file, or delete the link: DVC stops at it",
                )
            if not os.path.isfile(path) and not os.path.isdir(path):
                raise InputError(
                    "neither a file nor a folder",
                    path=path,
                    fix="move it out of the corpus: DVC would read it",
                )
            if os.path.isdir(path) and params.outside_paths != "allow":
                raise InputError(
                    "a linked folder below the corpus root, which DVC does not look "
                    "into",
                    path=path,
                    found=f"a link to {os.readlink(path)}",
                    fix=f"{COPY}; or {ALLOW}",
                )
