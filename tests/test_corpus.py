"""The corpus stage: the demo is synthesised, other corpora are read and checked."""

import itertools
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from pipeline.params import load_params
from stages.core.errors import ConfigurationError, InputError, RecordingError
from stages.core.hashing import hash_bytes, hash_file
from stages.core.manifest import SPLITS, read_labels, read_manifest, read_texts
from stages.core.text import normalise_text
from stages.corpus.params import CorpusParams
from stages.corpus.phrases import read_phrases
from stages.corpus.run import Summary, run
from stages.speech import effects, synthesis

SHIPPED = Path(__file__).parent.parent / "data" / "demo"

# ---------------------------------------------------------------- the embedded corpus

PARAMS = CorpusParams(
    train_utterances=4, valid_utterances=6, test_utterances=9, sessions="speaker"
)

SENTENCES = """\
action,object,location,text,split
activate,lights,none,lights on,
activate,lights,none,turn on the lights,
activate,lights,none,let there be light,test
set,alarm,none,set an alarm,
set,alarm,none,wake me up,test
stop,music,none,stop the music,
stop,music,none,no more music,test
"""

VOICES = """\
speaker,split,accent,variant,rate,pitch,pitch_range
anna,train,en-us,f1,200,60,50
bob,valid,en-gb,m1,190,30,50
carla,test,en-029,f3,210,55,40
dave,test,en-gb,m3,180,45,60
noise-1,crowd,en-us,m2,170,40,50
noise-2,crowd,en-gb,f2,190,60,50
"""


class Demo:
    """A demo of four speakers in its own folder."""

    def __init__(self, folder: Path, params: CorpusParams = PARAMS) -> None:
        self.data = folder / "data"
        self.output = folder / "cache"
        self.params = params
        (self.data / "demo").mkdir(parents=True, exist_ok=True)
        (self.data / "demo" / "sentences.csv").write_text(SENTENCES)
        (self.data / "demo" / "voices.csv").write_text(VOICES)

    def run(self, workers: int = 2) -> Summary:
        root = self.data / "demo"
        return run(self.params, root=root, output=self.output, workers=workers)

    def audio(self) -> dict[str, bytes]:
        root = self.output / "audio"
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*.wav"))
        }

    def manifest(self) -> pd.DataFrame:
        return read_manifest(self.output / "manifest.csv")

    def rows(self) -> pd.DataFrame:
        """The manifest with each utterance's condition."""
        return self.manifest().merge(pd.read_csv(self.output / "conditions.csv"))


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Synthesised once; tests only read it."""
    corpus = Demo(tmp_path_factory.mktemp("demo"))
    corpus.run()
    return corpus


@pytest.fixture
def copied(spoken: Demo, tmp_path: Path) -> Demo:
    """A copy that tests can change."""
    shutil.copytree(spoken.output, tmp_path / "cache")
    return Demo(tmp_path)


@pytest.fixture
def speeches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants that were synthesised, in order."""
    variants: list[str] = []
    speak = synthesis.speak

    def counted(voice: synthesis.Voice, *arguments: Any, **options: Any) -> list:
        variants.append(voice.variant)
        return speak(voice, *arguments, **options)

    monkeypatch.setattr(synthesis, "speak", counted)
    return variants


def test_the_same_parameters_give_the_same_bytes(spoken: Demo, tmp_path: Path) -> None:
    again = Demo(tmp_path)
    summary = again.run(workers=1)
    assert again.audio() == spoken.audio()
    for name in ("manifest.csv", "intents.json", "conditions.csv"):
        found = (again.output / name).read_bytes()
        assert found == (spoken.output / name).read_bytes()
    assert summary.utterances == {"train": 4, "valid": 6, "test": 18}
    assert summary.intents == 3
    assert "4 train, 6 valid, 18 test utterances, 3 intents" in str(summary)


def test_recordings_match_the_manifest(spoken: Demo) -> None:
    for row in spoken.manifest().itertuples():
        path = spoken.output / "audio" / row.path
        header = soundfile.info(path)
        assert (header.samplerate, header.channels) == (16_000, 1)
        assert header.subtype == "PCM_16"
        assert row.seconds == pytest.approx(header.duration, abs=1e-4)
        assert row.audio_sha256 == hash_file(path)
        assert row.id == f"demo/{row.path.removesuffix('.wav')}"
        samples, _ = soundfile.read(path)
        decibels = 20 * np.log10(np.abs(samples).max())
        assert -20.1 < decibels < -0.9


