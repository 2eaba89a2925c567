"""A directory that Hugging Face's datasets saved (`save_to_disk`), read through it.

The corpus root is the directory itself, of a `DatasetDict` or of a `Dataset`. Columns
are named as for a table; `corpus.path_column` is the audio: bytes, as `save_to_disk`
embeds them, or paths, absolute or relative to the directory. Classes (`ClassLabel`)
become their names.

Nothing is decoded here. The pipeline reads files, so the stage puts embedded bytes,
just as they are, into `audio/` in the corpus's cache, and links there to the files that
paths name. A file is called by its part, its own name and the hash of its bytes (of a
path, of the path): it stays what it was when rows come, go or change places, and is
not written again.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.core.files import atomic_path
from stages.core.hashing import hash_bytes
from stages.core.runtime import progress
from stages.corpus.params import CorpusParams
from stages.corpus.part import split_of_parts
from stages.corpus.table import (
    as_text,
    check_columns,
    check_intents,
    checked_rows,
    path_from_root,
)

_BATCH = 64


@dataclass(frozen=True)
class Contents:
    """Recordings of a directory, each to be put at a path.

    Attributes:
        embedded: of those that are bytes: path, and of what part, row and size.
        files: of those that are files: path, and where it is.
        audio: for each part, its table with the column of the audio alone.
    """

    embedded: dict[str, tuple[str, int, int]]
    files: dict[str, Path]
    audio: dict[str, Any]

    def put(self, folder: Path) -> None:
        """Write and link below `folder` what is not there yet."""
        for path, file in self.files.items():
            _link(folder / path, file)
        absent: dict[str, dict[int, str]] = defaultdict(dict)
        for path, (part, number, size) in self.embedded.items():
            # The name has the bytes' hash; the size tells of a write cut short.
            if not _has_size(folder / path, size):
                absent[part][number] = path
        for part, rows in absent.items():
            (column,) = self.audio[part].column_names
            chosen = self.audio[part].select(list(rows))
            values = (row[column]["bytes"] for row in _rows(chosen))
            for path, content in progress(
                zip(rows.values(), values, strict=True),
                total=len(rows),
                description="writing recordings",
                unit="file",
            ):
                with atomic_path(folder / path, flush=False) as beside:
                    beside.write_bytes(content)


def read_datasets(params: CorpusParams, root: Path) -> tuple[pd.DataFrame, Contents]:
    """Rows for the manifest, their paths being those at which to put the recordings.

    Raises:
        ConfigurationError: datasets is not installed, or `corpus.parts` cannot be used.
        InputError: `root` is no such directory, a part or column is missing or of
            another kind, an empty field, an unknown split, an absent file, a path
            outside the root, or an intent that no train row has; names the part and the
            row, from 0 as in datasets itself.
    """
    contents = Contents({}, {}, {})
    given = params.splits == "given"
    tables = []
    trained: set[str] = set()
    for part, (split, dataset) in _load(params, root).items():
        rows = _described(params, root / part, split, dataset)
        audio = dataset.select_columns([params.path_column])
        contents.audio[part] = audio
        rows["path"] = [
            _place(contents, params, root, part, number, row[params.path_column])
            for number, row in enumerate(_rows(audio))
        ]
        rows = checked_rows(root / part, rows, root=root, first=0, splits=given)
        if given:
            trained |= set(rows.loc[rows["split"] == "train", "intent"])
            check_intents(root / part, rows, trained, first=0)
        tables.append(rows)
    return pd.concat(tables, ignore_index=True), contents


def _load(params: CorpusParams, root: Path) -> dict[str, tuple[str, Any]]:
    """Each part's split and table; a directory without parts has one, called nothing.

    The split is empty where a column has it or splits are made.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigurationError(
            "reading a directory of datasets needs another package",
            path=root,
            fix="pip install -e '.[datasets]'",
        ) from None
    try:
        loaded = datasets.load_from_disk(str(root))
    # Of datasets, of pyarrow, of JSON.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"not a directory that save_to_disk of datasets wrote ({reason})",
            path=root,
            fix="pass that directory with --root, or link it there",
        ) from error
    if not isinstance(loaded, dict):
        return {"": ("", loaded)}
    splits = split_of_parts(params)
    for part in splits:
        if part not in loaded:
            raise InputError(
                f"no part {part!r}",
                path=root,
                found=", ".join(loaded),
                fix="set corpus.parts to what train, valid and test are called, or "
                "corpus.splits to make splits from the parts named there",
            )
    return {part: (split, loaded[part]) for part, split in splits.items()}


