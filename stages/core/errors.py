"""Errors that the user can fix. The command line prints each in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PipelineError(Exception):
    """Bad input, or a state that the user can fix.

    The message is `path: what; found …; expected …; fix: …`.

    Args:
        what: what is wrong.
        path: the file or folder that is wrong.
        found: its actual value.
        expected: the values that are accepted.
        fix: what the user can do, if possible a command.

    Attributes:
        reason: `what` and `found`, without the path.
    """

    def __init__(
        self,
        what: str,
        *,
        path: Path | str | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        parts = [f"{path}: {what}" if path is not None else what]
        if found is not None:
            parts.append(f"found {found}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if fix is not None:
            parts.append(f"fix: {fix}")
        super().__init__("; ".join(parts))
        self.reason = what if found is None else f"{what}: {found}"


class ConfigurationError(PipelineError):
    """An invalid parameter, option or preset."""


class InputError(PipelineError):
    """An invalid corpus, audio file or checkpoint."""


class RecordingError(InputError):
    """A recording that is not audio, empty, too long or not finite.

    It can be quarantined, unlike one that is missing or has changed.
    """


class CacheError(PipelineError):
    """A cached file that is missing, damaged or from other parameters."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Name the extra to install where the block imports a package that is missing.

    Raises:
        ConfigurationError: the package is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"this needs the package {error.name or extra}, which is not installed",
            fix=f"pip install -e '.[{extra}]'",
        ) from None