def test_recordings_start_and_end_with_silence_and_a_hiss(spoken: Demo) -> None:
    rows = spoken.rows()
    clean = rows.loc[rows["condition"] == "clean", "path"]
    assert len(clean) > 10
    before = []
    for path in clean:
        samples, _ = soundfile.read(spoken.output / "audio" / path)
        for edge in (samples[:1600], samples[-1600:]):
            assert edge.any()
            assert -53 < decibels(edge, samples) < -27
        loud = np.abs(samples) > 0.1 * np.abs(samples).max()
        before.append(np.argmax(loud) / 16_000)
    # The silence varies.
    assert min(before) >= 0.1 and np.ptp(before) > 0.1


@pytest.mark.parametrize("missing", [True, False])
def test_only_a_missing_or_damaged_recording_is_synthesised_again(
    spoken: Demo, copied: Demo, speeches: list[str], missing: bool
) -> None:
    copied.run()
    assert speeches == []
    path = copied.output / "audio" / "valid" / "bob" / "003.wav"
    damaged = bytearray(path.read_bytes())
    damaged[-9] ^= 1
    path.unlink() if missing else path.write_bytes(damaged)
    copied.run()
    assert sorted(speeches) == ["f2", "m1", "m2"]  # bob and the crowd
    assert copied.audio() == spoken.audio()


def test_another_synthesiser_or_seed_synthesises_everything_again(
    spoken: Demo, copied: Demo, speeches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.fullmatch(r"\d+\.\d+.*", synthesis.version())
    with monkeypatch.context() as patch:
        patch.setattr(synthesis, "version", lambda: "1.99")
        copied.run()
    assert len(speeches) == 6 and copied.audio() == spoken.audio()
    copied.params = replace(PARAMS, seed=2)
    copied.run()
    assert len(speeches) == 12
    assert copied.audio().keys() == spoken.audio().keys()
    assert all(copied.audio()[path] != audio for path, audio in spoken.audio().items())


def test_recordings_of_an_interrupted_run_are_not_used(
    spoken: Demo, copied: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    fourth = sorted(copied.output.glob("audio/train/*/*.wav"))[3]
    fourth.unlink()
    fourth.mkdir()
    copied.params = replace(PARAMS, seed=2)
    with pytest.raises(IsADirectoryError):
        copied.run(workers=1)
    fourth.rmdir()
    assert copied.audio() != spoken.audio()
    # With the old parameters, whose recipes the other speakers still have.
    copied.params = PARAMS
    copied.run()
    assert copied.audio() == spoken.audio()


def test_every_other_recording_of_a_speaker_is_clean(spoken: Demo) -> None:
    rows = spoken.rows()
    assert len(rows) == 28
    for _, speaker in rows.groupby("speaker"):
        clean = list(speaker.sort_values("path")["condition"] == "clean")
        assert clean == [place % 2 == 0 for place in range(len(clean))]
    noisy = set(rows["condition"]) - {"clean"}
    assert noisy == {"babble", "room", "telephone"}


def test_unseen_wordings_and_speakers_are_in_one_split(spoken: Demo) -> None:
    rows = spoken.manifest()
    unseen = {"let there be light", "wake me up", "no more music"}
    texts = {split: set(group["text"]) for split, group in rows.groupby("split")}
    assert not unseen & (texts["train"] | texts["valid"])
    assert unseen & texts["test"] and texts["test"] - unseen
    assert (rows.groupby("speaker")["split"].nunique() == 1).all()
    assert set(rows["speaker"]) == {"anna", "bob", "carla", "dave"}  # not the crowd


def test_each_speaker_says_all_intents_before_repeating_one(spoken: Demo) -> None:
    phrases = pd.read_csv(spoken.data / "demo" / "sentences.csv").astype(str)
    triples = phrases["action"] + "|" + phrases["object"] + "|" + phrases["location"]
    rows = spoken.manifest()
    intents = triples.set_axis(phrases["text"])
    assert (rows["intent"] == rows["text"].map(intents)).all()
    for _, speaker in rows.groupby("speaker"):
        assert set(speaker.sort_values("path")["intent"][:3]) == set(triples)
    found = read_labels(spoken.output / "intents.json")
    assert found.to_json() == sorted(set(triples))


# ------------------------------------------------------------------ what is shipped


def test_the_shipped_phrases_have_one_intent_and_several_wordings() -> None:
    phrases = pd.read_csv(SHIPPED / "sentences.csv", keep_default_na=False)
    assert set(phrases["split"]) == {"", "valid", "test"}
    texts = phrases["text"].map(normalise_text)
    assert list(texts) == list(phrases["text"])
    assert not texts.duplicated().any()
    intents = phrases.groupby(["action", "object", "location"])["split"]
    assert len(intents) >= 24
    for intent, wordings in intents:
        assert (wordings == "").sum() >= 2, intent
        assert (wordings == "test").sum() >= 1, intent


def test_the_shipped_demo_says_what_its_results_are_of() -> None:
    params = load_params(SHIPPED.parents[1] / "params.yaml").corpus
    rows, _, _ = read_phrases(params, SHIPPED)
    rows = rows[["path", "speaker", "text", "intent", "condition"]].sort_values("path")
    # Its recordings had this hash of texts when its figures were made.
    assert hash_bytes(rows.to_csv(index=False, lineterminator="\n").encode()) == (
        "06554d82640f9d638f2d724962e5973faf1a98060b5ccd72b2d58f36e996ec76"
    )


def test_the_shipped_voices_exist_and_differ_between_splits() -> None:
    voices = pd.read_csv(SHIPPED / "voices.csv")
    assert not voices["speaker"].duplicated().any()
    assert set(voices["split"]) == {*SPLITS, "crowd"}
    assert set(voices["accent"]) <= set(synthesis.ACCENTS)
    assert set(voices["variant"]) <= set(synthesis.variants())
    assert voices["rate"].between(80, 450).all()
    assert voices[["pitch", "pitch_range"]].stack().between(0, 99).all()
    of_split = {
        split: {
            name.lower().rstrip("0123456789") if len(name) > 2 else name
            for name in rows["variant"]
        }
        for split, rows in voices.groupby("split")
    }
    assert not of_split["train"] & of_split["valid"]
    assert not (of_split["train"] | of_split["valid"]) & of_split["test"]
    assert not of_split["crowd"] & (of_split["valid"] | of_split["test"])
    # Some accents are in test only.
    accents = {split: set(rows["accent"]) for split, rows in voices.groupby("split")}
    assert accents["test"] - accents["train"] - accents["valid"]


# -------------------------------------------------------------------- the conditions


def tone(hertz: float, samples: int = 16_000) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000)


def decibels(signal: np.ndarray, reference: np.ndarray) -> float:
    return 10 * np.log10(np.mean(signal**2) / np.mean(reference**2))


def test_babble_is_the_sum_of_all_speakers_at_the_wanted_level() -> None:
    crowd = np.stack([tone(500, 20_000), tone(2000, 20_000)])
    wave = tone(4000, 8001)
    for wanted in (-3.0, 5.0, 15.0):
        mixed = effects.add_babble(wave, crowd, wanted, np.random.default_rng(1))
        assert mixed.shape == wave.shape
        assert decibels(wave, mixed - wave) == pytest.approx(wanted, abs=1e-6)
        spectrum = np.abs(np.fft.rfft(mixed[:-1]))
        assert set(np.argsort(spectrum)[-3:] * 2) == {500, 2000, 4000}


def test_hiss_is_white_and_has_the_wanted_level() -> None:
    wave = tone(440, 80_000)
    hiss = effects.add_hiss(wave, 30, np.random.default_rng(0)) - wave
    assert decibels(wave, hiss) == pytest.approx(30, abs=0.1)
    power = np.abs(np.fft.rfft(hiss)) ** 2
    assert np.sum(power[:20_000]) == pytest.approx(np.sum(power[20_000:]), rel=0.05)


@pytest.mark.parametrize("samples", [1999, 2000, 16_001])
def test_conditions_keep_the_length(samples: int) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, samples)
    response = effects.room_response(np.random.default_rng(0))
    assert effects.telephone(wave).shape == (samples,)
    assert effects.reverberate(wave, response).shape == (samples,)


