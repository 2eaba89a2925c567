"""Snips SmartLights, as released in `snips_slu_data_v1.0`; splits are made here.

`smart-lights-en-close-field` and `smart-lights-en-far-field` each contain
`dataset.json`, the queries as pieces of text by intent, and `speech_corpus`: wavs in
`audio` and `metadata.json`, whose entries have `filename`, `text` and, as the speaker,
`id` of `worker`. A recording gets its intent by its normalised text; some queries have
no recording. Far-field recordings are close-field ones, played and recorded at two
metres.

The corpus has no splits: it is meant for cross-validation. The five folds here are
stratified by intent and drawn by hash, so they depend on neither a seed nor a library.
A wording is in one fold only, and the same one for both fields if they have the same
`dataset.json`: one recording in fifteen differs from another only in case, punctuation
or spaces. Speakers are in several folds: of 52 in the close field four recorded half.

Sources: Saade et al. 2019, «Spoken Language Understanding on the Edge»; the README and
handler of github.com/sonos/spoken-language-understanding-research-datasets; ESPnet's
recipe; counts from the texts in github.com/maseEval/mase (Arora et al. 2021).
"""

from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.errors import InputError
from stages.core.hashing import hash_bytes
from stages.core.table import clean_text
from stages.core.text import normalise_text
from stages.corpus.entry import get_field, get_file_name, get_text, read_object
from stages.corpus.params import FOLDS, CorpusParams
from stages.corpus.rows import COLUMNS, check_file, check_folder, joined_rows


def read_snips(params: CorpusParams, root: Path) -> pd.DataFrame:
    """Rows for the manifest.

    Args:
        params: `field`: `close`, `far` or `both`. `fold`: which of the folds 0 to 4 is
            test; the next one (0 after 4) is valid, and the other three are train.
        root: the release's folder.

    Raises:
        InputError: a file or folder is missing, an entry is invalid, or a text has two
            intents or none; names the entry.
    """
    fields = ("close", "far") if params.field == "both" else (params.field,)
    folders = [root / f"smart-lights-en-{field}-field" for field in fields]
    intents: dict[str, str] = {}
    for folder in folders:
        _add_queries(folder / "dataset.json", intents)
    rows = [row for folder in folders for row in _read_recordings(folder, intents)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    folds = _folds(intents)
    splits = {params.fold: "test", (params.fold + 1) % FOLDS: "valid"}
    table["path"] = [path.relative_to(root).as_posix() for path in table["path"]]
    table["split"] = [
        splits.get(folds[normalise_text(text)], "train") for text in table["text"]
    ]
    fix = "choose another fold, or drop the intent"
    return joined_rows(params, root, [table], fix=fix)


def _read_recordings(folder: Path, intents: dict[str, str]) -> list[dict[str, Any]]:
    """Rows for the recordings of one field, still without splits."""
    speech = folder / "speech_corpus"
    file = speech / "metadata.json"
    recordings = _read(file)
    check_folder(
        speech / "audio", "unpack snips_slu_data_v1.0 there, with its recordings"
    )
    rows = []
    for key, recording in recordings.items():
        where = f"entry {key!r}"
        text = get_text(file, where, recording, "text")
        wording = normalise_text(text)
        if wording not in intents:
            raise InputError(
                f"{where} has the text {text!r}, which is not a query",
                path=file,
                expected=f"a text of {folder.name}/dataset.json",
                fix="complete that file or drop the entry",
            )
        rows.append(
            {
                "path": speech
                / "audio"
                / get_file_name(file, where, recording, "filename"),
                "speaker": _speaker(file, where, recording),
                "text": text,
                "intent": intents[wording],
                "file": file,
                "row": where,
            }
        )
    return rows


def _folds(intents: dict[str, str]) -> dict[str, int]:
    """The fold of each wording; of an intent, their sizes differ by one at most."""
    ordered = sorted(
        intents, key=lambda wording: (intents[wording], hash_bytes(wording.encode()))
    )
    return {wording: place % FOLDS for place, wording in enumerate(ordered)}


def _add_queries(file: Path, intents: dict[str, str]) -> None:
    """Add the intent of each query, by its normalised text, to `intents`."""
    by_intent = get_field(file, "the file", _read(file), "intents", dict)
    for name, part in by_intent.items():
        intent = clean_text(name)
        utterances = get_field(file, f"intent {intent!r}", part, "utterances", list)
        for number, utterance in enumerate(utterances, 1):
            where = f"utterance {number} of {intent!r}"
            text = "".join(
                get_field(file, where, piece, "text", str)
                for piece in get_field(file, where, utterance, "data", list)
            )
            known = intents.setdefault(normalise_text(text), intent)
            if known != intent:
                raise InputError(
                    f"{where} is {text!r}, which also has another intent",
                    path=file,
                    found=f"{known}, {intent}",
                    fix="drop one of the two",
                )


def _read(file: Path) -> dict[str, Any]:
    check_file(
        file, "Snips SmartLights", "pass the folder snips_slu_data_v1.0 with --root"
    )
    return read_object(file)


def _speaker(file: Path, where: str, recording: Any) -> str:
    """The worker's id; empty if unknown."""
    worker = recording.get("worker")
    if not isinstance(worker, dict) or not worker.get("id"):
        return ""
    return get_text(file, f"{where}, worker,", worker, "id")
