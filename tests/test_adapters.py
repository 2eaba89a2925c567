"""Adapters of published corpora: SLURP, Timers and Such, Snips SmartLights."""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.core.errors import ConfigurationError, InputError
from stages.core.manifest import SPLITS, read_manifest, write_manifest
from stages.core.text import normalise_text
from stages.corpus.params import CorpusParams
from stages.corpus.run import read_corpus
from stages.corpus.slurp import read_slurp
from stages.corpus.snips import read_snips
from stages.corpus.timers import read_timers

COLUMNS = ["path", "split", "speaker", "text", "intent"]


def listed(table: pd.DataFrame) -> list[tuple[str, ...]]:
    assert list(table.columns) == [*COLUMNS, "where"]
    assert table["where"].str.fullmatch(r"\S+ (row|line|entry) \S+").all()
    return list(table[COLUMNS].itertuples(index=False, name=None))


def touch(root: Path, *paths: str) -> None:
    """Files that are there but are no audio: adapters do not read any."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def change(file: Path, old: str, new: str) -> None:
    """Replace, and write in an encoding that shows what is not ASCII."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_bytes(text.replace(old, new).encode("latin-1"))


def is_one_line(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value)


# ------------------------------------------------------------------------------ SLURP


def slurp_line(scenario: str, action: str, sentence: str, *names: str) -> dict:
    return {
        "slurp_id": 1,
        "sentence": sentence,
        "intent": "not this one",
        "scenario": scenario,
        "action": action,
        "recordings": [
            {"file": name, "wer": 0.0, "status": "correct"} for name in names
        ],
    }


SLURP_LINES = {
    "train": [
        slurp_line("iot", "hue_up", "brighter please", "audio--2.flac"),
        slurp_line("alarm", "set", "wake me", "audio-1.flac", "audio-1-headset.flac"),
    ],
    "train_synthetic": [slurp_line("alarm", "remove", "no alarm", "synth-5.flac")],
    "devel": [slurp_line("alarm", "set", "alarm  at\tnine", "audio-3-headset.flac")],
    "test": [
        slurp_line("iot", "hue_up", "it’s dark", "audio-4-headset.flac", "audio-4.flac")
    ],
}
SLURP_SPEAKERS = {
    "4489": {
        "nlub_id": 5027,
        "recordings": {
            "audio-1.flac": {"recid": 1, "usrid": "FO-460"},
            "audio-1-headset.flac": {"recid": 1, "usrid": "FO-460"},
            "audio-3-headset.flac": {"recid": 3, "usrid": "UNK-323"},
        },
    },
    "12": {"recordings": {"audio-4.flac": {"usrid": "ME-1"}, "audio-4-x": {}}},
}
SLURP_ROWS = [
    ("audio/slurp_real/audio--2.flac", "train", "", "brighter please", "iot_hue_up"),
    (
        "audio/slurp_real/audio-1-headset.flac",
        "train",
        "FO-460",
        "wake me",
        "alarm_set",
    ),
    ("audio/slurp_real/audio-1.flac", "train", "FO-460", "wake me", "alarm_set"),
    (
        "audio/slurp_real/audio-3-headset.flac",
        "valid",
        "UNK-323",
        "alarm at nine",
        "alarm_set",
    ),
    ("audio/slurp_real/audio-4-headset.flac", "test", "", "it’s dark", "iot_hue_up"),
    ("audio/slurp_real/audio-4.flac", "test", "ME-1", "it’s dark", "iot_hue_up"),
]
SYNTHETIC = ("audio/slurp_synth/synth-5.flac", "train", "", "no alarm", "alarm_remove")


def write_slurp(root: Path, lines: dict[str, list[dict]]) -> Path:
    folder = root / "dataset" / "slurp"
    folder.mkdir(parents=True, exist_ok=True)
    for part, entries in lines.items():
        audio = "slurp_synth" if "synth" in part else "slurp_real"
        # Not escaped: the release is UTF-8.
        texts = [json.dumps(entry, ensure_ascii=False) for entry in entries]
        content = "".join(f"{text}\n" for text in texts)
        (folder / f"{part}.jsonl").write_text(content, encoding="utf-8")
        for entry in entries:
            for recording in entry["recordings"]:
                touch(root, f"audio/{audio}/{recording['file']}")
    (folder / "metadata.json").write_text(json.dumps(SLURP_SPEAKERS))
    return root


