"""A file is damaged: it is noticed, or the result is the same."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from faults.commands import (
    CACHE,
    HALF,
    SMALLER,
    Case,
    differences,
    snapshot,
)
from faults.conftest import Laboratory

pytestmark = pytest.mark.slow

MUTATIONS = 12
"""Of each kind of file; 400 in all."""


@dataclass(frozen=True)
class Kind:
    """Files of a kind.

    Attributes:
        files: their names, as `glob` takes them.
        readers: commands that read them.
        verified: `cache verify` names any damage; or only a flipped bit, where an entry
            that is missing is computed again; or none.
        silent: why a damaged file may give another result; empty where it may not.
    """

    files: tuple[str, ...]
    readers: tuple[Case, ...]
    verified: Literal["any", "bit", "none"] = "any"
    silent: str = ""


def _without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            found = list((folder / CACHE).glob(name))
            assert found
            for path in found:
                path.unlink()

    return change


EXTRACT = Case(("extract-acoustic",))
EXTRACT_ALL = Case(("extract-acoustic", HALF))
TEACHER = Case(("train-teacher", "--force"))
TARGETS = Case(("cache-targets",))
TARGETS_ALL = Case(("cache-targets", "--set=targets.pooling=cls"))
BASELINE1 = Case(("baseline1", "--force"))
CLASSIFY = Case(("baseline1",), change=_without("baseline1/identity.json"))
TRANSCRIBE = Case(
    ("baseline1",), change=_without("baseline1/identity.json", "transcripts/*.tsv")
)
BASELINE2 = Case(("train-student", "baseline2", "--force"))
ALN = Case(("train-student", "aln", "--force"))
SWEEP = Case(("sweep", "--set=sweep.alpha=[0.5]"))
ROBUSTNESS = Case(("robustness", "--force"))
REJECTION = Case(("rejection", "--force"))
UNLABELLED = Case(("unlabelled", "--force"))
REPORT = Case(("report", "--force"))
EXPORT = Case(("export", "aln-0.5", "model"))
PREDICT = Case(("predict", "--model", "model", "data/tiny/test"))
TRAIN = ("train-student", "aln", SMALLER)
TRAIN_TEACHER = ("train-teacher", "--set=teacher.intent_epochs=2")
TRAIN_TEACHER += ("--checkpoint-minutes=0",)
STUDENT_READERS = (ROBUSTNESS, REJECTION, REPORT, EXPORT)
TABLES_READERS = (EXTRACT, BASELINE2, REPORT, TARGETS, BASELINE1, ROBUSTNESS, EXPORT)
ITS_OWN = "the user's own: what is in it holds"

KINDS = {
    "manifest": Kind(("cache/tiny/manifest.csv",), TABLES_READERS),
    "intents": Kind(("cache/tiny/intents.json",), (ALN, EXPORT, REPORT, TEACHER)),
    "conditions": Kind(("cache/tiny/conditions.csv",), (REPORT,)),
    "quarantine": Kind(("cache/tiny/quarantine.csv",), TABLES_READERS[1:]),
    "checksums": Kind(("cache/tiny/*.sha256",), TABLES_READERS, verified="bit"),
    "notes of recordings": Kind(
        ("cache/tiny/recordings.json",),
        (Case(("prepare-corpus",)),),
        verified="bit",
    ),
    "features": Kind(
        ("cache/tiny/acoustic/*.h5",),
        (BASELINE2, EXTRACT, Case(("cache", "gc")), Case(("cache", "export", "x.h5"))),
    ),
    "digest of features": Kind(
        ("cache/tiny/acoustic.digest",),
        (ALN, EXTRACT, Case(("cache", "gc")), Case(("cache", "export", "x.h5"))),
    ),
    "graph of the encoder": Kind(
        ("cache/tiny/acoustic/*.onnx",), (EXTRACT_ALL,), verified="none"
    ),
    "targets": Kind(("cache/tiny/targets/*.h5",), (ALN, TARGETS)),
    "posteriors": Kind(("cache/tiny/posteriors/*.h5",), (TARGETS,)),
    "digest of posteriors": Kind(("cache/tiny/posteriors.digest",), (TARGETS,)),
    "texts": Kind(("cache/tiny/texts.csv",), (TARGETS, TEACHER)),
    "digest of targets": Kind(("cache/tiny/targets.digest",), (ALN, TARGETS)),
    "teacher": Kind(
        ("cache/tiny/teacher/*",), (TARGETS, TARGETS_ALL, BASELINE1, REPORT)
    ),
    "transcripts": Kind(("cache/tiny/transcripts/*.tsv",), (CLASSIFY,), verified="bit"),
    "language models": Kind(("cache/tiny/transcripts/models/*.*",), (TRANSCRIBE,)),
    "Baseline-1": Kind(("cache/tiny/baseline1/*",), (REPORT, Case(("baseline1",)))),
    "students": Kind(("cache/tiny/student/*/*",), STUDENT_READERS),
    "students' identities": Kind(
        ("cache/tiny/student/*/identity.json",),
        (*STUDENT_READERS, Case(("train-student", "aln"))),
    ),
    "ledger": Kind(("cache/tiny/results/*.json",), (Case(("results",)), SWEEP, ALN)),
    "degraded features": Kind(("cache/tiny/robustness/*/*.h5",), (ROBUSTNESS,)),
    "their digests": Kind(("cache/tiny/robustness/*.digest",), (ROBUSTNESS,)),
    "robustness": Kind(
        ("cache/tiny/robustness/*.csv", "cache/tiny/robustness/identity.json"),
        (REPORT, Case(("robustness",))),
    ),
    "features of no intent": Kind(("cache/tiny/rejection/others/*.h5",), (REJECTION,)),
    "their digest": Kind(("cache/tiny/rejection/others.digest",), (REJECTION,)),
    "rejection": Kind(
        ("cache/tiny/rejection/*.json",), (REPORT, EXPORT, Case(("rejection",)))
    ),
    "features of unlabelled utterances": Kind(
        ("cache/tiny/unlabelled/features/*.h5",), (UNLABELLED,)
    ),
    "digest of unlabelled utterances": Kind(
        ("cache/tiny/unlabelled/features.digest",), (UNLABELLED,)
    ),
    "unlabelled utterances": Kind(
        ("cache/tiny/unlabelled/manifest.csv", "cache/tiny/unlabelled/identity.json"),
        (TARGETS, Case(("unlabelled",))),
    ),
    "report": Kind(("report/*.*",), (Case(("report",)), EXPORT), verified="none"),
    "kept results": Kind(
        ("cache/tiny/kept/*/*",),
        (
            Case(
                ("train-student", "baseline2"),
                (("train-student", "baseline2", SMALLER),),
            ),
        ),
    ),
    "exported model": Kind(("model/model.*",), (PREDICT,), verified="none"),
    "checkpoint of a student": Kind(
        ("cache/tiny/unfinished/**/*.pt",),
        (Case(TRAIN, (TRAIN,), killed="cache/tiny/unfinished/**/*.pt"),),
        verified="none",
    ),
    "checkpoint of the teacher": Kind(
        ("cache/tiny/teacher.work/**/*.pt",),
        (
            Case(
                TRAIN_TEACHER,
                (TRAIN_TEACHER,),
                killed="cache/tiny/teacher.work/**/*.pt",
            ),
        ),
        verified="none",
    ),
    "recordings": Kind(
        ("data/tiny/*/*.wav",), (EXTRACT_ALL, TRANSCRIBE, EXPORT), verified="none"
    ),
    "recordings, before prepare-corpus": Kind(
        ("data/tiny/*/*.wav",),
        (Case(("prepare-corpus",)),),
        verified="none",
        silent=ITS_OWN,
    ),
    "table": Kind(
        ("data/tiny/table.csv",),
        (Case(("prepare-corpus",)),),
        verified="none",
        silent=ITS_OWN,
    ),
    "parameters": Kind(
        ("params.yaml",), (BASELINE2, REPORT), verified="none", silent=ITS_OWN
    ),
    "encoder": Kind(
        ("encoder.safetensors",),
        (ROBUSTNESS, REJECTION, EXPORT, BASELINE2),
        verified="none",
    ),
    "encoder, before extract-acoustic": Kind(
        ("encoder.safetensors",), (EXTRACT,), verified="none", silent=ITS_OWN
    ),
}


def test_there_are_400_mutations() -> None:
    assert len(KINDS) * MUTATIONS >= 400


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_noticed(
    laboratory: Laboratory, counts: Counter[str], name: str
) -> None:
    kind = KINDS[name]
    draw = random.Random(name)
    silent, problems = [], []
    number = 0
    # A kind that may be silent is not on the list by chance.
    while number < MUTATIONS or (kind.silent and not silent and number < 200):
        number += 1
        case = kind.readers[number % len(kind.readers)]
        _, new, answer = laboratory.expected(case)
        folder = laboratory.copy(case)
        files = sorted({path for glob in kind.files for path in folder.glob(glob)})
        file = draw.choice([path for path in files if path.is_file()])
        what, damaged = mutate(file.read_bytes(), draw)
        file.write_bytes(damaged)
        what = f"{file.relative_to(folder)}, {what}; {' '.join(case.command)}"
        if kind.verified == "any" or (kind.verified == "bit" and "a bit" in what):
            (verified,) = laboratory.run(folder, ("cache", "verify"))
            if verified.status != 1 or "Traceback" in verified.stderr:
                last = verified.stderr.splitlines()[-1:]
                problems.append(f"{what}: verify: {verified.status}, {last}")
        (found,) = laboratory.run(folder, case.command, seconds=20)
        if found.problem():
            problems.append(f"{what}: {found.problem()}")
        elif found.status == 0:
            changed = differences(snapshot(folder), new)
            if file.exists() and file.read_bytes() == damaged:
                changed = [one for one in changed if folder / one != file]
            if (
                case.command[0] in ("results", "predict")
                and found.stdout != answer.stdout
            ):
                changed.append("its output")
            if changed:
                silent.append(f"{what}: believed: {changed}")
    counts["mutations"] += number
    if kind.silent:
        assert silent, "no longer silent: take it off the list"
    else:
        problems += silent
    assert not problems, "\n".join(problems)


def mutate(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """What was done to `data`, and what it then is, which is another."""
    while True:
        at = draw.randrange(len(data) + 1)
        length = draw.randrange(1, 65)
        lines = data.splitlines(keepends=True)
        line, other = (draw.randrange(max(len(lines), 1)) for _ in range(2))
        swapped = list(lines)
        if lines:
            swapped[line], swapped[other] = swapped[other], swapped[line]
        bit = bytes([data[at] ^ (1 << draw.randrange(8))]) if at < len(data) else b""
        page = data[at // 4096 * 4096 :][:4096]
        mutations = {
            f"a bit of byte {at} flipped": data[:at] + bit + data[at + 1 :],
            f"cut at {at}": data[:at],
            f"bytes {at} to {at + length} twice": data[: at + length] + data[at:],
            f"page of {at} zeroed": data.replace(page, bytes(len(page)), 1),
            f"byte {length} inserted at {at}": data[:at] + bytes([length]) + data[at:],
            f"line {line} dropped": b"".join(lines[:line] + lines[line + 1 :]),
            f"lines {line} and {other} swapped": b"".join(swapped),
        }
        what, damaged = draw.choice(list(mutations.items()))
        if damaged != data:
            return what, damaged
