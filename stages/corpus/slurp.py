"""SLURP, as released: `dataset/slurp/*.jsonl` and the flacs beside them.

A line is an utterance: `sentence`, `scenario`, `action` and `recordings`, each of which
names its `file`. The intent is `<scenario>_<action>`; a line's own `intent` is not
read, since one in a hundred differs. `metadata.json` has the speaker of each recording,
`usrid`, but of none in train_synthetic. The recordings lie in `audio/slurp_real` and
`audio/slurp_synth`, where the release's script unpacks them, or in the same folders at
the root, where SpeechBrain's recipe does.

Sources: Bastianelli et al. 2020; the README, scripts and annotations of
github.com/pswietojanski/slurp; the SLURP recipes of SpeechBrain and ESPnet.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.corpus.entry import (
    get_field,
    get_file_name,
    get_text,
    read_lines,
    read_object,
)

RECORDINGS = ("all", "headset", "other")

_SYNTHETIC = "train_synthetic"
_HEADSET = "-headset"


def read_slurp(
    root: Path, *, recordings: str = "all", synthetic: bool = False
) -> pd.DataFrame:
    """Rows for the manifest, one a recording, sorted by path.

    A recording that is listed again with the same split and intent stands once, with
    the text of its first line, as ESPnet's recipe has it.

    Args:
        root: the release's folder.
        recordings: of each utterance: `all`, as in the paper; those of the close
            microphone, `headset`, whose names say so; or the `other`, distant ones.
        synthetic: whether the release's synthetic speech is added to train. It has no
            microphones: `recordings` does not choose from it.

    Raises:
        ConfigurationError: `recordings` is none of `RECORDINGS`.
        InputError: a file or the folder of the recordings is missing, a file is not
            UTF-8 or not JSON, a field is missing or bad, a recording is listed with two
            splits or intents, or no train recording has an intent; names the line.
    """
    if recordings not in RECORDINGS:
        raise ConfigurationError(
            "unknown choice of SLURP's recordings",
            found=repr(recordings),
            expected=f"one of {', '.join(RECORDINGS)}",
        )
    annotations = root / "dataset" / "slurp"
    speakers = _read_speakers(annotations / "metadata.json")
    # Train first: it says which intents there are.
    parts = [("train", "train"), ("devel", "valid"), ("test", "test")]
    if synthetic:
        parts.insert(1, (_SYNTHETIC, "train"))
    trained: set[str] = set()
    rows: dict[str, dict[str, str]] = {}
    for part, split in parts:
        file = annotations / f"{part}.jsonl"
        if not file.is_file():
            raise InputError(
                "not a SLURP folder: no such file",
                path=file,
                fix="pass the folder of github.com/pswietojanski/slurp with --root",
            )
        wanted = "all" if part == _SYNTHETIC else recordings
        audio = _audio_folder(root, part)
        for where, name, text, intent in _read_recordings(file):
            if wanted != "all" and (_HEADSET in name) != (wanted == "headset"):
                continue
            if split == "train":
                trained.add(intent)
            elif intent not in trained:
                raise InputError(
                    f"{where} has intent {intent!r}, which no train recording has",
                    path=file,
                    fix="drop the line or, if only some recordings are read, read all",
                )
            row = {
                "path": f"{audio}/{name}",
                "split": split,
                "speaker": speakers.get(name, ""),
                "text": text,
                "intent": intent,
                "where": f"{file.relative_to(root)} {where}",
            }
            first = rows.setdefault(row["path"], row)
            if (first["split"], first["intent"]) != (split, intent):
                raise InputError(
                    f"{where} lists {name} again",
                    path=file,
                    found=f"{intent} in {split}",
                    expected=f"{first['intent']} in {first['split']}, as before",
                    fix="drop one of the two",
                )
    columns = ["path", "split", "speaker", "text", "intent", "where"]
    table = pd.DataFrame(list(rows.values()), columns=columns, dtype=str)
    return table.sort_values("path", ignore_index=True)


def _audio_folder(root: Path, part: str) -> str:
    """Where the recordings of a part lie, relative to `root`."""
    name = "slurp_synth" if part == _SYNTHETIC else "slurp_real"
    for folder in (f"audio/{name}", name):
        if (root / folder).is_dir():
            return folder
    raise InputError(
        "no such folder of recordings",
        path=root / "audio" / name,
        fix=f"run scripts/download_audio.sh of SLURP in its folder, or unpack "
        f"{name}.tar.gz into audio",
    )


def _read_recordings(file: Path) -> Iterator[tuple[str, str, str, str]]:
    """Of each recording its line, its name, what it says and the intent."""
    for where, line in read_lines(file):
        text = get_text(file, where, line, "sentence")
        scenario = get_text(file, where, line, "scenario")
        intent = f"{scenario}_{get_text(file, where, line, 'action')}"
        for recording in get_field(file, where, line, "recordings", list):
            yield where, get_file_name(file, where, recording, "file"), text, intent


def _read_speakers(file: Path) -> dict[str, str]:
    """Who speaks, by the recording's file name; nobody where there is no such file."""
    if not file.is_file():
        return {}
    speakers = {}
    for key, utterance in read_object(file).items():
        where = f"entry {key!r}"
        recordings = get_field(file, where, utterance, "recordings", dict)
        for name, recording in recordings.items():
            if isinstance(recording, dict) and recording.get("usrid"):
                speakers[name] = get_text(file, where, recording, "usrid")
    return speakers
