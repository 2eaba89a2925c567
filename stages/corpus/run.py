"""The corpus stage: an adapter reads a corpus, and its rows become the manifest.

Reads a corpus root. Writes `manifest.csv`, `intents.json`, `conditions.csv`,
`texts.csv` and their checksums (see `stages/core/manifest.py`), and recordings that are
not files in the root (spoken and embedded ones) to `audio/`. For ATIS it also writes
`unmatched.csv`, for the user only. Later stages depend on these tables alone; the
manifest has the hash of every recording.
"""

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.core.files import atomic_path
from stages.core.labels import INTENT, Labels
from stages.core.manifest import SPLITS, write_manifest
from stages.core.paths import missing_fix, path_on_disk, short_path
from stages.core.text import name_some
from stages.corpus.atis import read_atis
from stages.corpus.datasets import Contents, read_datasets
from stages.corpus.fsc import read_fsc
from stages.corpus.lhotse import read_lhotse
from stages.corpus.links import check_links
from stages.corpus.params import CorpusParams
from stages.corpus.phrases import Speech, read_phrases
from stages.corpus.recordings import inspect_recordings
from stages.corpus.slurp import read_slurp
from stages.corpus.snips import read_snips
from stages.corpus.table import read_described
from stages.corpus.texts import read_texts
from stages.corpus.timers import read_timers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """A corpus as an adapter reads it.

    Attributes:
        table: path, split, speaker, text and intent of each recording, and `where` it
            is listed, for messages (file and row; empty if the adapter found the files
            itself).
        notes: messages for the user.
        unmatched: recordings without labels, and labels without recordings; None if the
            corpus lists both together.
        contents: recordings to write to the table's paths, embedded or to be spoken;
            None if the recordings are files in the corpus root.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    unmatched: pd.DataFrame | None
    contents: Contents | Speech | None


@dataclass(frozen=True)
class Summary:
    """Counts of the manifest, and the notes of the adapter."""

    manifest: Path
    utterances: dict[str, int]
    intents: int
    kinds: str
    hours: float
    unreadable: int
    texts: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        splits = ", ".join(f"{self.utterances[name]} {name}" for name in SPLITS)
        line = (
            f"{self.manifest}: {splits} utterances, {self.intents} {self.kinds}, "
            f"{self.hours:.2f} hours"
        )
        if self.unreadable:
            line += f"; {self.unreadable} cannot be read, extraction sets them aside"
        if self.texts:
            line += f"; {self.texts} texts without recordings for train"
        return line


def run(
    params: CorpusParams, *, root: Path | None, output: Path, workers: int
) -> Summary:
    """Write the manifest of a corpus.

    Args:
        params: which corpus.
        root: the corpus root.
        output: the corpus's folder in `cache/`.
        workers: number of threads or parallel synthesisers.

    Raises:
        ConfigurationError: `root` is missing.
        InputError: the corpus is incomplete or inconsistent; names file and row.
    """
    root = _check_root(params, root)
    corpus = read_corpus(params, root)
    table = corpus.table
    texts = read_texts(params, root, table)
    if corpus.unmatched is not None:
        _write_csv(output / "unmatched.csv", corpus.unmatched)
    if corpus.contents is not None:
        root = output / "audio"
        corpus.contents.put(root, workers)
    table["path"] = [Path(path).as_posix() for path in table["path"]]
    table["id"] = [
        f"{params.name}/{Path(path).with_suffix('').as_posix()}"
        for path in table["path"]
    ]
    _check(root, table)
    _warn(table, params.slots)
    recordings = inspect_recordings(
        root,
        list(table["path"]),
        output / "recordings.json",
        workers,
        on_error=params.on_error,
    )
    table["seconds"] = [one.seconds for one in recordings]
    table["audio_sha256"] = [one.sha256 for one in recordings]
    _warn_of_copies(table)
    manifest = output / "manifest.csv"
    write_manifest(manifest, table, params.slots, texts)
    return Summary(
        manifest,
        {name: int((table["split"] == name).sum()) for name in SPLITS},
        table["intent"].nunique(),
        params.kinds,
        float(table["seconds"].sum() / 3600),
        int((table["seconds"] == 0).sum()),
        len(texts),
        corpus.notes,
    )


def read_corpus(params: CorpusParams, root: Path) -> Corpus:
    """Read a corpus with its adapter, and make new splits if `params` asks for them.

    Raises:
        InputError: the corpus is incomplete or inconsistent; names file and row.
    """
    check_links(params, root)
    notes: tuple[str, ...] = ()
    unmatched: pd.DataFrame | None = None
    contents: Contents | Speech | None = None
    match params.adapter:
        case "atis":
            table, notes, unmatched = read_atis(params, root)
        case "datasets":
            table, contents = read_datasets(params, root)
        case "fsc":
            table = read_fsc(params, root)
        case "lhotse":
            table, notes = read_lhotse(params, root)
        case "phrases":
            table, notes, contents = read_phrases(params, root)
        case "slurp":
            table = read_slurp(params, root)
        case "timers":
            table = read_timers(params, root)
        case "snips":
            table = read_snips(params, root)
        case _:
            table = read_described(params, root)
    if params.splits != "given":
        # Imported here, because scikit-learn takes a second to import.
        from stages.corpus.splits import make_splits

        table = make_splits(
            table,
            params.splits,
            valid_share=params.valid_share,
            test_share=params.test_share,
            seed=params.seed,
            slots=params.slots,
        )
    if "where" not in table:
        table["where"] = ""
    if contents is None:
        table["path"] = [path_on_disk(root, path) for path in table["path"]]
    _check_intents(root, table)
    return Corpus(table, notes, unmatched, contents)


def _check_root(params: CorpusParams, root: Path | None) -> Path:
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


def _check_intents(root: Path, table: pd.DataFrame) -> None:
    intents = table.loc[table["split"] == "train", "intent"].unique()
    if len(intents) == 1:
        raise InputError(
            f"train has a single intent, {intents[0]!r}",
            path=root,
            expected="two or more to choose from",
            fix="add utterances of other intents, or check which column is the intent",
        )


def _check(root: Path, table: pd.DataFrame) -> None:
    """Check that recordings exist and are unique, and that no split is empty."""
    places = _places(table)
    absent = [not os.path.isfile(root / path) for path in table["path"]]
    if any(absent):
        missing = list(itertools.compress(places, absent))
        raise InputError(
            f"{len(missing)} of {len(table)} recordings do not exist",
            path=root,
            found=f"no {name_some(missing)}",
            fix=missing_fix(table["path"][absent])
            or "complete the corpus, or pass its folder with --root",
        )
    for column, what, fix in (
        ("path", "several rows have the same recording", "keep one row of each"),
        (
            "id",
            "recordings whose names differ only in their suffix have one id",
            "rename all but one",
        ),
    ):
        repeated = table[column].duplicated(keep=False)
        if repeated.any():
            same = table[column] == table[column][repeated].iloc[0]
            raise InputError(
                what,
                path=root,
                found=name_some(list(itertools.compress(places, same)))
                + f"; {repeated.sum()} such rows in all",
                fix=fix,
            )
    counts = table["split"].value_counts()
    for split in SPLITS:
        if split not in counts:
            raise InputError(
                f"no utterance in split {split!r}",
                path=root,
                found=", ".join(f"{size} {name}" for name, size in counts.items()),
                expected="utterances in each of train, valid and test",
                fix="set corpus.splits to make new splits, or complete the corpus",
            )


def _places(table: pd.DataFrame) -> list[str]:
    """Each recording, with the file and row that list it if known."""
    return [
        short_path(row.path) + (f" ({row.where})" if getattr(row, "where", "") else "")
        for row in table.itertuples()
    ]


def _warn(table: pd.DataFrame, slots: Sequence[str]) -> None:
    """Warn about speakers in both train and test, and labels with one utterance."""
    table = table.assign(place=_places(table))
    known = table[table["speaker"] != ""]
    firsts = known.groupby(["speaker", "split"])["place"].first().unstack()
    both = firsts.reindex(columns=["train", "test"]).dropna()
    if len(both):
        names = [
            f"{row.Index}: {row.train} and {row.test}" for row in both.itertuples()
        ]
        log.warning(
            "%d speakers are in train and in test: %s", len(both), name_some(names)
        )
    for slot, values in (
        Labels.of(table["intent"], slots).values(table["intent"]).items()
    ):
        column = pd.Series(values, table.index)
        single = column[~column.duplicated(keep=False)]
        if len(single):
            names = [f"{one}: {table['place'][row]}" for row, one in single.items()]
            what = "intents" if slot == INTENT else f"values of {slot}"
            log.warning(
                "%d %s have a single utterance: %s", len(single), what, name_some(names)
            )


def _warn_of_copies(table: pd.DataFrame) -> None:
    """Warn about files with the same bytes but two intents, or in train and test."""
    table = table.assign(place=_places(table))
    copied = table["audio_sha256"].duplicated(keep=False) & (table["seconds"] > 0)
    labels, leaks = [], []
    for _, same in table[copied].groupby("audio_sha256"):
        places = same.drop_duplicates("intent").set_index("intent")["place"]
        if len(places) > 1:
            names = [f"{intent}: {place}" for intent, place in places.items()]
            labels.append(" and ".join(names))
        places = same.drop_duplicates("split").set_index("split")["place"]
        if {"train", "test"} <= {*places.index}:
            leaks.append(f"{places['train']} and {places['test']}")
    if labels:
        log.warning(
            "%d recordings have a copy with another intent: %s",
            len(labels),
            name_some(labels),
        )
    if leaks:
        log.warning(
            "%d recordings of train have a copy in test: %s",
            len(leaks),
            name_some(leaks),
        )


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
