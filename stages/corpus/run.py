"""The corpus stage: an adapter's rows become the manifest.

Reads a corpus root (or, for the demo, the phrases and voices in `data/demo/`); what is
not a file there, the demo's speech and embedded recordings, goes to `audio/`. Writes
`manifest.csv`, `intents.json` and `conditions.csv` (columns id and condition; without
rows where conditions are unknown); for ATIS also `unmatched.csv`, which no stage reads.
Later stages depend on the manifest alone: it carries the hash of every recording.
"""

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.core.files import atomic_path
from stages.core.manifest import SPLITS, write_manifest
from stages.corpus.atis import read_atis
from stages.corpus.datasets import Contents, read_datasets
from stages.corpus.demo import read_demo
from stages.corpus.fsc import read_fsc
from stages.corpus.lhotse import read_lhotse
from stages.corpus.params import CorpusParams
from stages.corpus.recordings import inspect_recordings
from stages.corpus.slurp import read_slurp
from stages.corpus.snips import read_snips
from stages.corpus.table import read_described
from stages.corpus.timers import read_timers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """A corpus as its release describes it.

    Attributes:
        table: path, split, speaker, text and intent of each recording, and as `where`
            what errors name, file and row; empty where the recordings were looked for.
        notes: what a person should know of how it came about.
        unmatched: recordings and labels that have no counterpart; None where both are
            one.
        contents: the recordings, which the stage has to put where the table says; None
            where they lie below the corpus root.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    unmatched: pd.DataFrame | None
    contents: Contents | None


@dataclass(frozen=True)
class Summary:
    """What the stage wrote, and the corpus's notes."""

    manifest: Path
    utterances: dict[str, int]
    intents: int
    hours: float
    unreadable: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        splits = ", ".join(f"{self.utterances[name]} {name}" for name in SPLITS)
        bad = f"; {self.unreadable} cannot be read, extraction sets them aside"
        return (
            f"{self.manifest}: {splits} utterances, {self.intents} intents, "
            f"{self.hours:.2f} hours" + bad * bool(self.unreadable)
        )


def run(
    params: CorpusParams, *, root: Path | None, data: Path, output: Path, workers: int
) -> Summary:
    """Write the manifest of the corpus.

    Args:
        params: which corpus.
        root: where it lies; None for the demo, which speaks its own recordings.
        data: the folder `data/` of the repository.
        output: the corpus's folder under `cache/`; recordings of `WRITES_AUDIO` go to
            `audio` there.
        workers: threads or synthesisers at once.

    Raises:
        ConfigurationError: a corpus root is needed and none was given.
        InputError: the corpus is incomplete or inconsistent; names file and row.
    """
    notes: tuple[str, ...] = ()
    if params.adapter == "demo":
        root = output / "audio"
        table, conditions = read_demo(params, data / "demo", root, workers)
    else:
        root = _checked_root(params, root)
        conditions = pd.DataFrame({"path": [], "condition": []}, dtype=str)
        corpus = read_corpus(params, root)
        table, notes = corpus.table, corpus.notes
        if corpus.unmatched is not None:
            with atomic_path(output / "unmatched.csv") as beside:
                corpus.unmatched.to_csv(beside, index=False, lineterminator="\n")
        if corpus.contents is not None:
            root = output / "audio"
            corpus.contents.put(root)
    table["path"] = [Path(path).as_posix() for path in table["path"]]
    table["id"] = _identifiers(params.name, table["path"])
    _check(root, table)
    _warn(table)
    recordings = inspect_recordings(
        root,
        list(table["path"]),
        output / "recordings.json",
        workers,
        on_error=params.on_error,
    )
    table["seconds"] = [one.seconds for one in recordings]
    table["audio_sha256"] = [one.sha256 for one in recordings]
    manifest = output / "manifest.csv"
    write_manifest(manifest, table)
    conditions = pd.DataFrame(
        {
            "id": _identifiers(params.name, conditions["path"]),
            "condition": conditions["condition"],
        }
    ).sort_values("id")
    with atomic_path(output / "conditions.csv") as beside:
        conditions.to_csv(beside, index=False, lineterminator="\n")
    return Summary(
        manifest,
        {name: int((table["split"] == name).sum()) for name in SPLITS},
        table["intent"].nunique(),
        float(table["seconds"].sum() / 3600),
        int((table["seconds"] == 0).sum()),
        notes,
    )


