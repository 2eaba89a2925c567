"""A corpus in lhotse's manifests, read with lhotse.

For each part the corpus root has `<prefix>_recordings_<part>.jsonl.gz` and
`<prefix>_supervisions_<part>.jsonl.gz`, as lhotse's recipes write them, or the same
with the suffix `.jsonl`; an empty part or prefix has no underscore. Of a supervision:

    text      the text
    speaker   the speaker; unknown if it has none
    custom    the intent, by the key `corpus.intent_key`
    recording_id, start, duration, channel
              which must be the whole of one recording, all its channels

An utterance of this project is a file, identified by its bytes; so a recording must be
one file without transforms. lhotse can write what it cuts, mixes or fetches to files.
A relative path is relative to the corpus root.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.errors import InputError, needs_extra
from stages.core.json_lines import as_text
from stages.core.paths import path_on_disk
from stages.corpus.params import CorpusParams
from stages.corpus.rows import checked_rows, joined_rows, split_of_parts

_TOLERANCE = 0.025
"""Seconds between a supervision's end and its recording's, lhotse's own default."""

_TO_FILES = (
    "write each utterance to a file of its own, as CutSet.trim_to_supervisions and "
    "CutSet.save_audios of lhotse do, and list those files as the recordings"
)


def read_lhotse(
    params: CorpusParams, root: Path
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows for the manifest, and notes for the user.

    Raises:
        ConfigurationError: lhotse is not installed.
        InputError: a manifest is missing or invalid, or a supervision is invalid or not
            the whole of one file; names the file and the row, from 1.
    """
    tables, notes = [], []
    for part, split in split_of_parts(params).items():
        listed = _manifest_file(root, params.prefix, "recordings", part)
        recordings = _read_recordings(listed)
        file = _manifest_file(root, params.prefix, "supervisions", part)
        rows = []
        for number, one in _read(file, "SupervisionSegment"):
            if one.recording_id not in recordings:
                raise InputError(
                    f"row {number} has a recording that is not listed",
                    path=file,
                    found=one.recording_id,
                    expected=f"an id of {listed.name}",
                )
            place, recording = recordings[one.recording_id]
            path = _source(listed, place, recording)
            _check_whole(file, number, one, recording)
            intent = _intent(file, number, one, params.intent_key)
            speaker, text = as_text(one.speaker), as_text(one.text)
            rows.append((path, split, speaker, text, intent))
        columns = ["path", "split", "speaker", "text", "intent"]
        table = pd.DataFrame(rows, columns=columns, dtype=object)
        tables.append(checked_rows(params, root, file, table, first=1))
        unused = len(recordings) - tables[-1]["path"].nunique()
        if unused:
            notes.append(f"{listed}: {unused:,} recordings without a supervision")
    return joined_rows(params, root, tables), tuple(notes)


def _read_recordings(file: Path) -> dict[str, tuple[int, Any]]:
    """Row and recording by id."""
    recordings: dict[str, tuple[int, Any]] = {}
    for number, one in _read(file, "Recording"):
        if one.id in recordings:
            raise InputError(
                f"row {number} has the id of row {recordings[one.id][0]}",
                path=file,
                found=one.id,
            )
        recordings[one.id] = number, one
    return recordings


def _manifest_file(root: Path, prefix: str, kind: str, part: str) -> Path:
    start = f"{prefix}_" if prefix and not prefix.endswith(("_", "/")) else prefix
    name = f"{start}{kind}{part and '_'}{part}"
    for suffix in (".jsonl.gz", ".jsonl"):
        file = root / path_on_disk(root, f"{name}{suffix}")
        if file.is_file():
            return file
    raise InputError(
        f"no such manifest of {kind}",
        path=root / f"{name}.jsonl.gz",
        fix="pass the manifests' folder with --root, and set corpus.prefix and "
        "corpus.parts to match their names",
    )


def _read(file: Path, kind: str) -> list[tuple[int, Any]]:
    """Rows, numbered from 1, as lhotse's objects."""
    with needs_extra("lhotse"):
        from lhotse.lazy import LazyManifestIterator
    rows: list[tuple[int, Any]] = []
    try:
        for item in LazyManifestIterator(file):
            rows.append((len(rows) + 1, item))
    # From gzip, JSON, the encoding, or an invalid field in lhotse.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"row {len(rows) + 1} is not readable by lhotse ({reason})", path=file
        ) from error
    for number, item in rows:
        if type(item).__name__ != kind:
            raise InputError(
                f"row {number} has another type",
                path=file,
                found=type(item).__name__,
                expected=kind,
            )
    return rows


def _source(file: Path, number: int, recording: Any) -> str:
    """The path of a recording that is one file without transforms."""
    kinds = [source.type for source in recording.sources]
    if kinds != ["file"]:
        what, found = "is not one file", f"sources {', '.join(kinds) or 'none'}"
    elif recording.transforms:
        names = [type(one).__name__ for one in recording.transforms]
        what, found = "is transformed when it is loaded", ", ".join(names)
    else:
        return str(recording.sources[0].source)
    raise InputError(
        f"row {number} {what}",
        path=file,
        found=found,
        expected="one source of type file, without transforms",
        fix=_TO_FILES,
    )


def _check_whole(file: Path, number: int, one: Any, recording: Any) -> None:
    """Raise InputError unless a supervision is the whole recording."""
    channels = one.channel if isinstance(one.channel, list) else [one.channel]
    off = max(abs(one.start), abs(one.end - recording.duration))
    if off > _TOLERANCE:
        found = f"{one.start} to {one.end} s"
        expected = f"0 to {recording.duration} s, the whole recording"
    elif set(channels) != set(recording.channel_ids):
        found = f"channels {channels}"
        expected = f"{recording.channel_ids}, all of the recording's"
    else:
        return
    raise InputError(
        f"row {number} is a part of a recording",
        path=file,
        found=found,
        expected=expected,
        fix=_TO_FILES,
    )


def _intent(file: Path, number: int, one: Any, key: str) -> str:
    custom = one.custom or {}
    if key not in custom:
        raise InputError(
            f"row {number} has no {key!r} in its custom fields",
            path=file,
            found=", ".join(map(str, custom)) or "none",
            fix="set corpus.intent_key to the field that holds the intent",
        )
    return as_text(custom[key])
