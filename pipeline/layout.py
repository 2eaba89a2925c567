"""Where everything lies. Only this module knows; stages are told.

    cache/<corpus>/manifest.csv, intents.json, conditions.csv   the corpus
                   audio/                        recordings spoken or unpacked here
                   acoustic/, acoustic.digest    features of the recordings
                   quarantine.csv                recordings set aside
                   teacher/                      the fine-tuned BERT
                   teacher.work/                 one whose training was interrupted
                   targets/, targets.digest      its vectors of the texts
                   transcripts/                  what recognisers heard
                   baseline1/                    the teacher's intents of that
                   student/<system>[-<alpha>]/   a student
                   robustness/<condition>/, .digest, predictions.csv
                                                 test spoilt, and the predictions
                   results/                      what each trained student came to
                   unfinished/<student>/         what a killed training goes on from
    report/                                      the report, which git keeps

Paths are relative to the repository, in which every command runs. The environment
variable ALN_CACHE_DIR names another repository's `cache/` by its absolute path: a copy
of the repository, such as DVC makes for `dvc exp run --temp`, then links what is dear
and known by its content from there instead of computing it anew.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from stages.core.corpus_files import CorpusFiles
from stages.core.errors import ConfigurationError

log = logging.getLogger(__name__)

SHARED_VARIABLE = "ALN_CACHE_DIR"
KINDS = ("acoustic", "targets")
ALL_KINDS = (*KINDS, "robustness")
_SHARED = ("audio", "results", "transcripts", *KINDS)


@dataclass(frozen=True)
class Layout:
    """The paths of one corpus.

    Attributes:
        corpus: its name.
        cache: the folder of all that can be computed again.
        data: the folder of all that was given.
        report: the folder of the report.
    """

    corpus: str
    cache: Path = Path("cache")
    data: Path = Path("data")
    report: Path = Path("report")

    @property
    def folder(self) -> Path:
        """All that is computed from the corpus."""
        return self.cache / self.corpus

    @property
    def corpus_files(self) -> CorpusFiles:
        """The tables of the corpus."""
        return CorpusFiles(self.folder)

    @property
    def manifest(self) -> Path:
        """The utterance table."""
        return self.folder / "manifest.csv"

    @property
    def intents(self) -> Path:
        """The list of intents."""
        return self.folder / "intents.json"

    @property
    def audio(self) -> Path:
        """Recordings of a corpus that are not files in its own folder."""
        return self.folder / "audio"

    @property
    def acoustic(self) -> Path:
        """Parts of the cache of acoustic features."""
        return self.folder / "acoustic"

    @property
    def acoustic_digest(self) -> Path:
        """What the acoustic features of this corpus are."""
        return self.folder / "acoustic.digest"

    @property
    def quarantine(self) -> Path:
        """The recordings that extraction set aside."""
        return self.folder / "quarantine.csv"

    @property
    def teacher(self) -> Path:
        """The fine-tuned BERT."""
        return self.folder / "teacher"

    @property
    def teacher_work(self) -> Path:
        """What a training of it that was interrupted left."""
        return self.folder / "teacher.work"

    @property
    def targets(self) -> Path:
        """Parts of the cache of the teacher's vectors."""
        return self.folder / "targets"

    @property
    def targets_digest(self) -> Path:
        """What the targets of this corpus are."""
        return self.folder / "targets.digest"

    @property
    def transcripts(self) -> Path:
        """What recognisers heard in the recordings."""
        return self.folder / "transcripts"

    @property
    def baseline1(self) -> Path:
        """The teacher's intents of what a recogniser heard."""
        return self.folder / "baseline1"

    def caches(self, kind: str) -> list[tuple[Path, Path]]:
        """Parts and digest of every cache of a kind, of `KINDS` or robustness."""
        if kind != "robustness":
            return [self.features(kind)]
        folders = sorted(self.robustness.glob("*/"))
        return [(one, one.with_name(f"{one.name}.digest")) for one in folders]

    def features(self, kind: str) -> tuple[Path, Path]:
        """Parts and digest of one of `KINDS`."""
        return {
            "acoustic": (self.acoustic, self.acoustic_digest),
            "targets": (self.targets, self.targets_digest),
        }[kind]

    @property
    def robustness(self) -> Path:
        """Features of test under each condition, and the predictions from them."""
        return self.folder / "robustness"

    def student(self, system: str, alpha: float | None) -> Path:
        """The folder of a student; α as it is written in params.yaml."""
        return self.folder / "student" / student_name(system, alpha)

    @property
    def results(self) -> Path:
        """The ledger: what each student that was trained came to."""
        return self.folder / "results"

    def unfinished(self, name: str) -> Path:
        """What the training called `name` goes on from if it was killed."""
        return self.folder / "unfinished" / name

    def link_shared(self) -> None:
        """Link what ALN_CACHE_DIR has into this cache, where nothing is yet.

        Raises:
            ConfigurationError: ALN_CACHE_DIR is not the absolute path of a folder.
        """
        if not (value := os.environ.get(SHARED_VARIABLE)):
            return
        if not Path(value).is_absolute():
            raise ConfigurationError(
                f"{SHARED_VARIABLE} must be an absolute path", found=repr(value)
            )
        if Path(value).resolve() == self.cache.resolve():
            return
        if not Path(value).is_dir():
            raise ConfigurationError(
                f"{SHARED_VARIABLE} names no folder",
                found=repr(value),
                expected="another repository's cache/",
                fix="correct it, or create the folder",
            )
        conditions = Path(value, self.corpus, "robustness").glob("*/")
        for name in (*_SHARED, *(f"robustness/{one.name}" for one in conditions)):
            here, there = self.folder / name, Path(value, self.corpus, name)
            if here.exists():
                if here.resolve() != there.resolve():
                    log.warning("%s is used, not %s", here, there)
                continue
            there.mkdir(parents=True, exist_ok=True)
            here.parent.mkdir(parents=True, exist_ok=True)
            here.unlink(missing_ok=True)  # a link that leads nowhere
            here.symlink_to(there)


def student_name(system: str, alpha: float | None) -> str:
    """What a student is called: `baseline2`, `aln-0.8`."""
    return system if alpha is None else f"{system}-{alpha}"