def test_the_telephone_passes_only_its_band() -> None:
    for hertz in (500, 1000, 2000, 3000):
        assert abs(decibels(effects.telephone(tone(hertz)), tone(hertz))) < 1
    for hertz in (50, 100, 5000, 6500):
        assert decibels(effects.telephone(tone(hertz)), tone(hertz)) < -25


def test_the_telephone_has_the_noise_of_8_bits() -> None:
    wave = tone(1000)
    error = effects.telephone(wave)[4000:12_000]
    phase = np.exp(-2j * np.pi * 1000 * np.arange(4000, 12_000) / 16_000)
    residue = error - 2 * np.real(np.mean(error * phase) * phase.conj())
    assert -60 < decibels(residue, wave) < -30


def test_silence_stays_silence() -> None:
    assert np.abs(effects.telephone(np.zeros(1000))).max() < 1e-9
    crowd = np.ones((1, 4000))
    generator = np.random.default_rng(0)
    assert not effects.add_babble(np.zeros(1000), crowd, 5, generator).any()
    assert not effects.add_hiss(np.zeros(1000), 30, generator).any()


def test_a_room_begins_with_the_direct_path_and_decays() -> None:
    rooms = [effects.room_response(np.random.default_rng(seed)) for seed in range(9)]
    for response in rooms:
        # Two simultaneous echoes can be louder than the direct path.
        assert response.max() == 1 and response.min() >= 0
        assert response[0] > 0.4
        assert 3200 < len(response) <= 5600
        energy = [np.sum(part**2) for part in np.array_split(response, 5)]
        assert energy == sorted(energy, reverse=True)
        assert 10 * np.log10(energy[-1] / energy[0]) < -6
    assert np.median([response[0] for response in rooms]) == 1
    assert not np.array_equal(rooms[0][:3000], rooms[1][:3000])
    again = effects.room_response(np.random.default_rng(1))
    np.testing.assert_array_equal(rooms[1], again)


