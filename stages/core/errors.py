"""The exceptions a user can meet; the command line turns each into one line."""

from pathlib import Path


class PipelineError(Exception):
    """Bad input or state that a person can mend.

    Args:
        what: one clause saying what is wrong.
        path: the file or folder at fault.
        found: what stands there.
        expected: what should stand there.
        fix: what to do about it, a command where there is one.

    Attributes:
        reason: what is wrong and what was found, without the path.
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
    """A parameter, option or preset that cannot be used."""


class InputError(PipelineError):
    """A corpus, audio file or checkpoint that cannot be used."""


class RecordingError(InputError):
    """A recording that is bad in itself: no audio, empty, too long, no numbers.

    Unlike one that is missing or has changed, it can be set aside.
    """


class CacheError(PipelineError):
    """A cached file that is missing, damaged or made by other parameters."""