def read_corpus(params: CorpusParams, root: Path) -> Corpus:
    """A corpus that is given; no recording is decoded.

    Raises:
        InputError: the corpus is incomplete or inconsistent; names file and row.
    """
    notes: tuple[str, ...] = ()
    unmatched = contents = None
    match params.adapter:
        case "atis":
            joined = read_atis(
                root,
                labels=params.labels,
                joined_intents=params.joined_intents,
                least_utterances=params.least_utterances,
                repeats=params.repeats,
                microphones=params.microphones,
                seed=params.seed,
            )
            table, notes, unmatched = joined.table, joined.report, joined.unmatched
            if params.splits == "given":
                notes += joined.split_report
        case "datasets":
            table, contents = read_datasets(params, root)
        case "fsc":
            table = read_fsc(root)
        case "lhotse":
            table, notes = read_lhotse(params, root)
        case "slurp":
            table = read_slurp(
                root, recordings=params.recordings, synthetic=params.synthetic
            )
        case "timers":
            table = read_timers(
                root, train=params.train_speech, test=params.test_speech
            )
        case "snips":
            table = read_snips(root, field=params.field, fold=params.fold)
        case _:
            table = read_described(params, root)
    if params.splits != "given":
        # Not above: scikit-learn takes a second to import.
        from stages.corpus.splits import make_splits

        table = make_splits(
            table,
            params.splits,
            valid_share=params.valid_share,
            test_share=params.test_share,
            seed=params.seed,
        )
    if "where" not in table:
        table["where"] = ""
    return Corpus(table, notes, unmatched, contents)


def _checked_root(params: CorpusParams, root: Path | None) -> Path:
    if root is None:
        raise ConfigurationError(
            f"corpus {params.name!r} needs the folder of its recordings",
            fix="pass --root DIR or set ALN_CORPUS_ROOT",
        )
    if not root.is_dir():
        raise InputError(
            "no such corpus root",
            path=root,
            fix=f"pass --root DIR, set ALN_CORPUS_ROOT, or link the corpus to "
            f"data/{params.name}",
        )
    return root


def _check(root: Path, table: pd.DataFrame) -> None:
    """What holds of every corpus."""
    places = _places(table)
    for column, what, fix in (
        ("path", "the same recording stands in several rows", "keep one row of each"),
        (
            "id",
            "recordings that differ in suffix only have one id",
            "rename all but one",
        ),
    ):
        repeated = table[column].duplicated(keep=False)
        if repeated.any():
            same = table[column] == table[column][repeated].iloc[0]
            raise InputError(
                what,
                path=root,
                found=" and ".join(itertools.compress(places, same))
                + f"; {repeated.sum()} such rows in all",
                fix=fix,
            )
    absent = [
        place
        for place, path in zip(places, table["path"], strict=True)
        if not (root / path).is_file()
    ]
    if absent:
        raise InputError(
            f"{len(absent)} of {len(table)} recordings are not there",
            path=root,
            found=f"no {_listed(absent)}",
            fix="complete the corpus, or pass its folder with --root",
        )
    counts = table["split"].value_counts()
    for split in SPLITS:
        if split not in counts:
            raise InputError(
                f"no utterance in split {split!r}",
                path=root,
                found=", ".join(f"{size} {name}" for name, size in counts.items()),
                expected="some in each of train, valid and test",
                fix="set corpus.splits to make splits, or complete the corpus",
            )


def _places(table: pd.DataFrame) -> list[str]:
    """Each recording with the file and row that names it; the demo's have none."""
    return [
        f"{row.path} ({row.where})" if getattr(row, "where", "") else row.path
        for row in table.itertuples()
    ]


def _warn(table: pd.DataFrame) -> None:
    """Say what is no error, but not what one would wish for either."""
    table = table.assign(place=_places(table))
    known = table[table["speaker"] != ""]
    splits = known.groupby("speaker")["split"].agg(set)
    both = sorted(splits.index[[{"train", "test"} <= found for found in splits]])
    if both:
        firsts = known.groupby(["speaker", "split"])["place"].first()
        names = [
            f"{one}: {firsts[one, 'train']}, {firsts[one, 'test']}" for one in both
        ]
        log.warning(
            "%d speakers are in train and in test: %s", len(both), "; ".join(names[:3])
        )
    counts = table["intent"].value_counts()
    single = table[table["intent"].map(counts) == 1]
    if len(single):
        names = [f"{row.intent}: {row.place}" for row in single.itertuples()]
        log.warning(
            "%d intents have a single utterance: %s", len(single), _listed(names)
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + ", …" * (len(names) > 3)


def _identifiers(name: str, paths: pd.Series) -> list[str]:
    return [f"{name}/{Path(path).with_suffix('').as_posix()}" for path in paths]