def test_the_first_echoes_agree_with_the_image_method() -> None:
    size, mouth, ear = (4.0, 5.0, 3.0), (1.0, 2.0, 1.5), (3.0, 2.5, 1.0)

    class Given:
        """Instead of a random generator: the room, its reflection, mouth and ear."""

        values = iter([np.array(size), 0.8, np.array([mouth, ear])])

        def uniform(self, *_: object) -> object:
            return next(self.values)

    response = effects.room_response(Given())  # type: ignore[arg-type]
    # Along each axis: the mouth, and its images in both walls.
    places = [
        ((m, 0), (-m, 1), (2 * w - m, 1)) for m, w in zip(mouth, size, strict=True)
    ]
    echoes = [
        (math.dist([place for place, _ in image], ear), sum(n for _, n in image))
        for image in itertools.product(*places)
    ]
    direct = math.dist(mouth, ear)
    expected = np.zeros(len(response))
    for distance, mirrors in echoes:
        place = int(distance / 343 * 16_000) - int(direct / 343 * 16_000)
        expected[place] += 0.8**mirrors * direct / distance
    # The first image with two reflections along one axis is 5.8 m away.
    until = int((5.8 - direct) / 343 * 16_000)
    assert np.count_nonzero(expected[:until]) >= 7
    np.testing.assert_allclose(
        response[:until] / response[0], expected[:until] / expected[0], atol=1e-9
    )


# ------------------------------------------------------------------- other corpora

TABLE = CorpusParams(name="mine", adapter="table")
GOOD = [
    ("a.wav", "train", "ann", "lights on", "on"),
    ("sub/b.wav", "train", "ann", "lights off", "off"),
    ("c.wav", "valid", "bob", "lights on", "on"),
    ("d.wav", "test", "cid", "lights off please", "off"),
]
HEADING = ("path", "split", "speaker", "text", "intent")


def make_audio(root: Path, paths: list[str]) -> None:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        rate = (16_000, 8000)[number % 2]
        soundfile.write(root / path, tone(300 + number, 800 + number), rate)


def write_table(
    root: Path,
    rows: Sequence[tuple[str, ...]] | None = None,
    heading: tuple[str, ...] = HEADING,
    name: str = "table.csv",
) -> Path:
    separator = "\t" if name.endswith(".tsv") else ","
    lines = [
        separator.join(row) for row in [heading, *(GOOD if rows is None else rows)]
    ]
    path = root / name
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    make_audio(root, [row[0] for row in GOOD])
    return root


Prepare = Callable[..., Summary]


@pytest.fixture
def prepare(root: Path, tmp_path: Path) -> Prepare:
    def prepared(params: CorpusParams = TABLE, at: Path | None = root) -> Summary:
        return run(params, root=at, output=tmp_path / "out", workers=2)

    return prepared


def test_a_table_becomes_a_manifest(root: Path, prepare: Prepare) -> None:
    write_table(root, GOOD[::-1])
    summary = prepare()
    rows = read_manifest(summary.manifest)
    assert list(rows["id"]) == ["mine/a", "mine/c", "mine/d", "mine/sub/b"]
    assert list(rows["path"]) == ["a.wav", "c.wav", "d.wav", "sub/b.wav"]
    assert list(rows["intent"]) == ["on", "on", "off", "off"]
    assert list(rows["seconds"]) == [0.05, 0.0501, 0.1004, 0.1001]
    assert list(rows["audio_sha256"]) == [
        hash_file(root / path) for path in rows["path"]
    ]
    output = summary.manifest.parent
    assert read_labels(output / "intents.json").to_json() == ["off", "on"]
    assert (output / "conditions.csv").read_text() == "id,condition\n"
    assert (summary.utterances, summary.intents) == (
        {"train": 2, "valid": 1, "test": 1},
        2,
    )