@pytest.fixture
def slurp(tmp_path: Path) -> Path:
    return write_slurp(tmp_path / "slurp", SLURP_LINES)


def test_slurp_has_a_row_a_recording(slurp: Path) -> None:
    assert listed(read_slurp(slurp)) == SLURP_ROWS
    assert listed(read_slurp(slurp, synthetic=True)) == [*SLURP_ROWS, SYNTHETIC]


def test_slurp_is_the_same_whatever_the_order_of_its_lines(slurp: Path) -> None:
    lines = {
        part: [{**entry, "recordings": entry["recordings"][::-1]} for entry in entries]
        for part, entries in SLURP_LINES.items()
    }
    write_slurp(slurp, {part: entries[::-1] for part, entries in lines.items()})
    assert listed(read_slurp(slurp, synthetic=True)) == [*SLURP_ROWS, SYNTHETIC]


@pytest.mark.parametrize(
    "recordings, places",
    [("all", range(6)), ("headset", (1, 3, 4)), ("other", (0, 2, 5))],
)
def test_slurp_is_read_by_microphone(
    slurp: Path, recordings: str, places: list[int]
) -> None:
    if recordings == "headset":
        # Otherwise no train recording has this intent.
        lines = [*SLURP_LINES["train"], slurp_line("iot", "hue_up", "x", "a-headset")]
        write_slurp(slurp, {"train": lines})
    found = listed(read_slurp(slurp, recordings=recordings, synthetic=True))
    assert [row for row in found if row[3] != "x"] == [
        *(SLURP_ROWS[place] for place in places),
        SYNTHETIC,
    ]


def test_slurp_needs_neither_speakers_nor_synthetic_speech(slurp: Path) -> None:
    folder = slurp / "dataset" / "slurp"
    (folder / "metadata.json").unlink()
    (folder / "train_synthetic.jsonl").unlink()
    (slurp / "audio" / "slurp_synth" / "synth-5.flac").unlink()
    (slurp / "audio" / "slurp_synth").rmdir()
    expected = [(path, split, "", *rest) for path, split, _, *rest in SLURP_ROWS]
    assert listed(read_slurp(slurp)) == expected
    with pytest.raises(InputError, match=r"train_synthetic\.jsonl: not a SLURP folder"):
        read_slurp(slurp, synthetic=True)


def test_slurp_recordings_may_lie_at_the_root(slurp: Path) -> None:
    for folder in ("slurp_real", "slurp_synth"):
        (slurp / "audio" / folder).rename(slurp / folder)
    found = listed(read_slurp(slurp, synthetic=True))
    expected = [*SLURP_ROWS, SYNTHETIC]
    assert found == [(path.removeprefix("audio/"), *rest) for path, *rest in expected]


@pytest.mark.parametrize("synthetic", [False, True])
def test_slurp_without_its_recordings_says_how_to_get_them(
    slurp: Path, synthetic: bool
) -> None:
    name = "slurp_synth" if synthetic else "slurp_real"
    (slurp / "audio" / name).rename(slurp / "elsewhere")
    with pytest.raises(
        InputError, match=rf"audio/{name}: no such folder.*fix: .*{name}\.tar\.gz"
    ):
        read_slurp(slurp, synthetic=synthetic)


def test_a_recording_listed_again_stands_once(slurp: Path) -> None:
    lines = [*SLURP_LINES["train"], slurp_line("alarm", "set", "WAKE", "audio-1.flac")]
    write_slurp(slurp, {"train": lines})
    assert listed(read_slurp(slurp)) == SLURP_ROWS


@pytest.mark.parametrize(
    "part, entry, complaint",
    [
        (
            "train",
            slurp_line("iot", "hue_up", "wake me", "audio-1.flac"),
            r"train\.jsonl: line 3 lists audio-1\.flac again; found iot_hue_up in "
            "train; expected alarm_set in train",
        ),
        (
            "test",
            slurp_line("alarm", "set", "wake me", "audio-1.flac"),
            r"test\.jsonl: line 2 lists audio-1\.flac again; found alarm_set in test",
        ),
    ],
)
def test_a_recording_listed_with_another_intent_or_split_is_refused(
    slurp: Path, part: str, entry: dict, complaint: str
) -> None:
    write_slurp(slurp, {part: [*SLURP_LINES[part], entry]})
    with pytest.raises(InputError, match=complaint):
        read_slurp(slurp)


