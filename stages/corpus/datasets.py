"""A directory that `save_to_disk` of Hugging Face's datasets wrote, read with datasets.

The corpus root is the directory itself, of a `DatasetDict` or of a `Dataset`. Columns
are named as for a table; `corpus.path_column` is the audio: bytes, as `save_to_disk`
embeds them, or paths, absolute or relative to the directory. Classes (`ClassLabel`)
become their names.

Nothing is decoded here. The pipeline reads files, so the stage writes embedded bytes
unchanged to `audio/` in the corpus's cache, and links files that paths name from there.
The name of a file is its part, its own name and the hash of its bytes (of a path, the
hash of the path). So it does not change when rows are added, removed or reordered, and
the file is not written again.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from stages.core.errors import InputError, needs_extra
from stages.core.files import atomic_path
from stages.core.hashing import hash_bytes, hash_file
from stages.core.json_lines import as_text
from stages.core.paths import missing_fix, path_on_disk, short_path
from stages.core.runtime import progress
from stages.corpus.params import CorpusParams
from stages.corpus.rows import (
    check_columns,
    checked_rows,
    joined_rows,
    path_from_root,
    split_of_parts,
)

_BATCH = 64


@dataclass(frozen=True)
class Contents:
    """The recordings of a directory, by the path to write or link them to.

    Attributes:
        embedded: part, row and SHA-256 of each recording that is bytes.
        files: location of each recording that is a file.
        audio: for each part, its table with the column of the audio alone.
    """

    embedded: dict[str, tuple[str, int, str]]
    files: dict[str, Path]
    audio: dict[str, Any]

    def put(self, folder: Path, workers: int) -> None:
        """Write and link the recordings that `folder` does not have yet."""
        for path, file in self.files.items():
            _link(folder / path, file)
        absent: dict[str, dict[int, str]] = defaultdict(dict)
        for path, (part, number, digest) in self.embedded.items():
            file = folder / path
            if not file.is_file() or hash_file(file) != digest:
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
                with atomic_path(folder / path, flush=False) as temporary:
                    temporary.write_bytes(content)


def read_datasets(params: CorpusParams, root: Path) -> tuple[pd.DataFrame, Contents]:
    """Rows for the manifest, and the recordings to put at their paths.

    Raises:
        ConfigurationError: datasets is not installed.
        InputError: `root` is not such a directory, a part, column or file is missing,
            or a row is invalid; names the part and the row, from 0 as in datasets.
    """
    contents = Contents({}, {}, {})
    tables = []
    for part, (split, dataset) in _load(params, root).items():
        rows, audio = _described(params, root / part, split, dataset)
        contents.audio[part] = audio
        rows["path"] = [
            _add(contents, params, root, part, (number, *row.values()))
            for number, row in enumerate(_rows(audio))
        ]
        tables.append(checked_rows(params, root, root / part, rows, first=0))
    return joined_rows(params, root, tables), contents


def _load(params: CorpusParams, root: Path) -> dict[str, tuple[str, Any]]:
    """The split and table of each part; a directory without parts has one, "".

    The split is empty if a column has it or splits are to be made.
    """
    with needs_extra("datasets"):
        import datasets
    try:
        loaded = datasets.load_from_disk(str(root))
    # From datasets, pyarrow or JSON.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"not a directory written by save_to_disk of datasets ({reason})",
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
                fix="set corpus.parts to the names of train, valid and test, or "
                "corpus.splits to make splits from the parts named there",
            )
    return {part: (split, loaded[part]) for part, split in splits.items()}


def _described(
    params: CorpusParams, where: Path, split: str, dataset: Any
) -> tuple[pd.DataFrame, Any]:
    """A part's rows for the manifest, with empty paths, and its column of audio."""
    columns = {"text": params.text_column}
    columns |= {slot: slot for slot in params.slots} or {"intent": params.intent_column}
    if params.splits == "given" and not split:
        columns["split"] = params.split_column
    if params.speaker_column:
        columns["speaker"] = params.speaker_column
    found = check_columns(
        where,
        dataset.column_names,
        [params.path_column, *columns.values()],
        fix="name the columns in section corpus of params.yaml",
    )
    audio = found[params.path_column]
    kind = dataset.features[audio]
    is_path = getattr(kind, "dtype", "") in ("string", "large_string")
    if not is_path and type(kind).__name__ != "Audio":
        raise InputError(
            f"column {params.path_column!r} is not audio",
            path=where,
            found=kind,
            expected="Audio, or paths as strings",
        )
    fields = {ours: _texts(dataset, found[name]) for ours, name in columns.items()}
    rows = pd.DataFrame({"path": "", "split": split, "speaker": "", **fields})
    return rows.astype(str), dataset.select_columns([audio])


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """Rows as stored: audio not decoded, classes as numbers."""
    for batch in dataset.with_format("arrow").iter(_BATCH):
        yield from batch.to_pylist()


def _texts(dataset: Any, column: str) -> list[str]:
    """A column as texts; missing values and class -1 are empty."""
    kind = dataset.features[column]
    names = getattr(kind, "names", None)
    values = [row[column] for row in _rows(dataset.select_columns([column]))]
    if names is None:
        return [as_text(value) for value in values]
    return ["" if value is None or value < 0 else names[value] for value in values]


def _add(
    contents: Contents,
    params: CorpusParams,
    root: Path,
    part: str,
    row: tuple[int, Any],
) -> str:
    """Add a recording to `contents`; returns its path there, empty if it has none.

    Args:
        contents: the recordings so far.
        params: `outside_paths`.
        root: the directory.
        part: of the directory.
        row: its number, and its audio: a path, or what `Audio` stores.
    """
    number, audio = row
    given = audio.get("path") if isinstance(audio, dict) else audio
    content = audio.get("bytes") if isinstance(audio, dict) else None
    if content:
        path = stored_path(part, given or "", content)
        contents.embedded[path] = part, number, hash_bytes(content)
        return path
    if not given:
        return ""
    found = path_from_root(params, root, root / part, number, given)
    file = root / path_on_disk(root, found)
    if not os.path.isfile(file):
        raise InputError(
            f"row {number} names a missing recording",
            path=root / part,
            found=repr(short_path(given)),
            expected="a file, by an absolute path or one relative to the directory",
            fix=missing_fix([found]),
        )
    path = stored_path(part, given, given.encode())
    contents.files[path] = file.resolve()
    return path


def stored_path(part: str, given: str, key: bytes) -> str:
    """The path of a recording with the original name `given` and the hash of `key`."""
    name = PurePosixPath(given)
    stem = re.sub(r"[^\w-]+", "-", name.stem)
    # The manifest's ids drop the suffix, so there must be one.
    suffix = name.suffix if re.fullmatch(r"\.\w+", name.suffix) else ".audio"
    file = "-".join(filter(None, (stem, hash_bytes(key)[:12]))) + suffix
    return f"{part}/{file}" if part else file


def _link(link: Path, file: Path) -> None:
    if link.is_symlink() and os.readlink(link) == str(file):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(file)