def test_a_tsv_file_with_other_columns_and_no_speakers(
    root: Path, prepare: Prepare
) -> None:
    heading = ("file", "part", "unused", "said", "label")
    write_table(root, heading=heading, name="rows.tsv").rename(root / "ROWS.TSV")
    params = replace(
        TABLE,
        table="ROWS.TSV",
        path_column="file",
        split_column="part",
        speaker_column="",
        text_column="said",
        intent_column="label",
    )
    rows = read_manifest(prepare(params).manifest)
    assert set(rows["speaker"]) == {""}
    assert list(rows["text"])[2] == "lights off please"


def changed(row: int, column: int, value: str) -> list[tuple[str, ...]]:
    rows = [list(one) for one in GOOD]
    rows[row][column] = value
    return [tuple(one) for one in rows]


@pytest.mark.parametrize(
    "rows, complaint",
    [
        (changed(2, 0, "."), r"table\.csv: row 4 names a folder; found '\.'"),
        (
            changed(2, 0, "no.wav"),
            r"1 of 4 recordings do not exist; found no no\.wav \(table\.csv row 4\)",
        ),
        (
            changed(2, 0, "a.wav"),
            r"the same recording; found a\.wav \(table\.csv row 2\), a\.wav "
            r"\(table\.csv row 4\); 2 such rows",
        ),
        (
            changed(2, 0, "./a.wav"),
            r"the same recording; .*row 2\), a\.wav .*row 4\)",
        ),
        (
            changed(2, 0, "a.flac"),
            r"have one id; found a\.wav \(table\.csv row 2\), a\.flac",
        ),
        (changed(2, 0, "../c.wav"), r"row 4 leaves the corpus root; found '\.\./c"),
        (changed(2, 0, "/c.wav"), "row 4 leaves the corpus root"),
        (changed(2, 0, " "), "row 4 has no path"),
        (changed(1, 3, ""), "row 3 has no text"),
        (changed(0, 4, ""), "row 2 has no intent"),
        (changed(3, 1, "dev"), "row 5 has an unknown split; found 'dev'; expected tr"),
        (changed(3, 4, "dim"), r"table\.csv: row 5 has intent 'dim', which no train"),
        (changed(1, 3, "lights\a off"), "row 3 has a control character in its text"),
        (changed(1, 3, "off, please"), "not a readable table"),
        ([row[:4] for row in GOOD], "row 2 has no intent"),
        ([], "no utterance in split 'train'"),
        (GOOD[:3], r"corpus: no utterance in split 'test'; found 2 train, 1 valid"),
    ],
)
def test_a_bad_row_is_refused_by_file_and_row(
    root: Path,
    prepare: Prepare,
    rows: list[tuple[str, ...]],
    complaint: str,
) -> None:
    soundfile.write(root / "a.flac", tone(500), 16_000)
    write_table(root, rows)
    with pytest.raises(InputError, match=complaint) as caught:
        prepare()
    assert "\n" not in str(caught.value)
    if complaint.startswith("row "):
        assert str(caught.value).startswith(f"{root / 'table.csv'}: row ")


MORE = [("lights on please", "on"), ("lights on please", "on"), ("go dark", "off")]


def write_texts(root: Path, rows: Sequence[tuple[str, str]]) -> CorpusParams:
    lines = ["text,intent", *map(",".join, rows)]
    (root / "more.csv").write_text("\n".join(lines) + "\n")
    return replace(TABLE, texts="more.csv")


def test_texts_without_recordings_are_added_to_train(
    root: Path, prepare: Prepare
) -> None:
    write_table(root, GOOD)
    plain = prepare()
    output = plain.manifest.parent
    manifest = plain.manifest.read_bytes()
    assert (output / "texts.csv").read_text() == "text,intent\n"
    summary = prepare(write_texts(root, MORE))
    assert "; 3 texts without recordings" in str(summary)
    found = read_texts(output / "texts.csv")
    assert list(found.itertuples(index=False, name=None)) == MORE
    assert plain.manifest.read_bytes() == manifest
    (output / "texts.csv").write_text("text,intent\n")
    with pytest.raises(InputError, match=r"texts\.csv.*prepare-corpus"):
        read_texts(output / "texts.csv")