@pytest.mark.parametrize(
    "file, old, new, complaint",
    [
        ("train.jsonl", "wake me", "w\xe4ke me", "line 2 is not UTF-8 text"),
        ("devel.jsonl", "alarm_", "alarm_", "line 1 has no sentence"),
        ("train.jsonl", '"sentence": "wake me"', '"sentence": ', "line 2 is not JSON"),
        ("train.jsonl", '"sentence": "wake', '"text": "wake', "line 2 has no sentence"),
        ("train.jsonl", '"scenario": "alarm"', '"a": 1', "line 2 has no scenario"),
        (
            "train.jsonl",
            '"action": "set"',
            '"action": 7',
            "line 2 has no action; fo.* 7",
        ),
        ("train.jsonl", '"action": "set"', '"action": " "', "line 2 has no usable act"),
        ("train.jsonl", "wake me", "wake\\u0007", "line 2 has no usable sentence"),
        ("devel.jsonl", '"recordings"', '"files"', "line 1 has no recordings"),
        ("devel.jsonl", '"file"', '"name"', "line 1 has no file"),
        ("devel.jsonl", "audio-3", "../audio-3", "line 1 has no usable file; .*'../au"),
        ("devel.jsonl", "audio-3-headset.flac", "..", r"line 1 has no usable file"),
        ("devel.jsonl", "audio-3", "/audio-3", "line 1 has no usable file"),
        ("devel.jsonl", "audio-3", "audio\\n3", "line 1 has no usable file"),
        (
            "devel.jsonl",
            '"set"',
            '"stop"',
            "line 1 has intent 'alarm_stop', which no tr",
        ),
        ("metadata.json", "FO-460", "F\xd6", "line 1 is not UTF-8"),
        ("metadata.json", '"4489": {', '"4489" {', "not JSON in UTF-8"),
        (
            "metadata.json",
            '"4489": {"nlub_id": 5027, "rec',
            '"4489": {"',
            "'4489' has no",
        ),
        ("metadata.json", '"UNK-323"', "323", "entry '4489' has no usrid; found 323"),
    ],
)
def test_a_bad_slurp_file_is_refused_by_line(
    slurp: Path, file: str, old: str, new: str, complaint: str
) -> None:
    path = slurp / "dataset" / "slurp" / file
    if old == new:
        path.write_text("[1, 2]\n")
    else:
        change(path, old, new)
    with pytest.raises(InputError, match=rf"{file}: .*{complaint}") as caught:
        read_slurp(slurp)
    assert is_one_line(caught)


def test_slurp_speakers_that_are_no_object_are_refused(slurp: Path) -> None:
    (slurp / "dataset" / "slurp" / "metadata.json").write_text("[1]")
    with pytest.raises(InputError, match=r"metadata\.json: not the release's file"):
        read_slurp(slurp)


@pytest.mark.parametrize("part", ["train", "devel", "test"])
def test_a_missing_slurp_file_is_named(slurp: Path, part: str) -> None:
    (slurp / "dataset" / "slurp" / f"{part}.jsonl").unlink()
    with pytest.raises(
        InputError, match=rf"{part}\.jsonl: not a SLURP .*fix: .*--root"
    ):
        read_slurp(slurp)


def test_a_sentence_may_hold_other_line_separators(slurp: Path) -> None:
    lines = [slurp_line("alarm", "set", "nine\u2028or\x85ten", "audio-3-headset.flac")]
    write_slurp(slurp, {"devel": lines})
    texts = read_slurp(slurp).set_index("split")["text"]
    assert texts["valid"] == "nine or ten"


# ------------------------------------------------------------------- Timers and Such

