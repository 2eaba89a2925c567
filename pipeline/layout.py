"""Paths of a corpus. Only this module knows them; stages get them as arguments.

    cache/<corpus>/manifest.csv, intents.json, conditions.csv, texts.csv   the corpus
                   audio/                        recordings that the pipeline wrote
                   acoustic/, acoustic.digest    features of the recordings
                   quarantine.csv                recordings that cannot be used
                   unlabelled/                   sentences without a label, spoken
                   teacher/                      the fine-tuned BERT
                   teacher.work/                 its checkpoints while it is trained
                   targets/, targets.digest      the teacher's vectors of the texts
                   targets.json                  how much intents explain of them, and
                                                 their hash, by which students know them
                   posteriors/, posteriors.digest   and its probabilities
                   transcripts/                  transcripts of recognisers
                   baseline1/                    the teacher's intents for them
                   student/<system>[-<alpha>]/   a student
                   robustness/                   predictions.csv and, for each
                                                 degradation, features and digest
                   rejection/                    rejection.json; features and digest of
                                                 recordings that are none of the intents
                   results/                      scores of all students trained so far
                   unfinished/<student>/         its checkpoints while it is trained
                   kept/                         results that others replaced
                   durations.json                how long each stage took
    report/                                      the report, in git

A folder that a command wrote as a whole has an `identity.json`, which says what it was
made from. Paths are relative to the repository, where every command runs.

The environment variable ALN_CACHE_DIR is the absolute path of another repository's
`cache/`. A copy of that repository, such as `dvc exp run --temp` makes, then links
recordings, features, targets, posteriors, transcripts and the scores of students from
there instead of computing them again.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from stages.core.corpus_files import CorpusFiles
from stages.core.errors import ConfigurationError

log = logging.getLogger(__name__)

SHARED_VARIABLE = "ALN_CACHE_DIR"
KINDS = ("acoustic", "targets", "posteriors")
_FOLDERS = ("robustness", "rejection", "unlabelled")  # of caches
ALL_KINDS = (*KINDS, *_FOLDERS)
_SHARED = ("audio", "kept", "results", "transcripts", *KINDS)


@dataclass(frozen=True)
class Layout:
    """The paths of one corpus.

    Attributes:
        corpus: its name.
        cache: the folder of everything that can be computed again.
        data: the folder of everything that was given.
        report: the folder of the report.
    """

    corpus: str
    cache: Path = Path("cache")
    data: Path = Path("data")
    report: Path = Path("report")

    @property
    def folder(self) -> Path:
        """Everything that is computed from the corpus."""
        return self.cache / self.corpus

    @property
    def corpus_files(self) -> CorpusFiles:
        """The tables of the corpus."""
        return CorpusFiles(self.folder)

    @property
    def recordings(self) -> Path:
        """Durations and hashes of the recordings, cached between runs."""
        return self.folder / "recordings.json"

    @property
    def durations(self) -> Path:
        """How long each stage took on this machine."""
        return self.folder / "durations.json"

    @property
    def audio(self) -> Path:
        """Recordings that are not files in the corpus's own folder."""
        return self.folder / "audio"

    @property
    def acoustic(self) -> Path:
        """Cache of the acoustic features."""
        return self.folder / "acoustic"

    @property
    def unlabelled(self) -> Path:
        """Utterances without a label, and the cache of their features."""
        return self.folder / "unlabelled"

    @property
    def teacher(self) -> Path:
        """The fine-tuned BERT."""
        return self.folder / "teacher"

    @property
    def teacher_work(self) -> Path:
        """Checkpoints of the teacher's training."""
        return self.folder / "teacher.work"

    @property
    def targets(self) -> Path:
        """Cache of the teacher's vectors."""
        return self.folder / "targets"

    @property
    def target_shares(self) -> Path:
        """How much intents explain of the teacher's vectors, and their hash."""
        return self.folder / "targets.json"

    @property
    def posteriors(self) -> Path:
        """Cache of the teacher's probabilities."""
        return self.folder / "posteriors"

    @property
    def transcripts(self) -> Path:
        """Transcripts of recognisers."""
        return self.folder / "transcripts"

    @property
    def baseline1(self) -> Path:
        """The teacher's intents for a recogniser's transcripts."""
        return self.folder / "baseline1"

    @property
    def robustness(self) -> Path:
        """Caches of the degraded test recordings, and predictions for them."""
        return self.folder / "robustness"

    @property
    def rejection(self) -> Path:
        """Cache of what is none of the intents, and how students reject it."""
        return self.folder / "rejection"

    def caches(self, kind: str) -> list[Path]:
        """The caches of a kind, which is one of `ALL_KINDS`."""
        if kind in _FOLDERS:
            home = self.folder / kind
            # Also where features are missing.
            named = [one.with_suffix("") for one in home.glob("*.digest")]
            return sorted({*home.glob("*/"), *named})
        return [self.folder / kind]

    def student(self, system: str, alpha: float | None) -> Path:
        """The folder of a student; α as it is written in params.yaml."""
        return self.folder / "student" / student_name(system, alpha)

    @property
    def results(self) -> Path:
        """The ledger: the scores of all students trained so far."""
        return self.folder / "results"

    def unfinished(self, name: str) -> Path:
        """Checkpoints of the training called `name`."""
        return self.folder / "unfinished" / name

    def link_shared(self) -> None:
        """Link what ALN_CACHE_DIR has into this cache, where nothing is yet.

        Raises:
            ConfigurationError: ALN_CACHE_DIR is not the absolute path of a folder.
        """
        if not (value := os.environ.get(SHARED_VARIABLE)):
            return
        shared = Path(value)
        if shared.is_absolute() and shared.resolve() == self.cache.resolve():
            return
        if not shared.is_absolute() or not shared.is_dir():
            raise ConfigurationError(
                f"{SHARED_VARIABLE} cannot be used",
                found=repr(value),
                expected="the absolute path of another repository's cache/",
                fix="correct it, or create the folder",
            )
        within = [
            f"{kind}/{one.name}"
            for kind in _FOLDERS
            for one in (shared / self.corpus / kind).glob("*/")
        ]
        for name in (*_SHARED, *within):
            here, there = self.folder / name, shared / self.corpus / name
            if here.exists():
                if here.resolve() != there.resolve():
                    log.warning("%s is used, not %s", here, there)
                continue
            there.mkdir(parents=True, exist_ok=True)
            here.parent.mkdir(parents=True, exist_ok=True)
            here.unlink(missing_ok=True)  # a broken link
            here.symlink_to(there)


def student_name(system: str, alpha: float | None) -> str:
    """The name of a student: `baseline2`, `aln-0.8`."""
    return system if alpha is None else f"{system}-{alpha}"