def test_texts_are_in_the_root_of_a_corpus_that_is_spoken(
    copied: Demo, speeches: list[str]
) -> None:
    copied.params = replace(PARAMS, texts="more.csv")
    (copied.data / "demo" / "more.csv").write_text(
        "text,intent\nshine,activate|lights|none\n"
    )
    copied.run()
    assert list(read_texts(copied.output / "texts.csv")["text"]) == ["shine"]
    assert speeches == []


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("", "on"), "row 5 has no text"),
        (("go darker", ""), "row 5 has no intent"),
        (("go\adark", "off"), "row 5 has a control character in its text"),
        (("dim it", "dim"), "row 5 has intent 'dim', which no recording of train"),
        (("Lights ON!", "off"), "row 5 has another label than the same words.*'on'"),
        (("Go dark!", "on"), "row 5 has another label than the same words.*'off'"),
        (("Lights: out!", "off"), "row 5 is also said in valid"),
        (("Kill the lights.", "off"), "row 5 is also said in test"),
    ],
)
def test_a_bad_text_without_recording_is_refused_by_file_and_row(
    root: Path, prepare: Prepare, row: tuple[str, str], complaint: str
) -> None:
    said = ("lights on", "lights off", "lights out", "kill the lights")
    write_table(
        root, [(*old[:3], text, old[4]) for old, text in zip(GOOD, said, strict=True)]
    )
    params = write_texts(root, [*MORE, row])
    with pytest.raises(InputError, match=complaint) as caught:
        prepare(params)
    assert str(caught.value).startswith(f"{root / 'more.csv'}: row 5")


def test_texts_of_a_corpus_with_slots_have_its_columns(
    root: Path, prepare: Prepare
) -> None:
    heading = (*HEADING[:4], "action", "room")
    rows = [(*row, "hall" if row[4] == "on" else "") for row in GOOD]
    write_table(root, rows, heading)
    params = replace(TABLE, slots=("action", "room"), texts="more.csv")
    (root / "more.csv").write_text("room,action,text\n,on,shine\nhall,off,go dark\n")
    output = prepare(params).manifest.parent
    assert list(read_texts(output / "texts.csv")["intent"]) == ["on|none", "off|hall"]
    (root / "more.csv").write_text("room,action,text\n,on,shine\nattic,off,go dark\n")
    with pytest.raises(InputError, match=r"more\.csv: row 3 has room 'attic'"):
        prepare(params)


def test_a_table_of_texts_outside_the_root_is_refused(
    root: Path, prepare: Prepare
) -> None:
    write_table(root, GOOD)
    with pytest.raises(ConfigurationError, match=r"corpus\.texts leaves the corpus"):
        prepare(replace(TABLE, texts="../more.csv"))


def records(rows: Sequence[tuple[str, ...]] = GOOD) -> list[dict[str, str]]:
    return [dict(zip(HEADING, row, strict=True)) for row in rows]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_json_lines_and_parquet_give_the_same_as_csv(
    root: Path, prepare: Prepare, name: str
) -> None:
    # Numbers become text, a missing value is empty, other columns are not read.
    rows = [{**one, "speaker": n or None} for n, one in enumerate(records())]
    write_table(
        root, [(*row[:2], str(n or ""), *row[3:]) for n, row in enumerate(GOOD)]
    )
    expected = read_manifest(prepare().manifest)
    if name.endswith("jsonl"):
        lines = [json.dumps({**one, "wer": [0.5], "x": None}) for one in rows]
        (root / name).write_text("\n".join(lines) + "\n")
    else:
        table = pd.DataFrame(rows).astype({"speaker": "Int64"})
        table.assign(x=[1, None, 2, 3]).to_parquet(root / name)
    found = read_manifest(prepare(replace(TABLE, table=name)).manifest)
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(
    "content, complaint",
    [
        ('{"path": "a.wav"}\n{"path"\n', "line 2 is not JSON"),
        ("[1]\n", "line 1 is not an object; found list"),
        ('{"path": "a.wav"}\n', "no column intent, speaker, split, text; found path"),
        ("", "no column intent"),
        (
            "\n".join(map(json.dumps, records(changed(3, 1, "dev")))),
            "row 4 has an unknown split",
        ),
    ],
)
def test_invalid_json_lines_are_refused_by_line(
    root: Path, prepare: Prepare, content: str, complaint: str
) -> None:
    (root / "rows.jsonl").write_text(content)
    with pytest.raises(InputError, match=rf"rows\.jsonl: {complaint}"):
        prepare(replace(TABLE, table="rows.jsonl"))


def test_without_pyarrow_parquet_names_the_extra(
    root: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (root / "rows.parquet").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"pyarrow.*\[parquet\]"):
        prepare(replace(TABLE, table="rows.parquet"))


def test_paths_relative_to_the_table_and_absolute_ones(
    root: Path, prepare: Prepare
) -> None:
    write_table(root)
    expected = prepare().manifest.read_bytes()
    (root / "tables").mkdir()
    rows = [(f"../{path}", *rest) for path, *rest in GOOD]
    write_table(root, rows, name="tables/rows.csv")
    found = prepare(replace(TABLE, table="tables/rows.csv")).manifest.read_bytes()
    assert found == expected
    write_table(root, [(f"{root.resolve()}/{path}", *rest) for path, *rest in GOOD])
    (root.parent / "link").symlink_to(root)
    for one in (root, root.parent / "link"):
        assert prepare(at=one).manifest.read_bytes() == expected


