"""Adapters of published corpora: SLURP, Timers and Such, Snips SmartLights."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.core.errors import ConfigurationError, InputError
from stages.core.text import normalise_text
from stages.corpus.params import CorpusParams
from stages.corpus.run import read_corpus

COLUMNS = ["path", "split", "speaker", "text", "intent"]


def read(adapter: str, root: Path, **choice: Any) -> pd.DataFrame:
    """The adapter's rows, sorted by path; all name recordings that exist."""
    params = CorpusParams(name="mine", adapter=adapter, **choice)
    table = read_corpus(params, root).table.sort_values("path", ignore_index=True)
    assert list(table.columns) == [*COLUMNS, "where"]
    assert table["where"].str.fullmatch(r"\S+ (row|line|entry) \S+").all()
    assert all((root / path).is_file() for path in table["path"])
    return table


def listed(adapter: str, root: Path, **choice: Any) -> list[tuple[str, ...]]:
    table = read(adapter, root, **choice)
    return list(table[COLUMNS].itertuples(index=False, name=None))


def touch(root: Path, *paths: str) -> None:
    """Create empty files: adapters do not read recordings."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def change(file: Path, old: str, new: str) -> None:
    """Replace text, and write the file in Latin-1."""
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_bytes(text.replace(old, new).encode("latin-1"))


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
REAL = "audio/slurp_real"
SLURP_ROWS = [
    (f"{REAL}/audio--2.flac", "train", "", "brighter please", "iot_hue_up"),
    (f"{REAL}/audio-1-headset.flac", "train", "FO-460", "wake me", "alarm_set"),
    (f"{REAL}/audio-1.flac", "train", "FO-460", "wake me", "alarm_set"),
    (f"{REAL}/audio-3-headset.flac", "valid", "UNK-323", "alarm at nine", "alarm_set"),
    (f"{REAL}/audio-4-headset.flac", "test", "", "it’s dark", "iot_hue_up"),
    (f"{REAL}/audio-4.flac", "test", "ME-1", "it’s dark", "iot_hue_up"),
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


def test_slurp_has_a_row_for_each_recording(slurp: Path) -> None:
    assert listed("slurp", slurp) == SLURP_ROWS
    assert listed("slurp", slurp, synthetic=True) == [*SLURP_ROWS, SYNTHETIC]
    # Again, with another text: the first one is used.
    lines = [*SLURP_LINES["train"], slurp_line("alarm", "set", "WAKE", "audio-1.flac")]
    write_slurp(slurp, {"train": lines})
    assert listed("slurp", slurp) == SLURP_ROWS


def test_slurp_is_read_by_microphone(slurp: Path) -> None:
    found = listed("slurp", slurp, recordings="other", synthetic=True)
    assert found == [*(SLURP_ROWS[place] for place in (0, 2, 5)), SYNTHETIC]
    with pytest.raises(
        InputError, match=r"intent 'iot_hue_up', which no train.*read al"
    ):
        read("slurp", slurp, recordings="headset")
    lines = [*SLURP_LINES["train"], slurp_line("iot", "hue_up", "x", "a-headset")]
    write_slurp(slurp, {"train": lines})
    found = listed("slurp", slurp, recordings="headset", synthetic=True)
    assert found[1:] == [*(SLURP_ROWS[place] for place in (1, 3, 4)), SYNTHETIC]


def test_slurp_works_without_speakers_and_synthetic_speech(slurp: Path) -> None:
    folder = slurp / "dataset" / "slurp"
    (folder / "metadata.json").unlink()
    (folder / "train_synthetic.jsonl").unlink()
    (slurp / "audio" / "slurp_synth").rename(slurp / "elsewhere")
    expected = [(path, split, "", *rest) for path, split, _, *rest in SLURP_ROWS]
    assert listed("slurp", slurp) == expected
    with pytest.raises(InputError, match=r"train_synthetic\.jsonl: not a SLURP folder"):
        read("slurp", slurp, synthetic=True)


def test_slurp_recordings_can_be_at_the_root(slurp: Path) -> None:
    for folder in ("slurp_real", "slurp_synth"):
        (slurp / "audio" / folder).rename(slurp / folder)
    found = listed("slurp", slurp, synthetic=True)
    expected = [*SLURP_ROWS, SYNTHETIC]
    assert found == [(path.removeprefix("audio/"), *rest) for path, *rest in expected]
    for name in ("slurp_synth", "slurp_real"):
        (slurp / name).rename(slurp / f"no_{name}")
        with pytest.raises(
            InputError, match=rf"audio/{name}: no such folder.*fix: .*{name}\.tar\.gz"
        ):
            read("slurp", slurp, synthetic=True)


@pytest.mark.parametrize("part, intent", [("train", "hue_up"), ("test", "set")])
def test_a_recording_listed_with_another_intent_or_split_is_refused(
    slurp: Path, part: str, intent: str
) -> None:
    scenario = {"set": "alarm", "hue_up": "iot"}[intent]
    entry = slurp_line(scenario, intent, "wake me", "audio-1.flac")
    lines = [*SLURP_LINES[part], entry]
    write_slurp(slurp, {part: lines})
    with pytest.raises(
        InputError,
        match=rf"{part}\.jsonl: line {len(lines)} lists audio-1\.flac again; found "
        rf"{scenario}_{intent} in {part}; expected alarm_set in train",
    ):
        read("slurp", slurp)


@pytest.mark.parametrize(
    "file, old, new, complaint",
    [
        ("train.jsonl", "wake me", "w\xe4ke me", "line 2 is not UTF-8 text"),
        ("train.jsonl", '"sentence": "wake me"', '"sentence": ', "line 2 is not JSON"),
        ("train.jsonl", '"sentence": "wake', '"text": "wake', "line 2 has no sentence"),
        ("train.jsonl", '"action": "set"', '"action": 7', "line 2 has no act.*found 7"),
        ("train.jsonl", '"action": "set"', '"action": " "', "line 2 has no usable act"),
        ("train.jsonl", "wake me", "wake\\u0007", "line 2 has no usable sentence"),
        ("devel.jsonl", '"recordings"', '"files"', "line 1 has no recordings"),
        ("devel.jsonl", "audio-3", "../audio-3", "line 1 has no usable file; .*'../au"),
        ("devel.jsonl", "audio-3-headset.flac", "..", "line 1 has no usable file"),
        ("devel.jsonl", "audio-3", "audio\\n3", "line 1 has no usable file"),
        ("devel.jsonl", '"set"', '"stop"', "line 1 has intent 'alarm_stop', which no"),
        ("metadata.json", "FO-460", "F\xd6", "line 1 is not UTF-8"),
        ("metadata.json", '"4489": {', '"4489" {', "not JSON in UTF-8"),
        ("metadata.json", '{"nlub_id": 5027, "rec', '{"', "entry '4489' has no rec"),
        ("metadata.json", '"UNK-323"', "323", "entry '4489' has no usrid; found 323"),
    ],
)
def test_an_invalid_slurp_file_is_refused_by_line(
    slurp: Path, file: str, old: str, new: str, complaint: str
) -> None:
    change(slurp / "dataset" / "slurp" / file, old, new)
    with pytest.raises(InputError, match=rf"^\S*{file}: .*{complaint}.*$"):
        read("slurp", slurp)


@pytest.mark.parametrize("name", ["metadata.json", "devel.jsonl"])
def test_slurp_entries_that_are_not_objects_are_refused(slurp: Path, name: str) -> None:
    (slurp / "dataset" / "slurp" / name).write_text("[1]\n")
    what = "not an object" if name == "metadata.json" else "line 1 has no sentence"
    with pytest.raises(InputError, match=rf"{name}: {what}; found"):
        read("slurp", slurp)


def test_a_sentence_can_have_other_line_separators(slurp: Path) -> None:
    lines = [slurp_line("alarm", "set", "nine\u2028or\x85ten", "audio-3-headset.flac")]
    write_slurp(slurp, {"devel": lines})
    texts = read("slurp", slurp).set_index("split")["text"]
    assert texts["valid"] == "nine or ten"


# ------------------------------------------------------------------- Timers and Such

SET_TIMER = "{'intent': 'SetTimer', 'slots': {'hours': 0, 'minutes': 2, 'seconds': 19}}"
SIMPLE_MATH = "{'intent': 'SimpleMath'| 'slots': {'number1': 3.5| 'op': ' minus '}}"
QUOTED = '{"intent": "SetTimer", "slots": {"hours": 1}}'
TIMERS_PARTS = {
    "dev-real": [("c.wav", QUOTED, "bob", "one hour")],
    "dev-synth": [("0.wav", SET_TIMER, "voice 2", "never read")],
    "test-real": [("d.wav", SIMPLE_MATH, "cid", "what is 1 minus 1")],
    "test-synth": [("0.wav", SIMPLE_MATH, "voice 3", "2 times 2")],
    "train-real": [
        ("a_prompt-1_0.wav", SET_TIMER, "ann", "timer, 2 minutes"),
        ("b_prompt-2_0.wav", SIMPLE_MATH, "ann", "3.5 minus 2"),
    ],
    "train-synth": [
        ("0.wav", SET_TIMER, "voice 1", "start timer"),
        ("1.wav", SIMPLE_MATH, "voice 1", "1 plus 1"),
    ],
}


def timers_rows(*parts: str) -> list[tuple[str, ...]]:
    splits = {"dev": "valid", "test": "test", "train": "train"}
    intents = {SET_TIMER: "SetTimer", QUOTED: "SetTimer", SIMPLE_MATH: "SimpleMath"}
    return [
        (
            f"{part}/{name}",
            splits[part.split("-")[0]],
            speaker,
            text,
            intents[semantics],
        )
        for part in parts
        for name, semantics, speaker, text in TIMERS_PARTS[part]
    ]


def write_timers(root: Path, parts: dict[str, list[tuple[str, ...]]]) -> Path:
    root.mkdir(exist_ok=True)
    for part, rows in parts.items():
        with open(root / f"{part}.csv", "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(
                ("path", "semantics", "speakerId", "transcription", "unused")
            )
            for name, *fields in rows:
                touch(root, f"{part}/{name}")
                writer.writerow((f"{part}/{name}", *fields, "x"))
    return root


@pytest.fixture
def timers(tmp_path: Path) -> Path:
    return write_timers(tmp_path / "timers", TIMERS_PARTS)


@pytest.mark.parametrize(
    "choice, parts",
    [
        ({}, "dev-real test-real train-real train-synth"),
        ({"train_speech": "real"}, "dev-real test-real train-real"),
        ({"train_speech": "synth"}, "dev-real test-real train-synth"),
        ({"test_speech": "synth"}, "dev-real test-synth train-real train-synth"),
    ],
)
def test_timers_and_such_by_part(
    timers: Path, choice: dict[str, str], parts: str
) -> None:
    for part in set(TIMERS_PARTS) - set(parts.split()):
        (timers / f"{part}.csv").unlink()
    assert listed("timers", timers, **choice) == timers_rows(*parts.split())


@pytest.mark.parametrize(
    "file, old, new, complaint",
    [
        ("train-real", "speakerId", "who", "no column speakerId; found path, .*who"),
        ("train-real", "3.5 minus 2", "3.5 minus \xbd", r"line \d is not UTF-8 text"),
        ("dev-real", "one hour", "", "row 2 has no text"),
        ("dev-real", "dev-real/", "../dev-real/", r"row 2 leaves the .*paths to allow"),
        (
            "train-real",
            "'intent': 'SetTimer'",
            "'act': 1",
            "row 2 has no intent in its",
        ),
        ("train-real", "'intent': 'SetTimer'", "'intent': 1", "row 2 has no intent"),
        ("train-real", "'intent': 'SetTimer'", "'intent': ''", "row 2 has no intent"),
        ("train-real", "19}}", "19}", "row 2 has no intent in its sem.*; found .*19}"),
        ("train-real", "19}}", "int(1)}}", "row 2 has no intent in its semantics"),
        ("dev-real", "SetTimer", "Joke", "row 2 has intent 'Joke', which no train row"),
    ],
)
def test_an_invalid_table_of_timers_and_such_is_refused_by_row(
    timers: Path, file: str, old: str, new: str, complaint: str
) -> None:
    change(timers / f"{file}.csv", old, new)
    with pytest.raises(InputError, match=rf"{file}\.csv: .*{complaint}"):
        read("timers", timers)


@pytest.mark.parametrize(
    "semantics", ["__import__('pathlib').Path({!r}).touch()", "(" * 9999 + "{!r}"]
)
def test_semantics_are_not_executed(timers: Path, semantics: str) -> None:
    made = timers / "made"
    rows = [("c.wav", semantics.format(str(made)), "bob", "one hour")]
    write_timers(timers, {"dev-real": rows})
    with pytest.raises(InputError, match=r"dev-real\.csv: row 2 has no intent in its"):
        read("timers", timers)
    assert not made.exists()


# ------------------------------------------------------------------ Snips SmartLights

UNRECORDED = {"never recorded", "another that nobody said"}
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
SNIPS_TEXTS = [text for text in SNIPS_INTENTS if normalise_text(text) not in UNRECORDED]
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
    # The first one has no far-field recording, so the names of the rest differ.
    return write_snips(tmp_path / "snips", FAR, texts=SNIPS_TEXTS[1:])


def test_snips_has_a_row_for_each_recording(snips: Path) -> None:
    audio = f"{CLOSE}/speech_corpus/audio"
    on, colour = "SwitchLightOn", "SetLightColor"
    assert listed("snips", snips) == [
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


@pytest.mark.parametrize(
    "adapter, file, old, new",
    [
        ("slurp", "dataset/slurp/devel.jsonl", '"set"', '"\u200bset\u00a0"'),
        ("slurp", "dataset/slurp/metadata.json", "FO-460", "FO-\u00ad460\ufeff"),
        ("slurp", "dataset/slurp/test.jsonl", "it’s dark", "it’s\u00a0\u200b dark"),
        ("timers", "train-real.csv", "'SetTimer'", "'Set\u200bTimer\u00a0'"),
        ("timers", "train-real.csv", "ann", "\u2060ann"),
        ("snips", f"{CLOSE}/{DATASET}", "SwitchLightOn", "Switch\u200bLightOn\u00a0"),
        ("snips", f"{CLOSE}/{METADATA}", '"w0"', '"w0\u200b"'),
    ],
)
def test_one_label_in_two_spellings_is_one_label(
    request: pytest.FixtureRequest, adapter: str, file: str, old: str, new: str
) -> None:
    root = request.getfixturevalue(adapter)
    before = listed(adapter, root)
    text = (root / file).read_text("utf-8")
    assert old in text
    (root / file).write_text(text.replace(old, new, 1), "utf-8")
    assert listed(adapter, root) == before


@pytest.mark.parametrize(
    "field, close, far", [("close", 13, 0), ("far", 0, 12), ("both", 13, 12)]
)
def test_snips_folds_are_hashes_of_wordings(
    snips: Path, field: str, close: int, far: int
) -> None:
    for fold in range(5):
        table = read("snips", snips, field=field, fold=fold)
        folders = [path.split("/")[0] for path in table["path"]]
        assert folders == [CLOSE] * close + [FAR] * far
        for row in table.itertuples():
            place = (SNIPS_FOLDS[normalise_text(row.text)] - fold) % 5
            assert row.split == ["test", "valid", "train", "train", "train"][place]


def test_snips_does_not_depend_on_the_order_of_its_entries(snips: Path) -> None:
    before = listed("snips", snips, fold=2)
    dataset, metadata = snips / CLOSE / DATASET, snips / CLOSE / METADATA
    entries = json.loads(metadata.read_text())
    metadata.write_text(json.dumps(dict(reversed(entries.items()))))
    intents = json.loads(dataset.read_text())["intents"]
    for part in intents.values():
        part["utterances"].reverse()
    dataset.write_text(json.dumps({"intents": dict(reversed(intents.items()))}))
    assert listed("snips", snips, fold=2) == before


def test_snips_folds_are_stratified_and_hold_wordings_out(tmp_path: Path) -> None:
    counts = {"a": 11, "b": 23, "c": 7, "d": 38}
    queries = {
        intent: [[f"{intent} {number}"] for number in range(size)]
        for intent, size in counts.items()
    }
    # Other spellings of two wordings.
    queries["b"] += [["B 4!"], ["b 9 "]]
    texts = [query[0] for part in queries.values() for query in part]
    write_snips(tmp_path, CLOSE, queries, texts)
    tables = [read("snips", tmp_path, fold=fold).assign(fold=fold) for fold in range(5)]
    tested = pd.concat(table[table["split"] == "test"] for table in tables)
    tested["text"] = tested["text"].map(normalise_text)
    assert len(tested) == len(texts)
    tested = tested.drop_duplicates(["text", "fold"])
    assert tested["text"].is_unique
    sizes = pd.crosstab(tested["intent"], tested["fold"])
    assert sizes.sum(axis=1).to_dict() == counts
    assert (sizes.max(axis=1) - sizes.min(axis=1) <= 1).all()
    assert sorted(sizes.sum()) == [15, 16, 16, 16, 16]
    # Drawn, not in the order of the file.
    first = tested.loc[tested["intent"] == "d"].set_index("text")["fold"]
    in_order = [first[f"d {number}"] for number in range(38)]
    assert len({(b - a) % 5 for a, b in itertools.pairwise(in_order)}) > 2


@pytest.mark.parametrize(
    "file, old, new, complaint",
    [
        (DATASET, "attic", "\xe4ttic", "line 1 is not UTF-8"),
        (DATASET, '"intents"', '"intent"', "the file has no intents"),
        (
            DATASET,
            '"utterances": [{"data": [{"text": "make',
            '"a": [{"b": [{"c": "',
            "no utter",
        ),
        (DATASET, '"data": [{"text": "green', '"a": [{"text": "', "utterance 4 of 'S"),
        (DATASET, '"text": "green"', '"t": "green"', "utterance 4 of 'SetLightColo"),
        (DATASET, '"green"', '"On, please!"', "'On, please!', which also has anoth"),
        (METADATA, '"text": "green"', '"text": "x"', "entry '10' has the text 'x', w"),
        (METADATA, '"text": "green"', '"text": ""', "entry '10' has no usable text"),
        (METADATA, '"7.wav"', '"../7.wav"', "entry '7' has no usable filename; .*'.."),
        (METADATA, '"w1"', "31", "entry '7', worker, has no id; found 31; expected te"),
    ],
)
def test_an_invalid_snips_file_is_refused_by_entry(
    snips: Path, file: str, old: str, new: str, complaint: str
) -> None:
    change(snips / CLOSE / file, old, new)
    with pytest.raises(InputError, match=rf"^{snips / CLOSE / file}: .*{complaint}"):
        read("snips", snips)


def test_an_intent_of_snips_that_no_train_recording_has_is_refused(
    tmp_path: Path,
) -> None:
    queries = {"a": [["one"], ["two"], ["three"], ["four"], ["five"]], "b": [["six"]]}
    texts = ["one", "two", "three", "four", "five", "six"]
    write_snips(tmp_path, CLOSE, queries, texts)
    # The sixth to be dealt.
    for fold in (1, 2, 3):
        assert len(read("snips", tmp_path, fold=fold)) == 6
    for fold in (0, 4):
        with pytest.raises(
            InputError,
            match=r"metadata\.json: entry '5' has intent 'b', which no train row has; "
            "fix: choose another",
        ):
            read("snips", tmp_path, fold=fold)
    # Queries without recordings are not training data.
    queries["b"] += [["seven"], ["eight"]]
    write_snips(tmp_path, CLOSE, queries, texts)
    with pytest.raises(InputError, match="entry '5' has intent 'b', which no train"):
        for fold in range(5):
            read("snips", tmp_path, fold=fold)


# ------------------------------------------------------------------------ all of them


@pytest.mark.parametrize(
    "adapter, missing, choice, complaint",
    [
        ("slurp", "dataset/slurp/devel.jsonl", {}, "not a SLURP .*--root"),
        ("timers", "test-real.csv", {}, "not a Timers and Such .*--root"),
        ("timers", "train-synth", {}, "no such folder.*fix: unpack timers-and-such"),
        ("snips", f"{FAR}/{DATASET}", {"field": "both"}, "not a Snips .*--root"),
        ("snips", f"{FAR}/{METADATA}", {"field": "both"}, "not a Snips .*--root"),
        (
            "snips",
            f"{CLOSE}/speech_corpus/audio",
            {},
            "no such folder.*unpack snips_sl",
        ),
    ],
)
def test_a_missing_file_or_folder_is_named(
    request: pytest.FixtureRequest,
    adapter: str,
    missing: str,
    choice: dict[str, Any],
    complaint: str,
) -> None:
    root: Path = request.getfixturevalue(adapter)
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(InputError, match=rf"^{root / missing}: {complaint}"):
        read(adapter, root, **choice)


@pytest.mark.parametrize(
    "adapter, choice, known",
    [
        ("slurp", {"recordings": "far"}, "one of all, headset, other"),
        ("timers", {"train_speech": "all"}, "one of both, real, synth"),
        ("timers", {"test_speech": "both"}, "one of real, synth"),
        ("snips", {"field": "near"}, "one of close, far, both"),
        ("snips", {"fold": 5}, "0 to 4"),
        ("snips", {"fold": -1}, "0 to 4"),
        ("atis", {"joined_intents": "last"}, "one of first, drop, keep"),
        ("atis", {"repeats": "none"}, "one of labelled, all"),
        ("atis", {"microphones": "ss"}, "one of sc, cs, s, c"),
        ("atis", {"least_utterances": 2}, "3 to 1,000,000"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(
    adapter: str, choice: dict[str, Any], known: str
) -> None:
    (name,) = choice
    with pytest.raises(ConfigurationError, match=rf"corpus\.{name}.*expected {known}"):
        CorpusParams(adapter=adapter, **choice)
