"""Snips SmartLights, as released in `snips_slu_data_v1.0`; splits are made here.

`smart-lights-en-close-field` and `smart-lights-en-far-field` each hold `dataset.json`,
the queries as pieces of text by intent, and `speech_corpus`: wavs in `audio` and
`metadata.json`, whose entries have `filename`, `text` and, as the speaker, `id` of
`worker`. A recording gets its intent by its text, normalised; some queries have no
recording. Far-field recordings are close-field ones played and recorded at two metres.

The corpus has no splits: it is meant for cross-validation. The folds here are five,
stratified by intent and drawn by hash, so that no seed or library enters. Wordings are
held out, since random folds leak them: one recording in fifteen differs from another in
case, punctuation or spaces alone. Speakers are not held out, as mostly elsewhere: of 52
in the close field four speak half, and folds by speaker would be little but those four.

Sources: Saade et al. 2019, «Spoken Language Understanding on the Edge»; the README and
handler of github.com/sonos/spoken-language-understanding-research-datasets; ESPnet's
recipe; counts from the texts in github.com/maseEval/mase (Arora et al. 2021).
"""

from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.errors import ConfigurationError, InputError
from stages.core.hashing import hash_bytes
from stages.core.text import normalise_text
from stages.corpus.entry import get_field, get_file_name, get_text, read_object

FIELDS = ("close", "far", "both")
FOLDS = 5


def read_snips(root: Path, *, field: str = "close", fold: int = 0) -> pd.DataFrame:
    """Rows for the manifest, sorted by path.

    A wording is in the same fold whatever `field` is, provided that both fields have
    the same `dataset.json`.

    Args:
        root: the release's folder.
        field: `close`, `far` or `both`; with both, the two recordings of a query are in
            the same split.
        fold: which of the folds 0 to 4 is test. The next one, after 4 it is 0, is
            valid, and the other three are train.

    Raises:
        ConfigurationError: `field` or `fold` is unknown.
        InputError: a file or the folder of the recordings is missing, a file is not
            JSON in UTF-8, a key is missing, a text has two intents or none, or no train
            recording has an intent; names the entry.
    """
    if field not in FIELDS:
        raise ConfigurationError(
            "unknown field of Snips SmartLights",
            found=repr(field),
            expected=f"one of {', '.join(FIELDS)}",
        )
    if fold not in range(FOLDS):
        raise ConfigurationError(
            "unknown fold of Snips SmartLights",
            found=repr(fold),
            expected=f"one of {', '.join(map(str, range(FOLDS)))}",
        )
    fields = ("close", "far") if field == "both" else (field,)
    folders = [f"smart-lights-en-{one}-field" for one in fields]
    intents: dict[str, str] = {}
    for folder in folders:
        _add_queries(root / folder / "dataset.json", intents)
    folds = _folds(intents)
    splits = {fold: "test", (fold + 1) % FOLDS: "valid"}
    rows, sources = [], []
    for folder in folders:
        speech = f"{folder}/speech_corpus"
        file = root / speech / "metadata.json"
        recordings = _read(file)
        if not (root / speech / "audio").is_dir():
            raise InputError(
                "no such folder of recordings",
                path=root / speech / "audio",
                fix="unpack snips_slu_data_v1.0 there, with its recordings",
            )
        for key, recording in recordings.items():
            where = f"entry {key!r}"
            text = get_text(file, where, recording, "text")
            wording = normalise_text(text)
            if wording not in intents:
                raise InputError(
                    f"{where} says {text!r}, which is no query",
                    path=file,
                    expected=f"a text of {folder}/dataset.json",
                    fix="complete that file or drop the entry",
                )
            name = get_file_name(file, where, recording, "filename")
            rows.append(
                {
                    "path": f"{speech}/audio/{name}",
                    "split": splits.get(folds[wording], "train"),
                    "speaker": _speaker(file, where, recording),
                    "text": text,
                    "intent": intents[wording],
                    "where": f"{file.relative_to(root)} {where}",
                }
            )
            sources.append((file, where))
    trained = {row["intent"] for row in rows if row["split"] == "train"}
    for row, (file, where) in zip(rows, sources, strict=True):
        if row["intent"] not in trained:
            raise InputError(
                f"{where} has intent {row['intent']!r}, which no train recording has",
                path=file,
                found=f"{row['split']} in fold {fold}",
                fix="choose another fold, or drop the intent",
            )
    columns = ["path", "split", "speaker", "text", "intent", "where"]
    table = pd.DataFrame(rows, columns=columns, dtype=str)
    return table.sort_values("path", ignore_index=True)


def _folds(intents: dict[str, str]) -> dict[str, int]:
    """The fold of each wording, by hash; they differ by one at most, in any intent."""
    ordered = sorted(
        intents, key=lambda wording: (intents[wording], hash_bytes(wording.encode()))
    )
    return {wording: place % FOLDS for place, wording in enumerate(ordered)}


def _add_queries(file: Path, intents: dict[str, str]) -> None:
    """Add the intent of each query, by its normalised text, to `intents`."""
    by_intent = get_field(file, "the file", _read(file), "intents", dict)
    for intent, part in by_intent.items():
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
                    f"{where} is {text!r}, which has another intent too",
                    path=file,
                    found=f"{known}, {intent}",
                    fix="drop one of the two",
                )


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(
            "not a Snips SmartLights folder: no such file",
            path=file,
            fix="pass the folder snips_slu_data_v1.0 with --root",
        )
    return read_object(file)


def _speaker(file: Path, where: str, recording: Any) -> str:
    """The worker's id; empty where there is none."""
    worker = recording.get("worker")
    if not isinstance(worker, dict) or not worker.get("id"):
        return ""
    return get_text(file, f"{where}, worker,", worker, "id")