@pytest.mark.parametrize("absolute", [False, True])
def test_recordings_outside_the_root_must_be_allowed(
    root: Path, prepare: Prepare, absolute: bool
) -> None:
    other = root.parent / "other"
    other.mkdir()
    (root / "c.wav").rename(other / "c.wav")
    outside = f"{other.resolve()}/c.wav" if absolute else "../other/c.wav"
    write_table(root, [(row[0].replace("c.wav", outside), *row[1:]) for row in GOOD])
    with pytest.raises(
        InputError,
        match=r"leaves the corpus root; .*set corpus\.outside_paths to allow",
    ):
        prepare()
    allowed = replace(TABLE, outside_paths="allow")
    # The same if the root is a link.
    (root.parent / "data").mkdir()
    (root.parent / "data" / "mine").symlink_to(root.resolve())
    manifests = []
    for at in (root, root.parent / "data" / "mine"):
        manifest = prepare(allowed, at).manifest
        manifests.append(manifest.read_bytes())
        table = read_manifest(manifest).set_index("id")
        assert table["path"]["mine/../other/c"] == "../other/c.wav"
        found = table["audio_sha256"]["mine/../other/c"]
        assert found == hash_file(other / "c.wav")
    assert manifests[0] == manifests[1]


def test_new_splits_of_a_table_without_splits(root: Path, prepare: Prepare) -> None:
    rows = [
        (f"{n}.wav", f"speaker {n % 10}", "lights", ("on", "off")[n % 2])
        for n in range(40)
    ]
    make_audio(root, [path for path, *_ in rows])
    write_table(root, rows, heading=("path", "speaker", "text", "intent"))
    with pytest.raises(InputError, match=r"no column split; .*corpus\.splits"):
        prepare()
    made = replace(TABLE, splits="speakers", test_share=0.3)
    table = read_manifest(prepare(made).manifest)
    assert (table.groupby("speaker")["split"].nunique() == 1).all()
    assert table["split"].value_counts().to_dict() == {
        "train": 24,
        "test": 12,
        "valid": 4,
    }


def test_warnings_about_speakers_and_intents(
    root: Path, prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    write_table(root)
    prepare()
    assert not caplog.text
    # Spaces around a field do not make another speaker or intent.
    rows = [*changed(3, 2, " ann "), ("e.wav", "train", "dan", "dim it", "dim ")]
    make_audio(root, ["e.wav"])
    write_table(root, rows)
    assert set(read_manifest(prepare().manifest)["intent"]) == {"on", "off", "dim"}
    assert (
        "1 speakers are in train and in test: ann: a.wav (table.csv row 2) and d.wav "
        "(table.csv row 5)" in caplog.text
    )
    assert (
        "1 intents have a single utterance: dim: e.wav (table.csv row 6)" in caplog.text
    )


def test_empty_lines_are_allowed_at_the_end_only(root: Path, prepare: Prepare) -> None:
    path = write_table(root)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "", ""]) + "\n")
    prepare()
    for gap in ("", ",,,,"):
        path.write_text("\n".join([*lines[:3], gap, *lines[3:]]) + "\n")
        with pytest.raises(InputError, match=r"table\.csv: line 4 is empty"):
            prepare()


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"PAR1, or so it says", "not a readable table"),
        (
            "path,split,speaker,text,intent\na.wav,train,Jörg,x,y\n".encode("latin-1"),
            "UTF-8",
        ),
        (b"", "not a readable table"),
        (b'path,split\n"a.wav,train\n', "not a readable table"),
        (b"path,split,speaker,text,intent\na,b,c,d,e,f,g\n", "not a readable table"),
        (b"path,text,text\na,b,c\n", "column 'text' is repeated"),
        (
            b"path,split,who,text,label\na,b,c,d,e\n",
            "no column intent, speaker; found path, .*label",
        ),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(
    root: Path, prepare: Prepare, content: bytes, complaint: str
) -> None:
    name = "rows.parquet" if content.startswith(b"PAR1") else "table.csv"
    (root / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: .*{complaint}") as caught:
        prepare(replace(TABLE, table=name))
    assert "\n" not in str(caught.value)


def test_a_missing_table_or_root_is_named_with_its_setting(
    root: Path, prepare: Prepare
) -> None:
    with pytest.raises(InputError, match=r"table\.csv: no such table.*corpus\.table"):
        prepare()
    path = write_table(root)
    for name in ("../corpus/table.csv", str(path)):
        with pytest.raises(ConfigurationError, match=r"corpus\.table leaves .*\.csv"):
            prepare(replace(TABLE, table=name))
    with pytest.raises(InputError, match=r"nowhere: no such corpus root.*--root"):
        prepare(at=root / "nowhere")
    with pytest.raises(ConfigurationError, match=r"'mine' needs .*ALN_CORPUS_ROOT"):
        prepare(at=None)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", r"not an audio file.*expected WAV"),
        (b"no audio at all, but long enough" * 9, r"not an audio file.*expected WAV"),
        (None, "the recording is empty"),
    ],
)
def test_an_invalid_recording_is_named(
    root: Path, prepare: Prepare, content: bytes | None, complaint: str
) -> None:
    write_table(root)
    if content is None:
        soundfile.write(root / "sub" / "b.wav", np.zeros(0), 16_000)
    else:
        (root / "sub" / "b.wav").write_bytes(content)
    with pytest.raises(InputError, match=rf"sub/b\.wav: {complaint}"):
        prepare()


