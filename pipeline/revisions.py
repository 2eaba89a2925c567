"""Reports of other revisions, read from git and the cache of DVC."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.core.errors import CacheError, InputError

FILES = ("results.json", "predictions.csv")


@contextmanager
def report_of(name: str, report: Path) -> Iterator[Path]:
    """Yield the folder of a report, or a copy of a revision's report.

    Args:
        name: a folder with `results.json`; otherwise a revision: a branch, tag, commit
            or experiment of DVC.
        report: the folder of the report in the repository.

    Raises:
        InputError: neither a folder nor a revision.
        CacheError: the revision has no report, or DVC's cache does not have its files.
    """
    if (Path(name) / FILES[0]).is_file():
        yield Path(name)
        return
    with TemporaryDirectory() as folder:
        _read(name, report, Path(folder))
        yield Path(folder)


def _read(revision: str, report: Path, folder: Path) -> None:
    """Copy a revision's report into `folder`."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    with ExitStack() as stack:
        try:
            files = stack.enter_context(closing(DVCFileSystem(rev=revision)))
            assert files.repo  # opens it now: `exists` would hide the error
        except DvcException as error:
            raise InputError(
                f"{revision!r} is neither the folder of a report nor a revision",
                found=error,
                expected=f"a folder with {FILES[0]}, or a branch, tag, commit or "
                "experiment of DVC",
            ) from error
        for name in FILES:
            path = report / name
            if not files.exists(str(path)):
                raise CacheError(
                    f"revision {revision} has no report to compare",
                    found=f"no {path}",
                    fix="check it out and run `dvc repro`, or name another revision",
                )
            try:
                (folder / name).write_bytes(files.read_bytes(str(path)))
            except (DvcException, OSError) as error:
                raise CacheError(
                    f"DVC has no copy of it for revision {revision}",
                    path=path,
                    found=error,
                    fix="check the revision out and run `dvc pull` or `dvc repro`",
                ) from error