def _described(
    params: CorpusParams, where: Path, split: str, dataset: Any
) -> pd.DataFrame:
    """A part's rows for the manifest but for the paths, which are empty."""
    columns = {"text": params.text_column, "intent": params.intent_column}
    if params.splits == "given" and not split:
        columns["split"] = params.split_column
    if params.speaker_column:
        columns["speaker"] = params.speaker_column
    check_columns(
        where,
        pd.DataFrame(columns=dataset.column_names),
        [params.path_column, *columns.values()],
        fix="name the columns in section corpus of params.yaml",
    )
    kind = dataset.features[params.path_column]
    is_path = getattr(kind, "dtype", "") in ("string", "large_string")
    if not is_path and type(kind).__name__ != "Audio":
        raise InputError(
            f"column {params.path_column!r} is no audio",
            path=where,
            found=kind,
            expected="Audio, or paths as strings",
        )
    fields = {ours: _texts(dataset, theirs) for ours, theirs in columns.items()}
    rows = pd.DataFrame({"path": "", "split": split, "speaker": "", **fields})
    return rows[["path", "split", "speaker", "text", "intent"]].astype(str)


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """Rows as they are stored: audio not decoded, classes as numbers."""
    for batch in dataset.with_format("arrow").iter(_BATCH):
        yield from batch.to_pylist()


def _texts(dataset: Any, column: str) -> list[str]:
    """A column as texts; nothing, and a class that is none, as an empty one."""
    kind = dataset.features[column]
    names = getattr(kind, "names", None)
    values = [row[column] for row in _rows(dataset.select_columns([column]))]
    if names is None:
        return [as_text(value) for value in values]
    return ["" if value is None or value < 0 else names[value] for value in values]


def _place(
    contents: Contents,
    params: CorpusParams,
    root: Path,
    part: str,
    number: int,
    value: Any,
) -> str:
    """Add a recording, a path or what Audio stores, to `contents`; where it is put.

    Empty if there is none.
    """
    given = value.get("path") if isinstance(value, dict) else value
    content = value.get("bytes") if isinstance(value, dict) else None
    if content:
        path = _path(part, given or "", content)
        contents.embedded[path] = part, number, len(content)
        return path
    if not given:
        return ""
    outside = params.outside_paths
    file = root / path_from_root(root, root / part, number, given, outside=outside)
    if not file.is_file():
        raise InputError(
            f"row {number} names a recording that is not there",
            path=root / part,
            found=repr(given),
            expected="a file, by an absolute path or one relative to the directory",
        )
    path = _path(part, given, given.encode())
    contents.files[path] = file.resolve()
    return path


def _path(part: str, given: str, key: bytes) -> str:
    """Where a recording is put that was called `given`."""
    name = PurePosixPath(given)
    stem = re.sub(r"[^\w-]+", "-", name.stem)
    # Without a suffix a manifest's ids would lose what follows a full stop.
    suffix = name.suffix if re.fullmatch(r"\.\w+", name.suffix) else ".audio"
    file = "-".join(filter(None, (stem, hash_bytes(key)[:12]))) + suffix
    return f"{part}/{file}" if part else file


def _has_size(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except OSError:
        return False


def _link(link: Path, file: Path) -> None:
    if link.is_symlink() and os.readlink(link) == str(file):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(file)