TIMERS_HEADING = (
    "path",
    "semantics",
    "speakerId",
    "transcription",
    "formatted_transcription",
)
SET_TIMER = "{'intent': 'SetTimer', 'slots': {'hours': 0, 'minutes': 2, 'seconds': 19}}"
SIMPLE_MATH = "{'intent': 'SimpleMath'| 'slots': {'number1': 3.5| 'op': ' minus '}}"
QUOTED = '{"intent": "SetTimer", "slots": {"hours": 1}}'
TIMERS_PARTS = {
    "train-real": [
        ("b_prompt-2_0.wav", SIMPLE_MATH, "ann", "3.5 minus 2"),
        ("a_prompt-1_0.wav", SET_TIMER, "ann", "timer, 2 minutes"),
    ],
    "train-synth": [("0.wav", SET_TIMER, "voice 1", "start timer")],
    "dev-real": [("c.wav", QUOTED, "bob", "one hour")],
    "dev-synth": [("0.wav", SET_TIMER, "voice 2", "never read")],
    "test-real": [("d.wav", SIMPLE_MATH, "cid", "what is 1 minus 1")],
    "test-synth": [("0.wav", SIMPLE_MATH, "voice 3", "2 times 2")],
}
TIMERS_ROWS = {
    "dev-real": [("dev-real/c.wav", "valid", "bob", "one hour", "SetTimer")],
    "test-real": [
        ("test-real/d.wav", "test", "cid", "what is 1 minus 1", "SimpleMath")
    ],
    "test-synth": [("test-synth/0.wav", "test", "voice 3", "2 times 2", "SimpleMath")],
    "train-real": [
        (
            "train-real/a_prompt-1_0.wav",
            "train",
            "ann",
            "timer, 2 minutes",
            "SetTimer",
        ),
        ("train-real/b_prompt-2_0.wav", "train", "ann", "3.5 minus 2", "SimpleMath"),
    ],
    "train-synth": [
        ("train-synth/0.wav", "train", "voice 1", "start timer", "SetTimer")
    ],
}


