"""Files and folders are old or new, never gone; leftovers of killed processes go."""

import ctypes
import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.core import files
from stages.core.errors import CacheError
from stages.core.files import atomic_path, locked, sweep, whole_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("old")
    return tmp_path / "model"


@pytest.fixture(params=["exchange", "not on this file system", "not on this system"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways to replace a folder."""

    class System:
        @staticmethod
        def renameat2(*_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    other = {"not on this file system": System(), "not on this system": object()}
    if request.param in other:
        found = other[request.param]
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: found)
    return request.param


def replace(folder: Path) -> None:
    with whole_folder(folder) as temporary:
        (temporary / "weights").write_text("new")
        (temporary / "seeds").mkdir()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_replaced_whole(folder: Path, renaming: str) -> None:
    replace(folder)
    assert (folder / "weights").read_text() == "new"
    assert names(folder) == {"weights", "seeds"} and names(folder.parent) == {"model"}


@pytest.mark.parametrize("fails", [1, 2])
def test_the_previous_folder_is_put_back_if_a_rename_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    rename, calls = os.replace, 0

    def refuse(*paths: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == fails:
            raise OSError(errno.EIO, "Input/output error")
        rename(*paths)

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"):
        replace(folder)
    assert (folder / "weights").read_text() == "old"
    assert names(folder.parent) == {"model"}


def test_an_error_of_the_exchange_leaves_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class System:
        @staticmethod
        def renameat2(*_: object) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: System())
    with pytest.raises(OSError, match=r"Input/output error.*model"):
        replace(folder)
    assert (folder / "weights").read_text() == "old"
    assert names(folder.parent) == {"model"}


_KILLED = """
import ctypes, os, sys
from pathlib import Path
from stages.core.files import whole_folder

rename, left = os.replace, int(sys.argv[2])

def kill(*paths):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    rename(*paths)

os.replace = kill
ctypes.CDLL = lambda *_, **__: object()
with whole_folder(Path(sys.argv[1])) as temporary:
    (temporary / "weights").write_text("new")
"""


@pytest.mark.parametrize("renames", [0, 1])
def test_killed_between_renames_the_next_start_puts_the_folder_back(
    folder: Path, renames: int
) -> None:
    command = [sys.executable, "-c", _KILLED, folder, str(renames)]
    assert subprocess.run(command).returncode == 9
    assert len(names(folder.parent)) == 2
    sweep(folder.parent)
    assert (folder / "weights").read_text() == "old"
    assert names(folder.parent) == {"model"}


def test_only_what_no_process_is_writing_is_swept(tmp_path: Path) -> None:
    token, text = 16 * "a", "of a user"
    stay = {".a.tmp", ".bashrc.20240101.old", f"a.{token}.tmp", f".a.{token}.tmpx"}
    go = {f".a.{token}.tmp", f".b.c.{token}.old"}
    for name in stay | go:
        (tmp_path / name).write_text(text)
    (tmp_path / "b.c").touch()
    (tmp_path / f".d.{token}.tmp").mkdir()
    (tmp_path / f".e.f.{token}.old").mkdir()
    with whole_folder(tmp_path / "writing") as one, atomic_path(tmp_path / "x") as two:
        sweep(tmp_path)
        two.write_text("new")
        # As another process sees it.
        command = "import sys; from stages.core.files import sweep, Path; "
        command += "sweep(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", command, tmp_path], check=True)
        assert names(tmp_path) == stay | {"b.c", "e.f", one.name, two.name}
    assert names(tmp_path) == stay | {"b.c", "e.f", "x", "writing"}
    assert (tmp_path / "x").read_text() == "new"


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == {path.name}


def test_a_leftover_that_cannot_be_removed_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / f".a.{16 * 'a'}.tmp").touch()
    monkeypatch.setattr(files, "_lock", refuse)
    sweep(tmp_path)


def test_without_locks_what_can_be_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    left, old = f".a.{16 * 'a'}.tmp", f".b.{16 * 'a'}.old"
    (tmp_path / left).touch()
    (tmp_path / old).mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with atomic_path(tmp_path / "new") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == {left, "b", "new"}


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(CacheError, match=r"no locks.*No locks available.*local disk"),
        locked(tmp_path / "cache"),
    ):
        pass
