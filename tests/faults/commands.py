"""The commands that are disturbed, and how each must leave its files."""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CACHE = Path("cache/tiny")
FINAL = (("export", "model"),)
"""What is run after the whole line, before anything is disturbed."""


@dataclass(frozen=True)
class Case:
    """A command, run on a copy of the finished folder.

    Attributes:
        command: what is disturbed.
        before: commands that are run first.
        change: what is changed in the folder before these.
        killed: the last of these is killed once there is such a file, a glob.
    """

    command: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    change: Callable[[Path], object] | None = None
    killed: str = ""


@dataclass(frozen=True)
class Answer:
    """How a command ended; a status below 0 is a signal's number."""

    status: int
    stdout: str
    stderr: str
    log: str
    seconds: float

    def problem(self) -> str:
        """What is wrong with this end; empty for 0, or 2 with one line of error."""
        lines = self.stderr.splitlines()
        errors = sum(line.startswith("error: ") for line in lines)
        if "Traceback" in self.stderr or (self.status, errors) not in ((0, 0), (2, 1)):
            return f"status {self.status}, {errors} errors, {lines[-1:]}"
        return ""


def _drop_row(folder: Path) -> None:
    table = folder / "data" / "tiny" / "table.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:1] + lines[2:]))


def _phrases(folder: Path) -> None:
    spoken = folder / "data" / "spoken"
    spoken.mkdir()
    (spoken / "sentences.csv").write_text(
        "text,intent\nlights on,activate\nset an alarm,set\n"
    )
    (spoken / "voices.csv").write_text(
        "speaker,split,accent,variant,rate,pitch,pitch_range\n"
        "anna,train,en-us,f1,200,60,50\n"
        "bob,valid,en-gb,m1,190,30,50\n"
        "carla,test,en-029,f3,210,55,40\n"
        "noise-1,crowd,en-us,m2,170,40,50\n"
        "noise-2,crowd,en-gb,f2,190,60,50\n"
    )


def _other_cache(folder: Path) -> None:
    (folder / CACHE / "acoustic").rename(folder / "other")


SMALLER = "--set=student.gru_width=3"
HALF = "--set=acoustic.dtype=float16"
SPOKEN = ("name=spoken", "adapter=phrases")
SPOKEN += ("train_utterances=2", "valid_utterances=2", "test_utterances=2")
SPOKEN = tuple(f"--set=corpus.{one}" for one in SPOKEN)
COMMANDS = {
    "prepare-corpus": Case(("prepare-corpus",), change=_drop_row),
    "prepare-corpus, phrases": Case(("prepare-corpus", *SPOKEN), change=_phrases),
    "extract-acoustic": Case(("extract-acoustic", HALF)),
    "unlabelled": Case(("unlabelled", "--set=unlabelled.seed=2")),
    "train-teacher": Case(("train-teacher", "--set=teacher.intent_epochs=2")),
    "cache-targets": Case(("cache-targets", "--set=targets.pooling=cls")),
    "baseline1": Case(("baseline1", "--set=baseline1.vocabulary=30")),
    "train-student": Case(("train-student", "aln", SMALLER)),
    "restored student": Case(
        ("train-student", "baseline2"), (("train-student", "baseline2", SMALLER),)
    ),
    "sweep": Case(("sweep", SMALLER)),
    "robustness": Case(("robustness", "--set=robustness.t60=0.3")),
    "rejection": Case(("rejection", "--set=rejection.seed=2")),
    "report": Case(("report", "--set=report.seed=2")),
    "export": Case(("export", "baseline2", "model")),
    "results": Case(("results", "--csv", "report/results.csv")),
    "cache gc": Case(("cache", "gc"), (("extract-acoustic", HALF),)),
    "cache merge": Case(("cache", "merge", "other"), change=_other_cache),
    "cache export": Case(
        ("cache", "export", "x.h5", "--force"),
        (("cache", "export", "x.h5", "--split", "test"),),
    ),
}
_WHOLE = re.compile(r"(cache/tiny/(teacher|baseline1|student/[^/]+)|model)/")
"""Folders that are replaced as a whole."""


def snapshot(folder: Path) -> dict[str, str]:
    """The hash of each file below `folder`, by name.

    Not of locks, nor of files that have times: of recordings, and of how long stages
    took.
    """
    without = (".lock", "recordings.json", "durations.json")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in without
    }


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The files that differ, that are missing or too many."""
    names = found.keys() | expected.keys()
    return sorted(name for name in names if found.get(name) != expected.get(name))


def lost(folder: Path, old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The outputs that are neither as they were nor as they should become."""
    found = snapshot(folder)
    bad = [
        name
        for name in new
        # Transcripts are added line by line.
        if found.get(name) not in (old.get(name), new[name]) and ".tsv" not in name
    ]
    for prefix in {match[0] for name in old if (match := _WHOLE.match(name))}:
        states = [
            {name: value for name, value in files.items() if name.startswith(prefix)}
            for files in (found, old, new)
        ]
        if states[0] not in states[1:]:
            bad.append(prefix)
    return sorted(bad)


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders."""
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob(".*"))
        if path.suffix in (".tmp", ".old")
    ]


def copy(source: Path, target: Path) -> Path:
    """A fresh copy of `source` at `target`."""
    if target.exists():
        shutil.rmtree(target)
    return Path(shutil.copytree(source, target))