def write_timers(root: Path, parts: dict[str, list[tuple[str, ...]]]) -> Path:
    root.mkdir(exist_ok=True)
    for part, rows in parts.items():
        with open(root / f"{part}.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(TIMERS_HEADING)
            for name, semantics, speaker, text in rows:
                touch(root, f"{part}/{name}")
                spelt = text.upper()
                writer.writerow((f"{part}/{name}", semantics, speaker, text, spelt))
    return root


@pytest.fixture
def timers(tmp_path: Path) -> Path:
    return write_timers(tmp_path / "timers", TIMERS_PARTS)


@pytest.mark.parametrize(
    "choice, parts",
    [
        ({}, ["dev-real", "test-real", "train-real", "train-synth"]),
        ({"train": "real"}, ["dev-real", "test-real", "train-real"]),
        ({"test": "synth"}, ["dev-real", "test-synth", "train-real", "train-synth"]),
    ],
)
def test_timers_and_such_by_part(
    timers: Path, choice: dict[str, str], parts: list[str]
) -> None:
    for part in TIMERS_PARTS:
        if part not in parts:
            (timers / f"{part}.csv").unlink()
    expected = [row for part in parts for row in TIMERS_ROWS[part]]
    assert listed(read_timers(timers, **choice)) == expected


def test_timers_and_such_trained_on_synthetic_speech(timers: Path) -> None:
    with pytest.raises(
        InputError, match=r"test-real\.csv: row 2 has intent 'SimpleMath', which no tr"
    ):
        read_timers(timers, train="synth")
    rows = [*TIMERS_PARTS["train-synth"], ("1.wav", SIMPLE_MATH, "voice 1", "1 plus 1")]
    write_timers(timers, {"train-synth": rows})
    assert listed(read_timers(timers, train="synth")) == [
        *TIMERS_ROWS["dev-real"],
        *TIMERS_ROWS["test-real"],
        *TIMERS_ROWS["train-synth"],
        ("train-synth/1.wav", "train", "voice 1", "1 plus 1", "SimpleMath"),
    ]


def test_timers_and_such_is_the_same_whatever_the_order_of_its_rows(
    timers: Path,
) -> None:
    before = listed(read_timers(timers))
    write_timers(timers, {part: rows[::-1] for part, rows in TIMERS_PARTS.items()})
    assert listed(read_timers(timers)) == before


@pytest.mark.parametrize(
    "file, old, new, complaint",
    [
        (
            "train-real",
            "speakerId",
            "speaker",
            "no column speakerId; found path, .*spe",
        ),
        ("train-real", "3.5 minus 2", "3.5 minus \xbd", r"line \d is not UTF-8 text"),
        ("dev-real", "one hour,", '"one hour,', "not a readable table"),
        ("dev-real", "one hour", "", "row 2 has no text"),
        (
            "dev-real",
            "one hour",
            "one\x07hour",
            "row 2 has a control character in its te",
        ),
        ("dev-real", "dev-real/", "../dev-real/", "row 2 leaves the corpus root"),
        (
            "train-real",
            "'intent': 'SetTimer'",
            "'act': 1",
            "row 3 has no intent in its se",
        ),
        ("train-real", "'intent': 'SetTimer'", "'intent': 1", "row 3 has no intent"),
        ("train-real", "'intent': 'SetTimer'", "'intent': ''", "row 3 has no intent"),
        (
            "train-real",
            "19}}",
            "19}",
            "row 3 has no intent in its semantics; found .*19}",
        ),
        ("train-real", "19}}", "int(1)}}", "row 3 has no intent in its semantics"),
        (
            "test-real",
            "'SimpleMath'",
            "'Joke'",
            "row 2 has intent 'Joke', which no train",
        ),
        ("dev-real", "SetTimer", "Joke", "row 2 has intent 'Joke', which no train row"),
    ],
)
def test_a_bad_table_of_timers_and_such_is_refused_by_row(
    timers: Path, file: str, old: str, new: str, complaint: str
) -> None:
    change(timers / f"{file}.csv", old, new)
    with pytest.raises(InputError, match=rf"{file}\.csv: .*{complaint}") as caught:
        read_timers(timers)
    assert is_one_line(caught)


@pytest.mark.parametrize(
    "semantics", ["__import__('pathlib').Path({!r}).touch()", "(" * 9999 + "{!r}"]
)
def test_semantics_are_not_run(timers: Path, semantics: str) -> None:
    made = timers / "made"
    rows = [("c.wav", semantics.format(str(made)), "bob", "one hour")]
    write_timers(timers, {"dev-real": rows})
    with pytest.raises(InputError, match=r"dev-real\.csv: row 2 has no intent in its"):
        read_timers(timers)
    assert not made.exists()


def test_a_missing_table_or_folder_of_timers_and_such_is_named(timers: Path) -> None:
    (timers / "train-synth").rename(timers / "elsewhere")
    with pytest.raises(
        InputError, match=r"train-synth: no such folder.*fix: unpack tim"
    ):
        read_timers(timers)
    (timers / "test-real.csv").unlink()
    with pytest.raises(
        InputError, match=r"test-real\.csv: not a Timers .*fix: .*--root"
    ):
        read_timers(timers, train="real")


# ------------------------------------------------------------------ Snips SmartLights

UNHEARD = {"never recorded", "another that nobody said"}
SNIPS_QUERIES = {
    "SwitchLightOn": [
        ["Turn on the lights in the ", "bedroom"],
        ["turn on the lights in the bedroom."],
        ["Lights on\n"],
        ["let there be light"],
        ["on please"],
        ["it is too dark"],
        ["light it up, will you?"],
    ],
    "SetLightColor": [
        ["make it ", "blue"],
        ["make it ", "pink"],
        ["make it ", "red"],
        ["green"],
        ["yellow in the ", "attic"],
        ["i want ", "blue", " lights"],
        ["never recorded"],
        ["another that nobody said"],
    ],
}
# Dealt by intent and `echo -n WORDING | sha256sum`, by hand.
SNIPS_FOLDS = {
    "another that nobody said": 0,
    "yellow in the attic": 1,
    "i want blue lights": 2,
    "never recorded": 3,
    "make it blue": 4,
    "green": 0,
    "make it red": 1,
    "make it pink": 2,
    "let there be light": 3,
    "turn on the lights in the bedroom": 4,
    "light it up will you": 0,
    "it is too dark": 1,
    "lights on": 2,
    "on please": 3,
}
SNIPS_INTENTS = {
    "".join(pieces): intent
    for intent, queries in SNIPS_QUERIES.items()
    for pieces in queries
}
SNIPS_TEXTS = [text for text in SNIPS_INTENTS if normalise_text(text) not in UNHEARD]
DATASET, METADATA = "dataset.json", "speech_corpus/metadata.json"
CLOSE, FAR = (f"smart-lights-en-{field}-field" for field in ("close", "far"))


def write_snips(
    root: Path,
    field: str = CLOSE,
    queries: dict[str, list[list[str]]] = SNIPS_QUERIES,
    texts: list[str] = SNIPS_TEXTS,
) -> Path:
    speech = root / field / "speech_corpus"
    (speech / "audio").mkdir(parents=True, exist_ok=True)
    intents = {
        intent: {"utterances": [{"data": pieces(query)} for query in part]}
        for intent, part in queries.items()
    }
    (root / field / "dataset.json").write_text(
        json.dumps({"language": "en", "entities": {}, "intents": intents})
    )
    metadata = {}
    for number, text in enumerate(texts):
        touch(root, f"{field}/speech_corpus/audio/{number}.wav")
        worker: dict[str, Any] = {"country": "fr", "age": 30, "id": f"w{number % 3}"}
        if number == 1:
            del worker["id"]
        metadata[str(number)] = {
            "id": number,
            "filename": f"{number}.wav",
            "text": text,
            "worker": worker,
        }
    del metadata["4"]["worker"]
    (speech / "metadata.json").write_text(json.dumps(metadata))
    return root


def pieces(query: list[str]) -> list[dict[str, str]]:
    """As in dataset.json: every second piece is a slot's value."""
    slot = {"entity": "room", "slot_name": "room"}
    return [
        {"text": text, **(slot if number % 2 else {})}
        for number, text in enumerate(query)
    ]


@pytest.fixture
def snips(tmp_path: Path) -> Path:
    write_snips(tmp_path / "snips")
    # Far away the first was not recorded, so that the names of the rest differ.
    return write_snips(tmp_path / "snips", FAR, texts=SNIPS_TEXTS[1:])


def test_snips_has_a_row_a_recording(snips: Path) -> None:
    audio = f"{CLOSE}/speech_corpus/audio"
    on, colour = "SwitchLightOn", "SetLightColor"
    assert listed(read_snips(snips)) == [
        (f"{audio}/0.wav", "train", "w0", "Turn on the lights in the bedroom", on),
        (f"{audio}/1.wav", "train", "", "turn on the lights in the bedroom.", on),
        (f"{audio}/10.wav", "test", "w1", "green", colour),
        (f"{audio}/11.wav", "valid", "w2", "yellow in the attic", colour),
        (f"{audio}/12.wav", "train", "w0", "i want blue lights", colour),
        (f"{audio}/2.wav", "train", "w2", "Lights on", on),
        (f"{audio}/3.wav", "train", "w0", "let there be light", on),
        (f"{audio}/4.wav", "train", "", "on please", on),
        (f"{audio}/5.wav", "valid", "w2", "it is too dark", on),
        (f"{audio}/6.wav", "test", "w0", "light it up, will you?", on),
        (f"{audio}/7.wav", "train", "w1", "make it blue", colour),
        (f"{audio}/8.wav", "train", "w2", "make it pink", colour),
        (f"{audio}/9.wav", "valid", "w0", "make it red", colour),
    ]


@pytest.mark.parametrize("field", ["close", "far", "both"])
def test_snips_folds_are_what_the_wordings_hash_to(snips: Path, field: str) -> None:
    for fold in range(5):
        table = read_snips(snips, field=field, fold=fold)
        assert len(table) == {"close": 13, "far": 12, "both": 25}[field]
        for row in table.itertuples():
            place = (SNIPS_FOLDS[normalise_text(row.text)] - fold) % 5
            assert row.split == ["test", "valid", "train", "train", "train"][place]


def test_snips_fields_differ_in_their_recordings_alone(snips: Path) -> None:
    both = read_snips(snips, field="both", fold=3)
    close, far = read_snips(snips, fold=3), read_snips(snips, field="far", fold=3)
    pd.testing.assert_frame_equal(both, pd.concat([close, far], ignore_index=True))
    assert set(far["path"].map(Path).map(lambda path: path.parts[0])) == {FAR}
    assert (both.groupby("text")["split"].nunique() == 1).all()


def test_snips_is_the_same_whatever_the_order_of_its_entries(snips: Path) -> None:
    before = listed(read_snips(snips, fold=2))
    dataset, metadata = snips / CLOSE / DATASET, snips / CLOSE / METADATA
    entries = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(dict(reversed(entries.items()))))
    intents = json.loads(dataset.read_text())["intents"]
    for part in intents.values():
        part["utterances"].reverse()
    dataset.write_text(json.dumps({"intents": dict(reversed(intents.items()))}))
    assert listed(read_snips(snips, fold=2)) == before


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Snips SmartLights with intents of odd sizes, some wordings in two spellings."""
    queries = {
        intent: [[f"{intent} {number}"] for number in range(size)]
        for intent, size in {"a": 11, "b": 23, "c": 7, "d": 38}.items()
    }
    queries["b"] += [["B 4!"], ["b 9 "]]
    texts = [query[0] for part in queries.values() for query in part]
    return write_snips(tmp_path_factory.mktemp("many"), CLOSE, queries, texts)


def test_every_recording_of_snips_is_tested_once_and_validated_once(
    many: Path,
) -> None:
    tables = [read_snips(many, fold=fold) for fold in range(5)]
    for split in ("test", "valid"):
        held = pd.concat(table[table["split"] == split] for table in tables)
        assert sorted(held["path"]) == list(tables[0]["path"])
    for fold, table in enumerate(tables):
        after = tables[(fold + 1) % 5]
        assert set(table.loc[table["split"] == "valid", "path"]) == set(
            after.loc[after["split"] == "test", "path"]
        )


def test_snips_folds_are_stratified_and_hold_wordings_out(many: Path) -> None:
    tables = [read_snips(many, fold=fold) for fold in range(5)]
    for table in tables:
        wordings = table.assign(text=table["text"].map(normalise_text))
        assert (wordings.groupby("text")["split"].nunique() == 1).all()
    tested = pd.concat(
        table[table["split"] == "test"].assign(fold=fold)
        for fold, table in enumerate(tables)
    )
    tested["text"] = tested["text"].map(normalise_text)
    tested = tested.drop_duplicates("text")
    sizes = pd.crosstab(tested["intent"], tested["fold"])
    assert sizes.sum(axis=1).to_dict() == {"a": 11, "b": 23, "c": 7, "d": 38}
    assert (sizes.max(axis=1) - sizes.min(axis=1) <= 1).all()
    assert sorted(sizes.sum()) == [15, 16, 16, 16, 16]
    # Drawn, not dealt as they stand.
    first = tested.loc[tested["intent"] == "d"].set_index("text")["fold"]
    in_order = [first[f"d {number}"] for number in range(38)]
    assert len({(b - a) % 5 for a, b in itertools.pairwise(in_order)}) > 2


@pytest.mark.parametrize(
    "file, old, new, complaint",
    [
        (DATASET, "attic", "\xe4ttic", "line 1 is not UTF-8"),
        (DATASET, '"intents": {', '"intents" {', "not JSON in UTF-8"),
        (DATASET, '"intents"', '"intent"', "the file has no intents"),
        (
            DATASET,
            '"SetLightColor": {"utter',
            '"x": {"',
            "intent 'x' has no utterances",
        ),
        (
            DATASET,
            '"data": [{"text": "green',
            '"a": [{"text": "',
            "utterance 4 of 'SetL",
        ),
        (
            DATASET,
            '"text": "green"',
            '"t": "green"',
            "utterance 4 of 'SetLightColor' has",
        ),
        (
            DATASET,
            '"green"',
            '"On, please!"',
            "'On, please!', which has another intent",
        ),
        (DATASET, '"green"', '"purple"', "entry '10' says 'green', which is no query"),
        (
            METADATA,
            '"text": "green"',
            '"text": "grey"',
            "entry '10' says 'grey', which",
        ),
        (METADATA, '"text": "green"', '"text": ""', "entry '10' has no usable text"),
        (
            METADATA,
            '"text": "green"',
            '"text": "gr\\u0000een"',
            "entry '10' has no usa",
        ),
        (METADATA, '"text": "green"', '"said": "green"', "entry '10' has no text"),
        (METADATA, '"filename": "7.', '"file": "7.', "entry '7' has no filename"),
        (
            METADATA,
            '"7.wav"',
            '"../7.wav"',
            "entry '7' has no usable filename; .*'../7",
        ),
        (METADATA, '"7.wav"', '""', "entry '7' has no usable filename"),
        (METADATA, '"w1"', "31", "entry '7', worker, has no id; found 31; expected te"),
    ],
)
def test_a_bad_snips_file_is_refused_by_entry(
    snips: Path, file: str, old: str, new: str, complaint: str
) -> None:
    change(snips / CLOSE / file, old, new)
    with pytest.raises(InputError, match=complaint) as caught:
        read_snips(snips)
    assert is_one_line(caught)
    assert str(caught.value).startswith(f"{snips / CLOSE}")


def test_an_intent_of_snips_that_no_train_recording_has_is_refused(
    tmp_path: Path,
) -> None:
    queries = {"a": [["one"], ["two"], ["three"], ["four"], ["five"]], "b": [["six"]]}
    texts = ["one", "two", "three", "four", "five", "six"]
    write_snips(tmp_path, CLOSE, queries, texts)
    # The sixth to be dealt.
    for fold in (1, 2, 3):
        assert len(read_snips(tmp_path, fold=fold)) == 6
    for fold, split in ((0, "test"), (4, "valid")):
        with pytest.raises(
            InputError,
            match=r"metadata\.json: entry '5' has intent 'b', which no train recording "
            rf"has; found {split} in fold {fold}; fix: choose another",
        ):
            read_snips(tmp_path, fold=fold)
    # A query that nobody recorded does not train anything.
    queries["b"] += [["seven"], ["eight"]]
    write_snips(tmp_path, CLOSE, queries, texts)
    with pytest.raises(InputError, match="entry '5' has intent 'b', which no train"):
        for fold in range(5):
            read_snips(tmp_path, fold=fold)


@pytest.mark.parametrize("name", [DATASET, METADATA])
def test_a_missing_snips_file_or_field_is_named(snips: Path, name: str) -> None:
    (snips / FAR / name).unlink()
    with pytest.raises(InputError, match=rf"{FAR}/{name}: not a Snips .*fix: .*--root"):
        read_snips(snips, field="both")
    assert len(read_snips(snips)) == 13


def test_snips_without_its_recordings_says_how_to_get_them(snips: Path) -> None:
    audio = snips / CLOSE / "speech_corpus" / "audio"
    audio.rename(snips / "elsewhere")
    with pytest.raises(
        InputError, match=r"audio: no such folder of.*fix: unpack snips"
    ):
        read_snips(snips)


# ------------------------------------------------------------------------ all of them


@pytest.mark.parametrize(
    "read, choice, complaint",
    [
        (
            read_slurp,
            {"recordings": "far"},
            "found 'far'; expected one of all, headset",
        ),
        (
            read_timers,
            {"train": "all"},
            "train part; found 'all'; expected one of both",
        ),
        (
            read_timers,
            {"test": "both"},
            "test part; found 'both'; expected one of real",
        ),
        (
            read_snips,
            {"field": "near"},
            "found 'near'; expected one of close, far, both",
        ),
        (read_snips, {"fold": 5}, "fold .*; found 5; expected one of 0, 1, 2, 3, 4"),
        (read_snips, {"fold": -1}, "found -1"),
    ],
)
def test_an_unknown_choice_shows_the_known_ones(
    tmp_path: Path, read: Callable, choice: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read(tmp_path, **choice)


def test_rows_name_recordings_and_become_a_manifest(
    slurp: Path, timers: Path, snips: Path, tmp_path: Path
) -> None:
    for root, table in (
        (slurp, read_slurp(slurp, synthetic=True)),
        (timers, read_timers(timers)),
        (snips, read_snips(snips, field="both")),
    ):
        assert all((root / path).is_file() for path in table["path"])
        table["id"] = [path.rpartition(".")[0] for path in table["path"]]
        table["seconds"], table["audio_sha256"] = 1.0, "0" * 64
        write_manifest(tmp_path / "manifest.csv", table)
        again = read_manifest(tmp_path / "manifest.csv")
        assert set(again["split"]) == set(SPLITS)
        pd.testing.assert_frame_equal(
            again[COLUMNS].sort_values("path", ignore_index=True), table[COLUMNS]
        )


@pytest.mark.parametrize(
    "name, choice, changes",
    [
        ("slurp", {"synthetic": True}, {"synthetic": True}),
        ("timers", {"train_speech": "real"}, {"train": "real"}),
        ("snips", {"field": "far", "fold": 2}, {"field": "far", "fold": 2}),
    ],
)
def test_params_choose_the_corpus_and_its_part(
    request: pytest.FixtureRequest, name: str, choice: dict, changes: dict
) -> None:
    root = request.getfixturevalue(name)
    read = {"slurp": read_slurp, "timers": read_timers, "snips": read_snips}[name]
    params = CorpusParams(name=name, adapter=name, **choice)
    pd.testing.assert_frame_equal(
        read_corpus(params, root).table, read(root, **changes)
    )
    assert not read(root, **changes).equals(read(root))
