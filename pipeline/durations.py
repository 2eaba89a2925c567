"""How long each stage took: `durations.json`, which only the report's page shows.

It has the seconds of the last command that computed something for the stage, start-up
included. A command that found its result, failed or was interrupted leaves it as it is.
"""

import fcntl
import json
import logging
import time
from pathlib import Path

from stages.core.files import write_json

log = logging.getLogger(__name__)


class Stopwatch:
    """Times the stages of one command, one after another, from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since = time.monotonic()

    def stop(self, stage: str, *, computed: bool) -> None:
        """Record the seconds since the last stop if `stage` computed something."""
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        if computed:
            try:
                _record(self._path, stage, seconds)
            except OSError as error:
                log.info("%s: not recorded (%s)", self._path, error)


def read_durations(path: Path) -> dict[str, float]:
    """Seconds by stage; empty where the file is missing or damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
        return {stage: float(one["seconds"]) for stage, one in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _record(path: Path, stage: str, seconds: float) -> None:
    # DVC can run stages in parallel.
    with (path.parent / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        durations = {**read_durations(path), stage: round(seconds, 2)}
        write_json(path, {name: {"seconds": one} for name, one in durations.items()})
