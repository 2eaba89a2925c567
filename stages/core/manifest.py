"""The utterance table `manifest.csv` and the list of intents `intents.json`.

Columns of the manifest, one row per utterance, sorted by id:

    id            `<corpus>/<relative path without suffix>`, unique
    path          audio file, relative to the corpus root, with forward slashes
    split         train, valid or test
    speaker       name of the speaker
    text          transcript
    intent        label; in a corpus with slots their values, joined by `|`
    seconds       duration; 0 if the file cannot be read
    audio_sha256  hash of the audio file

`intents.json` has the labels of train, see `stages/core/labels.py`: the sorted intents,
or the sorted values of each slot. `conditions.csv` has the columns id and condition:
how a recording was made, where that is known. `texts.csv` has the columns text and
intent: sentences without recordings, for train. No file contains a time or an absolute
path.

`quarantine.csv`, which extract-acoustic writes, lists the recordings that it set aside:
id, path, audio_sha256 and reason. Later stages read the manifest without them.

`corpus.sha256` has the checksums of the first four, `quarantine.sha256` that of the
last. They are checked whenever one of these is read.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from stages.core.checksums import check_sum, write_sums
from stages.core.errors import InputError
from stages.core.files import atomic_path, write_json
from stages.core.labels import Labels
from stages.core.results import require
from stages.core.text import normalise_text

COLUMNS = (
    "id",
    "path",
    "split",
    "speaker",
    "text",
    "intent",
    "seconds",
    "audio_sha256",
)
SPLITS = ("train", "valid", "test")
QUARANTINE_COLUMNS = ("id", "path", "audio_sha256", "reason")
CONDITION_COLUMNS = ("id", "condition")
TEXT_COLUMNS = ("text", "intent")
CORPUS_SUMS, QUARANTINE_SUMS = "corpus.sha256", "quarantine.sha256"
_PREPARE = "run `aln-pipeline prepare-corpus`"
_EXTRACT = "run `aln-pipeline extract-acoustic`"


def write_manifest(
    path: Path,
    table: pd.DataFrame,
    slots: Sequence[str] = (),
    texts: pd.DataFrame | None = None,
) -> None:
    """Check `table` and write it, sorted by id, and the files that go with it.

    Args:
        path: the manifest.
        table: columns `COLUMNS` and, where it is known, condition.
        slots: of the corpus, if it names any.
        texts: checked sentences without recordings, with `TEXT_COLUMNS`, if any.

    Raises:
        InputError: an id is not unique, a split is unknown or empty, or an intent or
            the value of a slot is not in train; names the file and the row.
    """
    table = table.sort_values("id", ignore_index=True)
    train = table.loc[table["split"] == "train", "intent"]
    labels = Labels.of(train, slots)
    _check(path, table, labels)
    _write_table(path, table, COLUMNS)
    write_json(path.with_name("intents.json"), labels.to_json())
    known = table.reindex(columns=list(CONDITION_COLUMNS)).dropna()
    _write_table(path.with_name("conditions.csv"), known, CONDITION_COLUMNS)
    if texts is None:
        texts = pd.DataFrame(columns=list(TEXT_COLUMNS))
    _write_table(path.with_name("texts.csv"), texts, TEXT_COLUMNS)
    names = (path.name, "intents.json", "conditions.csv", "texts.csv")
    write_sums(path.with_name(CORPUS_SUMS), names)


def read_manifest(path: Path) -> pd.DataFrame:
    """The manifest with `COLUMNS`: seconds as float, all others as str.

    Raises:
        InputError: the file is missing or has changed.
    """
    return _read_table(path, COLUMNS, CORPUS_SUMS, _PREPARE)


def read_conditions(path: Path) -> pd.DataFrame:
    """How recordings were made: columns id and condition; empty if that is not known.

    Raises:
        InputError: the file is missing or has changed.
    """
    return _read_table(path, CONDITION_COLUMNS, CORPUS_SUMS, _PREPARE)


def read_texts(path: Path) -> pd.DataFrame:
    """The sentences without recordings: columns text and intent.

    Raises:
        InputError: the file is missing or has changed.
    """
    return _read_table(path, TEXT_COLUMNS, CORPUS_SUMS, _PREPARE)


def read_train(manifest: Path, texts: Path) -> pd.DataFrame:
    """Text and intent of all that a text model learns from, an utterance each.

    These are the utterances of train and the sentences without recordings.

    Raises:
        InputError: a file is missing or has changed.
    """
    table = read_manifest(manifest)
    spoken = table.loc[table["split"] == "train", list(TEXT_COLUMNS)]
    return pd.concat([spoken, read_texts(texts)], ignore_index=True)


def read_all_texts(manifest: Path, texts: Path, unlabelled: Path) -> list[str]:
    """The distinct texts of the three tables, normalised and sorted.

    The last one is missing where its stage did not run.

    Raises:
        CacheError: the result with `unlabelled` is damaged.
        InputError: a file is missing or has changed.
    """
    every = [*read_manifest(manifest)["text"], *read_texts(texts)["text"]]
    if unlabelled.exists():
        require(unlabelled.parent, {}, fix="run `aln-pipeline unlabelled`")
        table = pd.read_csv(unlabelled, dtype=str, keep_default_na=False)
        every += [*table["text"]]
    return sorted({normalise_text(text) for text in every})


def read_usable(manifest: Path, quarantine: Path) -> pd.DataFrame:
    """The manifest without the quarantined recordings.

    A recording that has changed since it was quarantined stays in.

    Raises:
        InputError: a file is missing or has changed; or as `write_manifest`, checked
            without the quarantined rows.
    """
    table, bad = read_manifest(manifest), read_quarantine(quarantine)
    names = set(zip(bad["id"], bad["audio_sha256"], strict=True))
    rows = zip(table["id"], table["audio_sha256"], strict=True)
    usable = table.loc[[row not in names for row in rows]].reset_index(drop=True)
    labels = read_labels(manifest.with_name("intents.json"))
    _check(manifest, usable, labels, quarantined=len(table) - len(usable))
    return usable


def write_quarantine(path: Path, table: pd.DataFrame) -> None:
    """Write the quarantined recordings, with `QUARANTINE_COLUMNS`, sorted by id."""
    _write_table(path, table.sort_values("id"), QUARANTINE_COLUMNS)
    write_sums(path.with_name(QUARANTINE_SUMS), [path.name])


def read_quarantine(path: Path) -> pd.DataFrame:
    """The quarantined recordings, with `QUARANTINE_COLUMNS`, all str.

    Raises:
        InputError: the file is missing or has changed.
    """
    return _read_table(path, QUARANTINE_COLUMNS, QUARANTINE_SUMS, _EXTRACT)


def read_labels(path: Path) -> Labels:
    """The labels in `intents.json`.

    Raises:
        InputError: the file is missing or has changed.
    """
    check_sum(path, CORPUS_SUMS, fix=_PREPARE)
    return Labels.from_json(json.loads(path.read_text(encoding="utf-8")))


def _write_table(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(
            temporary,
            columns=list(columns),
            index=False,
            float_format="%.4f",
            lineterminator="\n",
        )


def _read_table(
    path: Path, columns: tuple[str, ...], sums: str, fix: str
) -> pd.DataFrame:
    """A CSV file with exactly these columns: seconds as float, all others as str."""
    check_sum(path, sums, fix=fix)
    types = {name: float if name == "seconds" else str for name in columns}
    return pd.read_csv(path, dtype=types, keep_default_na=False)


def check_columns(
    path: Path, table: pd.DataFrame, columns: tuple[str, ...], fix: str | None = None
) -> None:
    """Check that the table in `path` has exactly these columns.

    Raises:
        InputError: it has others.
    """
    if tuple(table.columns) != columns:
        raise InputError(
            "has other columns",
            path=path,
            found=", ".join(table.columns),
            expected=", ".join(columns),
            fix=fix,
        )


def _check(
    path: Path, table: pd.DataFrame, labels: Labels, *, quarantined: int = 0
) -> None:
    """Check what every later stage relies on.

    Args:
        path: the manifest, for messages.
        table: its rows.
        labels: of the corpus.
        quarantined: number of rows left out of `table`.
    """
    note = f" ({quarantined} recordings are quarantined)" if quarantined else ""
    repair = "repair the recordings in quarantine.csv, or " if quarantined else ""
    for id in table["id"][table["id"].duplicated()]:
        raise InputError(f"duplicate id {id!r}", path=path)
    for row in table[~table["split"].isin(SPLITS)].itertuples():
        raise InputError(
            f"unknown split of {row.id}",
            path=path,
            found=repr(row.split),
            expected=", ".join(SPLITS),
        )
    for split in SPLITS:
        if not (table["split"] == split).any():
            raise InputError(
                f"no utterance in split {split!r}{note}",
                path=path,
                fix=f"{repair}add utterances to that split",
            )
    in_train = table["split"] == "train"
    for place, slot, value in labels.untrained(table["intent"], in_train):
        id = table["id"].iloc[place]
        # Without quarantined rows, the place is not the row in the file.
        name = id if quarantined else f"row {place + 2} ({id})"
        raise InputError(
            f"{name} has {slot} {value!r}, which no train utterance has{note}",
            path=path,
            fix=f"{repair}move an utterance of that {slot} to train, or drop the row",
        )
    trained = table["intent"][in_train].unique()
    if quarantined and len(trained) == 1:
        raise InputError(
            f"all utterances of train have one intent{note}",
            path=path,
            found=repr(trained[0]),
            fix=f"{repair}add utterances of another intent",
        )
