"""SLURP, as released: `dataset/slurp/*.jsonl` and the flac recordings.

A line is an utterance: `sentence`, `scenario`, `action` and `recordings`, each of which
names its `file`. The intent is `<scenario>_<action>`; a line's own `intent` is not
read, since one in a hundred differs. `metadata.json` has the speaker of each recording,
`usrid`, except for those of train_synthetic. The recordings are in `audio/slurp_real`
and `audio/slurp_synth`, where the release's script unpacks them, or in the same folders
at the root, where SpeechBrain's recipe does.

Sources: Bastianelli et al. 2020; the README, scripts and annotations of
github.com/pswietojanski/slurp; the SLURP recipes of SpeechBrain and ESPnet.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from stages.core.errors import InputError
from stages.core.json_lines import read_lines
from stages.corpus.entry import get_field, get_file_name, get_text, read_object
from stages.corpus.params import CorpusParams
from stages.corpus.rows import COLUMNS, check_file, check_folder, joined_rows

_SYNTHETIC = "train_synthetic"
_HEADSET = "-headset"


def read_slurp(params: CorpusParams, root: Path) -> pd.DataFrame:
    """Rows for the manifest, one for each recording.

    A recording that is listed again with the same split and intent gives one row, with
    the text of its first line, as in ESPnet's recipe.

    Args:
        params: `recordings` of each utterance: `all`, as in the paper; those of the
            close microphone, `headset`, known by their names; or the `other`, distant
            ones. `synthetic` adds the release's synthetic speech to train; `recordings`
            does not apply to it.
        root: the release's folder.

    Raises:
        InputError: a file or folder is missing, a line is invalid, or a recording has
            two splits or intents; names the line.
    """
    annotations = root / "dataset" / "slurp"
    speakers = _read_speakers(annotations / "metadata.json")
    split_of = {"train": "train", "devel": "valid", "test": "test"}
    if params.synthetic:
        split_of[_SYNTHETIC] = "train"
    rows: dict[str, dict[str, object]] = {}
    for part, split in split_of.items():
        file = annotations / f"{part}.jsonl"
        fix = "pass the folder of github.com/pswietojanski/slurp with --root"
        check_file(file, "SLURP", fix)
        wanted = "all" if part == _SYNTHETIC else params.recordings
        audio = _audio_folder(root, part)
        for line, name, text, intent in _read_recordings(file):
            if wanted != "all" and (_HEADSET in name) != (wanted == "headset"):
                continue
            row = {
                "path": f"{audio}/{name}",
                "split": split,
                "speaker": speakers.get(name, ""),
                "text": text,
                "intent": intent,
                "file": file,
                "row": line,
            }
            first = rows.setdefault(f"{audio}/{name}", row)
            if (first["split"], first["intent"]) != (split, intent):
                raise InputError(
                    f"{line} lists {name} again",
                    path=file,
                    found=f"{intent} in {split}",
                    expected=f"{first['intent']} in {first['split']}, as before",
                    fix="drop one of the two",
                )
    fix = "drop the line or, if only some recordings are read, read all"
    table = pd.DataFrame(list(rows.values()), columns=COLUMNS)
    return joined_rows(params, root, [table], fix=fix)


def _audio_folder(root: Path, part: str) -> str:
    """The folder of a part's recordings, relative to `root`."""
    name = "slurp_synth" if part == _SYNTHETIC else "slurp_real"
    if (root / name).is_dir() and not (root / "audio" / name).is_dir():
        return name
    check_folder(
        root / "audio" / name,
        "run scripts/download_audio.sh of SLURP in its folder, or unpack "
        f"{name}.tar.gz into audio",
    )
    return f"audio/{name}"


def _read_recordings(file: Path) -> Iterator[tuple[str, str, str, str]]:
    """The line, file name, text and intent of each recording."""
    for where, line in read_lines(file):
        text = get_text(file, where, line, "sentence")
        scenario = get_text(file, where, line, "scenario")
        intent = f"{scenario}_{get_text(file, where, line, 'action')}"
        for recording in get_field(file, where, line, "recordings", list):
            yield where, get_file_name(file, where, recording, "file"), text, intent


def _read_speakers(file: Path) -> dict[str, str]:
    """The speaker of each recording by file name; empty without `metadata.json`."""
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