def test_invalid_recordings_can_be_quarantined_later(
    root: Path, prepare: Prepare
) -> None:
    write_table(root)
    soundfile.write(root / "c.wav", np.zeros(0), 16_000)
    (root / "sub" / "b.wav").write_bytes(b"no audio")
    lenient = replace(TABLE, on_error="quarantine")
    for _ in range(2):
        summary = prepare(lenient)
        assert summary.unreadable == 2
        assert "; 2 cannot be read, extraction sets them aside" in str(summary)
        table = read_manifest(summary.manifest).set_index("path")
        assert table["seconds"][["c.wav", "sub/b.wav"]].tolist() == [0, 0]
        assert (table["seconds"].drop(["c.wav", "sub/b.wav"]) > 0).all()
        assert table["audio_sha256"]["c.wav"] == hash_file(root / "c.wav")
    # With `stop` they are errors again.
    with pytest.raises(RecordingError, match=r"(b|c)\.wav: .*--on-error quarantine"):
        prepare()


@pytest.mark.parametrize(
    "change",
    [
        {"adapter": "ftp"},
        {"name": "a/b"},
        {"name": ""},
        {"on_error": "skip"},
        {"splits": "any"},
        {"valid_share": 0.8},
        {"test_utterances": 0},
        {"seed": -1},
        {"longest_seconds": 0},
    ],
)
def test_invalid_parameters_are_named(change: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=rf"corpus\.{next(iter(change))}"):
        replace(TABLE, **change)  # type: ignore[arg-type]


FSC = CorpusParams(name="fsc", adapter="fsc")
FSC_HEADING = ",path,speakerId,transcription,action,object,location"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A small Fluent Speech Commands release."""
    root = tmp_path / "fsc"
    (root / "data").mkdir(parents=True)
    for split, rows in {
        "train": [
            ("Ab", "Lights on", "activate,lights,none"),
            ("Ab", "No", "x,y,none"),
        ],
        "valid": [("Cd", "Lights, on!", "activate,lights,none")],
        "test": [("Ef", "No", "x,y,none")],
    }.items():
        lines = [FSC_HEADING]
        for number, (speaker, text, intent) in enumerate(rows):
            path = f"wavs/speakers/{speaker}/{split}-{number}.wav"
            make_audio(root, [path])
            lines.append(f'{number},{path},{speaker},"{text}",{intent}')
        (root / "data" / f"{split}_data.csv").write_text("\n".join(lines) + "\n")
    return root


def test_fluent_speech_commands(release: Path, prepare: Prepare) -> None:
    rows = read_manifest(prepare(FSC, release).manifest)
    on, other = "activate|lights|none", "x|y|none"
    columns = ["id", "split", "speaker", "text", "intent"]
    assert rows[columns].to_numpy().tolist() == [
        ["fsc/wavs/speakers/Ab/train-0", "train", "Ab", "Lights on", on],
        ["fsc/wavs/speakers/Ab/train-1", "train", "Ab", "No", other],
        ["fsc/wavs/speakers/Cd/valid-0", "valid", "Cd", "Lights, on!", on],
        ["fsc/wavs/speakers/Ef/test-0", "test", "Ef", "No", other],
    ]


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        ("x,y,none", "x,z,none", r"row 2 has intent 'x\|z\|none', which no train"),
        ("speakerId", "speaker", "no column speakerId; found .*speaker"),
        (",wavs", ",../wavs", "row 2 leaves the corpus root"),
    ],
)
def test_an_invalid_release_is_refused_by_table_and_row(
    release: Path, prepare: Prepare, old: str, new: str, complaint: str
) -> None:
    path = release / "data" / "test_data.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"test_data\.csv: {complaint}"):
        prepare(FSC, release)
    path.unlink()
    with pytest.raises(InputError, match=r"test_data\.csv: not a Fluent Speech Comm"):
        prepare(FSC, release)
