"""The utterance table, `manifest.csv`, and the list of intents beside it.

Columns, one row an utterance, sorted by id:

    id            `<corpus>/<relative path without suffix>`, unique over all splits
    path          audio file, relative to the corpus root, with forward slashes
    split         train, valid or test
    speaker       who speaks
    text          what is said
    intent        its label
    seconds       duration; 0 where the file cannot be read
    audio_sha256  hash of the audio file's bytes

`intents.json` is the sorted list of the train split's intents; an intent's place in
it is its class number. Neither file holds a time or an absolute path.

`quarantine.csv`, which extraction writes, names the recordings that were set aside:
id, path, audio_sha256 and reason. Later stages read the manifest without them.
"""

import json
from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.files import atomic_path, write_json

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


def write_manifest(path: Path, table: pd.DataFrame) -> None:
    """Check `table` and write it, sorted by id, with `intents.json` beside it.

    Raises:
        InputError: as `check_manifest`.
    """
    table = table.loc[:, list(COLUMNS)].sort_values("id", ignore_index=True)
    check_manifest(path, table)
    with atomic_path(path) as beside:
        table.to_csv(beside, index=False, float_format="%.4f", lineterminator="\n")
    intents = sorted(table.loc[table["split"] == "train", "intent"].unique())
    write_json(path.with_name("intents.json"), intents)


def read_manifest(path: Path, *, quarantine: Path | None = None) -> pd.DataFrame:
    """The table in `path`, columns as `COLUMNS`, every text column a `str`.

    Args:
        path: the manifest.
        quarantine: the list of recordings whose rows are left out, as by `without`.

    Raises:
        InputError: a file is missing or not what it should be.
    """
    if not path.is_file():
        raise InputError(
            "no manifest there", path=path, fix="run `aln-pipeline prepare-corpus`"
        )
    text_columns = {name: str for name in COLUMNS if name != "seconds"}
    try:
        table = pd.read_csv(
            path, dtype={**text_columns, "seconds": float}, keep_default_na=False
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(
            f"not a readable manifest ({error})",
            path=path,
            fix="run `aln-pipeline prepare-corpus`",
        ) from error
    if tuple(table.columns) != COLUMNS:
        raise InputError(
            "not a manifest",
            path=path,
            found=f"columns {', '.join(table.columns)}",
            expected=", ".join(COLUMNS),
            fix="run `aln-pipeline prepare-corpus`",
        )
    return table if quarantine is None else without(table, read_quarantine(quarantine))


def without(table: pd.DataFrame, bad: pd.DataFrame) -> pd.DataFrame:
    """A manifest's `table` but for the rows that `bad`, a quarantine's table, names.

    A row whose bytes have changed since is not left out.
    """
    names = set(zip(bad["id"], bad["audio_sha256"], strict=True))
    rows = zip(table["id"], table["audio_sha256"], strict=True)
    return table.loc[[row not in names for row in rows]].reset_index(drop=True)


def write_quarantine(path: Path, table: pd.DataFrame) -> None:
    """Write the recordings set aside, columns as `QUARANTINE_COLUMNS`, sorted by id."""
    table = table.loc[:, list(QUARANTINE_COLUMNS)].sort_values("id")
    with atomic_path(path) as beside:
        table.to_csv(beside, index=False, lineterminator="\n")


def read_quarantine(path: Path) -> pd.DataFrame:
    """The recordings that extraction set aside, columns as `QUARANTINE_COLUMNS`.

    Raises:
        InputError: the file is missing or not such a list.
    """
    fix = "run `aln-pipeline extract-acoustic`"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(
            "no list of the recordings set aside", path=path, fix=fix
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"not a readable table ({error})", path=path, fix=fix) from (
            error
        )
    if tuple(table.columns) != QUARANTINE_COLUMNS:
        raise InputError(
            "not a list of recordings set aside",
            path=path,
            found=f"columns {', '.join(table.columns)}",
            expected=", ".join(QUARANTINE_COLUMNS),
            fix=fix,
        )
    return table


def read_intents(path: Path) -> list[str]:
    """The sorted intents in `intents.json`; an intent's index is its class number.

    Raises:
        InputError: the file is missing or not a JSON list of strings.
    """
    try:
        intents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "no list of intents there",
            path=path,
            fix="run `aln-pipeline prepare-corpus`",
        ) from None
    except ValueError as error:
        raise InputError(f"not JSON ({error})", path=path) from error
    if not isinstance(intents, list) or not all(isinstance(i, str) for i in intents):
        raise InputError("not a list of intents", path=path)
    return intents


def usable_rows(path: Path, table: pd.DataFrame, bad: pd.DataFrame) -> pd.DataFrame:
    """The rows that can be learnt from and measured: `table`'s but for those set aside.

    Args:
        path: the manifest, for messages.
        table: its rows.
        bad: those that extraction set aside, as `read_quarantine` gives them.

    Raises:
        InputError: as `check_manifest`, of what is left.
    """
    left = without(table, bad)
    check_manifest(path, left, set_aside=len(table) - len(left))
    return left


def check_manifest(path: Path, table: pd.DataFrame, *, set_aside: int = 0) -> None:
    """Hold `table` against what every later stage relies on.

    Args:
        path: the manifest, for messages.
        table: its rows.
        set_aside: how many rows of it a quarantine left out of `table`.

    Raises:
        InputError: duplicate ids, an unknown split, a split without utterances, or an
            intent that stands only in valid or test; names file and row, and whether
            recordings that were set aside are missed.
    """
    left = f" (recordings set aside: {set_aside})" if set_aside else ""
    mend = "mend the recordings that quarantine.csv names, or " if set_aside else ""
    for identifier in table["id"][table["id"].duplicated()]:
        raise InputError(f"duplicate id {identifier!r}", path=path)
    unknown = table[~table["split"].isin(SPLITS)]
    for row in unknown.itertuples():
        raise InputError(
            f"unknown split of {row.id}",
            path=path,
            found=repr(row.split),
            expected=", ".join(SPLITS),
        )
    for split in SPLITS:
        if not (table["split"] == split).any():
            raise InputError(
                f"no utterance in split {split!r}{left}",
                path=path,
                fix=f"{mend}put utterances into that split",
            )
    trained = set(table.loc[table["split"] == "train", "intent"])
    for row in table[~table["intent"].isin(trained)].itertuples():
        # Without the rows that were set aside, places are no longer those of the file.
        name = row.id if set_aside else f"row {row.Index + 2} ({row.id})"
        raise InputError(
            f"{name} has intent {row.intent!r}, which no train utterance has{left}",
            path=path,
            fix=f"{mend}move an utterance of that intent to train or drop the row",
        )
