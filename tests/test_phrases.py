"""Sentences become a corpus: templates, voices, conditions, and what a change costs."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import soundfile
from onnx import TensorProto, helper

from stages.core.errors import ConfigurationError, InputError, PipelineError
from stages.core.manifest import SPLITS, read_labels, read_manifest
from stages.corpus import draws
from stages.corpus.params import CorpusParams
from stages.corpus.phrases import read_phrases
from stages.corpus.run import Summary, run
from stages.corpus.sentences import read_said
from stages.corpus.voices import read_speakers
from stages.speech import engines, flite, synthesis
from stages.speech.synthesis import Voice

PARAMS = CorpusParams(
    name="lamps",
    train_voices=2,
    valid_voices=1,
    test_voices=1,
    train_utterances=6,
    valid_utterances=3,
    test_utterances=6,
)
SENTENCES = """\
text,intent,split
lamp on,on,
light please,on,
let there be light,on,test
lamp off,off,
no more light,off,
Make it brighter,brighter,
"""
GRAMMAR = """\
language: en
intents:
  Turn:
    data:
      - sentences:
          - "<please> (turn|switch) {state} [the] [{colour}] {room} lights"
          - "make it {level} percent[ in the {room}]"
      - sentences: ["it is too dark [in the {room}]"]
        slots:
          state: on
  Stop:
    data:
      - sentences: ["stop [it]", "(now; stop)"]
lists:
  state: {values: ["on", "off"]}
  colour:
    values: [red, {in: "(light|pale) green", out: green}]
  room:
    values: [kitchen, bedroom, {in: living room, out: lounge}]
  level:
    range: {from: 10, to: 30, step: 10}
expansion_rules:
  please: "[please]"
"""
SLOTS = ("intent", "state", "room", "level", "colour")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "lamps"
    folder.mkdir()
    return folder


@pytest.fixture
def speak(root: Path) -> Callable[..., Summary]:
    def spoken(params: CorpusParams = PARAMS) -> Summary:
        return run(params, root=root, output=root.parent / "out", workers=2)

    return spoken


def audio(root: Path) -> dict[str, bytes]:
    found = root.parent / "out" / "audio"
    return {
        path.relative_to(found).as_posix(): path.read_bytes()
        for path in found.rglob("*.wav")
    }


def said(root: Path, grammar: str, params: CorpusParams = PARAMS) -> pd.DataFrame:
    (root / "sentences.yaml").write_text(grammar)
    return read_said(params, root)[0]


def shares(values: pd.Series) -> dict[str, float]:
    return dict(values.value_counts(normalize=True))


# --------------------------------------------------------------------------- sentences


def test_every_voice_says_all_intents_and_only_sentences_of_its_split(
    root: Path, speak: Callable[..., Summary]
) -> None:
    (root / "sentences.csv").write_text(SENTENCES)
    speak()
    rows = read_manifest(root.parent / "out" / "manifest.csv")
    known = pd.read_csv(root / "sentences.csv").set_index("text")["intent"]
    assert (rows["intent"] == rows["text"].map(known)).all()
    assert dict(rows["split"].value_counts()) == {"train": 12, "valid": 3, "test": 6}
    for _, own in rows.groupby("speaker"):
        counts = own["intent"].value_counts()
        assert len(counts) == 3 and counts.max() == counts.min()
    said_in = rows.groupby("text")["split"].unique()
    assert list(said_in["let there be light"]) == ["test"]
    assert "train" in said_in["light please"] and "test" in said_in["light please"]
    conditions = pd.read_csv(root.parent / "out" / "conditions.csv")
    assert set(conditions["condition"]) > {"clean", "room"}


def test_slots_of_a_table(root: Path, speak: Callable[..., Summary]) -> None:
    (root / "sentences.csv").write_text(
        "what,text,how\nlamp,lamp on,on\nlamp,lamp off,off\n,hello,\n"
    )
    speak(replace(PARAMS, slots=("how", "what")))
    labels = read_labels(root.parent / "out" / "intents.json")
    assert labels.slots == {"how": ["none", "off", "on"], "what": ["lamp", "none"]}
    rows = read_manifest(root.parent / "out" / "manifest.csv")
    assert set(rows["intent"][rows["text"] == "hello"]) == {"none|none"}
    with pytest.raises(InputError, match=r"no column room.*: correct corpus\.slots"):
        speak(replace(PARAMS, slots=("room",)))


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("text,intent\n", "sentences.csv: has no sentences"),
        ("words,intent\na,b\n", "sentences.csv: no column text"),
        ("text\nlamp on\n", "sentences.csv: no column intent"),
        ("text,intent\nlamp on,\n", "row 2 has no intent"),
        ("text,intent\nlamp on,a\n...,b\n", "row 3 has no word that can be spoken"),
        ("text,intent\nlamp on,a\n🙂,b\n", "row 3 has no word .*found '🙂'"),
        ("text,intent\nlamp on,a\nlamp on,b\n", "row 3 repeats the sentence of row 2"),
        ("text,intent,split\na b,c,tst\n", "row 2 has an unknown split; found 'tst'"),
        ("text,intent\nlamp on,a\nlamp off,a\n", "a single intent, 'a'"),
        ("text,intent,split\na,b,\nc,d,\ne,f,test\n", "intent 'f', which no train"),
        ("text,intent,split\na,b,train\nc,d,train\n", "no sentence for valid"),
        ("text,intent\nlamp on,a\n᠐,b\n", "row 3 cannot be spoken by espeak"),
        ("text,intent\nlamp on,a\n开灯,b\n", "row 3 .* espeak, which speaks English"),
        ("text,intent\nlamp on,a\nLamp on!,b\n", "row 3 repeats the sentence of row 2"),
    ],
)
def test_sentences_that_cannot_be_used_are_named(
    root: Path, speak: Callable[..., Summary], table: str, named: str
) -> None:
    (root / "sentences.csv").write_text(table, "utf-8")
    with pytest.raises(InputError, match=named) as caught:
        speak()
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)


# --------------------------------------------------------------------------- templates


def test_templates_give_sentences_and_slots(root: Path) -> None:
    rows = said(root, GRAMMAR, replace(PARAMS, slots=SLOTS))
    frames = rows.set_index("text")["intent"]
    for text, frame in {
        "turn off the pale green living room lights": "Turn|off|lounge|none|green",
        "switch on bedroom lights": "Turn|on|bedroom|none|none",
        "make it twenty percent in the kitchen": "Turn|none|kitchen|20|none",
        "it is too dark": "Turn|on|none|none|none",
        "now stop": "Stop|none|none|none|none",
        "stop now": "Stop|none|none|none|none",
        "stop it": "Stop|none|none|none|none",
    }.items():
        assert frames[text] == frame
    # Every sentence that there is: counted by hand, list by list.
    turn = 2 * 2 * 2 * 2 * (1 + 1 + 2) * 3 + 3 * (1 + 3) + (1 + 3)
    assert len(rows) == turn + 4 and not rows["text"].duplicated().any()
    # Without slots, the intent is the intent's name.
    assert set(said(root, GRAMMAR)["intent"]) == {"Turn", "Stop"}


HUGE = """\
intents:
  Order:
    data:
      - sentences: ["<w> <w> <w> <w> <w> [{size}] {drink} [with {milk}]"]
  Cancel:
    data:
      - sentences: ["<w> <w> <w> <w> <w> cancel"]
lists:
  size: {values: [small, medium, large]}
  drink: {values: [coffee, tea, cocoa, water, juice]}
  milk: {range: {from: 1, to: 9}}
expansion_rules:
  w: "(a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t)"
"""


def test_millions_are_sampled_evenly_over_intents_and_values(root: Path) -> None:
    slots = ("intent", "size", "drink", "milk")
    params = replace(PARAMS, sentences=2000, slots=slots)
    rows = said(root, HUGE, params)
    _, (note,) = read_said(params, root)
    millions = 20**5 * (4 * 5 * 10 + 1)
    assert f"2,000 of up to {millions:,} sentences" in note
    assert not rows["text"].duplicated().any()
    assert shares(rows["group"]) == {"Order": 0.5, "Cancel": 0.5}
    values = rows[rows["group"] == "Order"]["intent"].str.split("|", expand=True)
    for column, count in ((1, 4), (2, 5), (3, 10)):
        found = shares(values[column])
        assert len(found) == count
        # Within four standard deviations of a thousand draws.
        limit = 4 * np.sqrt((1 - 1 / count) / count / 1000)
        assert all(abs(share - 1 / count) < limit for share in found.values())


@pytest.mark.parametrize(
    ("old", "new", "most"),
    [
        ("tea, cocoa", "tea, mate, cocoa", 1 / 6),
        ('cancel"]', 'cancel", "<w> <w> <w> <w> <w> stop"]', 1 / 2),
        ("|t)", "|t|u)", 5 / 21),
    ],
)
def test_a_new_value_or_template_displaces_no_more_than_its_share(
    root: Path, old: str, new: str, most: float
) -> None:
    params = replace(PARAMS, sentences=1000)
    before = said(root, HUGE, params)
    after = said(root, HUGE.replace(old, new), params)
    group = "Cancel" if "cancel" in old else "Order"
    one, other = (set(t["text"][t["group"] == group]) for t in (before, after))
    assert 0 < len(other - one) / len(one) < most + 0.06
    if "cancel" in old:
        kept = [set(t["text"][t["group"] == "Order"]) for t in (before, after)]
        assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("{room} lights", "{romm} lights", r"line 6 names the unknown list \{romm\}"),
        ("<please> (turn", "<pls> (turn", "line 6 names the unknown rule <pls>"),
        ("(turn|switch)", "(turn|switch", r"line 6 cannot be parsed .*'\)'"),
        ("[the]", "[the", r"line 6 cannot be parsed"),
        ("switch) {", "switch)] {", r"line 6 cannot be parsed"),
        ("[please]", "[please <please>]", "rule <please>, which contains itself"),
        ("[red,", "[\"{colour}\",", r"list \{colour\}, which contains itself"),
        ("values: [red, {in: \"(light|pale) green\", out: green}]", "values: []",
         r"line 16 has no values for the list \{colour\}"),
        ("values: [red, {in: \"(light|pale) green\", out: green}]", "wildcard: true",
         r"line 6 names the list \{colour\}, which any text is in"),
        ("step: 10", "step: 0", "line 21 has a range that cannot be used"),
        ("from: 10", "from: ten", "line 21 has no range"),
        ("out: green", "out: gr|een", r"line 17 has a name or value .*contains '\|'"),
        ("[\"on\", \"off\"]", "[\"on\", \"off\"", "line 15 is not YAML"),
        ("  Stop:", "  Turn:", r"line 11 is not YAML \(found duplicate key .Turn.\)"),
        ("sentences: [\"stop", "sentence: [\"stop", "has no sentences for .* Stop"),
        ("\"stop [it]\"", "\"🙂\"", "line 13 has no word that can be spoken"),
        ("\"stop [it]\"", "it is too dark", "repeats the sentence of line"),
        ("intents:", "intent:", "has no intents"),
        ("switch) {state}", "switch) {state} {room}", "line 6 has two values for the"),
        ("  Stop:", "  a|b:", r"line 11 has a name .* contains '\|'"),
        ("  Stop:", "  ~:", "line 11 has a name or value that is empty"),
        ("kitchen, b", "(a|b), b", "line 19 .*{in: template, out: value}"),
        ("red,", "2024-01-01,", "line 17 is not a single value"),
        ("{in: living room", "{in: [a]", "line 19 is not a single value"),
        ("to: 30", "to: 30.5", "line 21 has no range"),
        ("language: en", "language: nb", "line 21 has numbers in a language"),
        ("\"stop [it]\"", "\"st\\0op\"", "line 13 has a control character"),
        ("\"stop [it]\"", "It is too dark!", "repeats the sentence of line"),
        ("language: en", "language: \a", r"not YAML \(unacceptable"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_used_are_named_with_their_line(
    root: Path, old: str, new: str, named: str
) -> None:
    assert old in GRAMMAR
    with pytest.raises(InputError, match=named) as caught:
        said(root, GRAMMAR.replace(old, new, 1))
    line = str(caught.value)
    assert line.startswith(f"{root / 'sentences.yaml'}: ") and "\n" not in line


def test_keys_that_mean_nothing_here_are_named(root: Path) -> None:
    grammar = GRAMMAR.replace("step: 10", "step: 10, multiplier: 2")
    grammar = f"skip_words: [please]\n{grammar}".replace("sentences: [\"stop", (
        "<<: {response: none}\n        slot: {state: off}\n        sentences: [\"stop"
    ))  # fmt: skip
    (root / "sentences.yaml").write_text(grammar)
    _, (note,) = read_said(PARAMS, root)
    ignored = "skip_words (line 1), slot (line 15), multiplier (line 24)"
    assert note.endswith(f"; ignored: {ignored}")


def test_a_grammar_without_end_is_sampled(root: Path) -> None:
    rules = "".join(f"  r{n}: '<r{n + 1}> [<r{n + 1}>]'\n" for n in range(14))
    (root / "sentences.yaml").write_text(
        "intents: {A: {data: [{sentences: ['<r0>']}]}}\n"
        f"expansion_rules:\n{rules}  r14: (yes|no)\n"
    )
    rows, (note,) = read_said(replace(PARAMS, sentences=5), root)
    assert len(rows) == 5 and "5 of more than 10^15 sentences" in note


def test_lists_of_a_block_are_its_own(root: Path) -> None:
    rows = said(root, """\
intents:
  Go:
    data:
      - {sentences: ["go {way}"], lists: {way: {values: [left]}}}
      - {sentences: ["go {way}"], lists: {way: {values: [right]}}}
""")  # fmt: skip
    assert set(rows["text"]) == {"go left", "go right"}


def test_a_slot_that_no_sentence_has_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"no sentence has the slot rom; .*room"):
        said(root, GRAMMAR, replace(PARAMS, slots=("state", "rom")))


# ------------------------------------------------------------------------------ voices


def test_drawn_voices_differ_between_splits_and_more_keep_the_first(root: Path) -> None:
    params = replace(PARAMS, train_voices=60, valid_voices=30, test_voices=30)
    speakers, crowd = read_speakers(params, root)
    families: dict[str, set[str]] = {split: set() for split in (*SPLITS, "crowd")}
    for one in speakers:
        families[one.split].add(synthesis.family(one.voice.variant))
    families["crowd"] = {synthesis.family(voice.variant) for _, voice in crowd}
    counted = Counter(name for names in families.values() for name in names)
    assert max(counted.values()) == 1
    voices = [one.voice for one in speakers]
    assert len(set(voices)) == 120 and len(families["train"]) > 20
    assert len({voice.accent for voice in voices}) == len(synthesis.ACCENTS)
    for attribute in ("rate", "pitch", "pitch_range"):
        assert np.ptp([getattr(voice, attribute) for voice in voices]) > 40
    fewer, same = read_speakers(replace(params, train_voices=10), root)
    assert fewer[:10] == speakers[:10] and fewer[10:] == speakers[60:]
    assert same == crowd


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("a,train,en-us,f1,fast,50,50", "row 2 has a rate .*'fast'.*80 to 450"),
        ("a,train,en-us,f1,100,100,50", "row 2 has a pitch .*0 to 99"),
        ("a/b,train,en-us,f1,100,50,50", "row 2 has a speaker"),
        ("a,dev,en-us,f1,100,50,50", "row 2 has a split"),
        ("a,train,en-us,Nobody,100,50,50", "unknown espeak-ng variant"),
    ],
)
def test_given_voices_are_checked(
    root: Path, speak: Callable[..., Summary], row: str, named: str
) -> None:
    (root / "sentences.csv").write_text(SENTENCES)
    (root / "voices.csv").write_text(
        f"speaker,split,accent,variant,rate,pitch,pitch_range\n{row}\n"
        "b,valid,en-us,m1,150,50,50\nc,test,en-us,m2,150,50,50\n"
    )
    with pytest.raises(PipelineError, match=named):
        speak()


# ------------------------------------------------------------------ what a change costs


@pytest.fixture
def spoken_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synthesised, but for the babble."""
    found: list[str] = []
    own = synthesis.speak

    def counted(voice: Voice, texts: list[str], **options: Any) -> list:
        if options["apart"]:
            found.extend(texts)
        return own(voice, texts, **options)

    monkeypatch.setattr(synthesis, "speak", counted)
    return found


def test_a_new_sentence_costs_itself(
    root: Path, speak: Callable[..., Summary], spoken_texts: list[str]
) -> None:
    (root / "sentences.csv").write_text(SENTENCES)
    params = replace(PARAMS, train_utterances=9, valid_utterances=9)
    speak(params)
    before = audio(root)
    spoken_texts.clear()
    speak(params)
    assert spoken_texts == [] and audio(root) == before
    # In front of all others.
    heading, rest = SENTENCES.split("\n", 1)
    (root / "sentences.csv").write_text(f"{heading}\nlamp please,on,\n{rest}")
    speak(params)
    assert set(spoken_texts) == {"lamp please"} and len(spoken_texts) <= 4
    after = audio(root)
    # What it displaces is gone, and all others are the same.
    assert len(after) == len(before)
    assert len(after.keys() - before.keys()) == len(spoken_texts)
    assert all(after[path] == before[path] for path in after.keys() & before.keys())
    shutil.rmtree(root.parent / "out")
    speak(params)
    assert audio(root) == after
    spoken_texts.clear()
    speak(replace(params, train_voices=3))
    assert len(spoken_texts) == 9  # the new voice's


def test_a_damaged_recording_is_made_again(
    root: Path, speak: Callable[..., Summary], spoken_texts: list[str]
) -> None:
    (root / "sentences.csv").write_text(SENTENCES)
    speak()
    before = audio(root)
    home = root.parent / "out" / "audio"
    first, second = sorted(home.rglob("*.wav"))[:2]
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()
    spoken_texts.clear()
    speak()
    assert len(spoken_texts) == 2 and audio(root) == before
    next(home.rglob("recipe.json")).write_text("{")
    speak()
    assert len(spoken_texts) in (2 + 6, 2 + 3) and audio(root) == before


def test_an_interrupted_run_leaves_nothing_behind(
    root: Path, speak: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(PARAMS, babble=0)  # whose voices take longest
    (root / "sentences.csv").write_text(SENTENCES)
    speak(params)
    (root / "sentences.csv").write_text(SENTENCES.replace("please", "now"))
    with monkeypatch.context() as patched:
        patched.setattr(soundfile, "write", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            speak(params)
    speak(params)
    resumed = audio(root)
    shutil.rmtree(root.parent / "out")
    speak(params)
    assert resumed == audio(root)


# -------------------------------------------------------------------------- conditions


def test_conditions_have_their_shares(root: Path) -> None:
    (root / "sentences.csv").write_text(SENTENCES)
    many = {"train_voices": 40, "train_utterances": 50, "clean": 1, "telephone": 4}
    for sessions in ("utterance", "speaker"):
        params = replace(PARAMS, **many, room=0, sessions=sessions)
        rows, _, _ = read_phrases(params, root)
        found = shares(rows["condition"][rows["split"] == "train"])
        assert set(found) == {"clean", "babble", "telephone"}
        for name, parts in (("clean", 1), ("babble", 1), ("telephone", 4)):
            assert found[name] == pytest.approx(parts / 6, abs=0.04)
    with pytest.raises(ConfigurationError, match=r"corpus\.clean, .* are all 0"):
        CorpusParams(clean=0, babble=0, room=0, telephone=0)


# -------------------------------------------------------------------------- recordings


def write_recordings(root: Path, rows: str) -> None:
    for name in "abc":
        wave = np.random.default_rng(ord(name)).normal(0, 0.1, 8000)
        soundfile.write(root / f"{name}.flac", wave, 16_000)
    (root / "people.csv").write_text(f"path,split,speaker,text,intent\n{rows}")


def test_silence_around_the_words_is_as_long_as_wanted(
    root: Path, speak: Callable[..., Summary]
) -> None:
    (root / "sentences.csv").write_text(SENTENCES)
    seconds = []
    for silence in (0.4, 5.0):
        speak(replace(PARAMS, silence=silence))
        manifest = read_manifest(root.parent / "out" / "manifest.csv")
        seconds.append(manifest["seconds"].mean())
    # Uniform from 0.1 on, before and after.
    assert seconds[1] - seconds[0] == pytest.approx(4.6, abs=1.2)


def test_recordings_are_added_and_told_apart(
    root: Path, speak: Callable[..., Summary]
) -> None:
    (root / "sentences.csv").write_text(SENTENCES)
    write_recordings(
        root, "a.flac,valid,eva,lamp on,on\nb.flac,test,eva,off now,off\n"
        "c.flac,train,tom,lamp off,off\n"
    )  # fmt: skip
    # People are the whole valid and test.
    params = replace(PARAMS, valid_voices=0, test_voices=0, flite=0)
    speak(replace(params, recordings_table="people.csv"))
    rows = read_manifest(root.parent / "out" / "manifest.csv")
    rows = rows.merge(pd.read_csv(root.parent / "out" / "conditions.csv"))
    assert dict(rows["split"].value_counts()) == {"train": 13, "valid": 1, "test": 1}
    real = rows[rows["condition"] == "recording"].set_index("split")
    assert dict(real["speaker"]) == {"valid": "eva", "test": "eva", "train": "tom"}
    assert real["text"]["test"] == "off now"
    stored = root.parent / "out" / "audio" / real["path"]["valid"]
    assert stored.read_bytes() == (root / "a.flac").read_bytes()
    # All to one split, whatever the column says.
    table = {"recordings_table": "people.csv", "recordings_split": "test"}
    speak(replace(params, valid_voices=1, **table))
    rows = read_manifest(root.parent / "out" / "manifest.csv")
    assert dict(rows["split"].value_counts()) == {"train": 12, "valid": 3, "test": 3}


def test_recordings_that_cannot_be_used_are_named(
    root: Path, speak: Callable[..., Summary]
) -> None:
    (root / "sentences.csv").write_text(SENTENCES)
    params = replace(PARAMS, recordings_table="people.csv")
    with pytest.raises(InputError, match=r"no such table.*corpus\.recordings_table"):
        speak(params)
    write_recordings(root, "a.flac,test,eva,lamp on,explode\n")
    with pytest.raises(InputError, match="row 2 has intent 'explode', which no train"):
        speak(params)
    write_recordings(root, "missing.flac,test,eva,lamp on,on\n")
    with pytest.raises(InputError, match=r"do not exist.*people\.csv row 2"):
        speak(params)
    with pytest.raises(InputError, match=r"nor recordings for valid; .*valid_voices"):
        read_phrases(replace(params, valid_voices=0), root)
    (root / "people.csv").write_text("path,speaker,text,intent\na.flac,eva,x,on\n")
    with pytest.raises(InputError, match=r"no column split.*corpus\.recordings_split"):
        speak(params)


# ----------------------------------------------------------------------- other engines

needs_flite = pytest.mark.skipif(not shutil.which("flite"), reason="needs flite")


@needs_flite
def test_engines_are_mixed_by_share(root: Path, speak: Callable[..., Summary]) -> None:
    assert {"slt", "rms"} <= set(flite.voices()) and "kal" not in flite.voices()
    assert re.search(r"2\.\d.* with .*slt", flite.version())
    params = replace(PARAMS, espeak=3, flite=1, train_voices=8, test_voices=4)
    speakers, _ = read_speakers(params, root)
    of_train = Counter(one.voice.engine for one in speakers if one.split == "train")
    assert of_train == {"espeak": 6, "flite": 2}
    of = {one.voice.variant: one.split for one in speakers if one.voice.accent == ""}
    assert len(of) == 3  # two in train, none of them in test
    (root / "sentences.csv").write_text(SENTENCES)
    speak(replace(PARAMS, espeak=0, flite=1))
    assert len(audio(root)) == 21


@needs_flite
def test_flite_speaks_at_the_rate_and_pitch_of_the_voice() -> None:
    one = Voice("", "kal16", rate=175, engine="flite")
    (slow,), (high,), (plain, again) = (
        engines.speak(voice, texts, seed=1)
        for voice, texts in (
            (replace(one, rate=100), ["lights on"]),
            (replace(one, pitch=90), ["lights on"]),
            (one, ["lights on", "lights on"]),
        )
    )
    assert len(slow) > 1.4 * len(plain)
    np.testing.assert_array_equal(plain, again)
    assert not np.array_equal(high[:4000], plain[:4000])
    with pytest.raises(ConfigurationError, match=r"unknown flite voice.*slt"):
        engines.speak(Voice("", "nobody", engine="flite"), ["a"], seed=1)


def test_an_engine_that_is_not_installed_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(root))
    for cached in (flite._program, flite.voices):
        cached.cache_clear()
    with pytest.raises(ConfigurationError, match=r"flite, which is not .*apt-get"):
        read_speakers(replace(PARAMS, flite=1), root)
    with pytest.raises(ConfigurationError, match=r"set corpus\.piper_voices"):
        read_speakers(replace(PARAMS, piper=1), root)
    params = replace(PARAMS, piper=1, piper_voices=str(root))
    with pytest.raises(InputError, match=r"no voice of piper.*NAME\.onnx"):
        read_speakers(params, root)


def write_piper_voice(file: Path) -> None:
    """A voice of two speakers: each phoneme is a pulse with noise, longer if slower."""
    nodes = [
        helper.make_node("Cast", ["input"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["sid"], ["who"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["ids", "who"], ["tones"]),
        helper.make_node("Split", ["scales", "ones"], ["noise", "length", "width"]),
        helper.make_node("Mul", ["length", "hop"], ["samples"]),
        helper.make_node("Cast", ["samples"], ["repeats"], to=TensorProto.INT64),
        helper.make_node("Concat", ["one", "repeats"], ["shape"], axis=0),
        helper.make_node("Tile", ["tones", "shape"], ["wave"]),
        helper.make_node("RandomNormalLike", ["wave"], ["random"]),
        helper.make_node("Mul", ["random", "noise"], ["quiet"]),
        helper.make_node("Add", ["wave", "quiet"], ["output"]),
    ]
    numbers = {"ones": [1, 1, 1], "one": [1]}
    weights = [
        helper.make_tensor(name, TensorProto.INT64, [len(value)], value)
        for name, value in numbers.items()
    ]
    weights.append(helper.make_tensor("hop", TensorProto.FLOAT, [1], [100.0]))
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, [1, None]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
        helper.make_tensor_value_info("sid", TensorProto.INT64, [1]),
    ]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "voice", inputs, outputs, weights)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), file)
    symbols = ["_", "^", "$", " ", *map(chr, range(97, 123))]
    description = {
        "audio": {"sample_rate": 22050},
        "espeak": {"voice": "en-us"},
        "phoneme_type": "text",
        "num_symbols": len(symbols),
        "num_speakers": 2,
        "phoneme_id_map": {one: [place] for place, one in enumerate(symbols)},
    }
    file.with_name(f"{file.name}.json").write_text(json.dumps(description))


def test_piper_speaks_each_text_by_itself(
    root: Path, speak: Callable[..., Summary]
) -> None:
    pytest.importorskip("piper")
    folder = root.parent / "voices"
    folder.mkdir()
    write_piper_voice(folder / "tiny.onnx")
    voice = Voice("0", "tiny", engine="piper")

    def of(one: Voice, *texts: str, seed: int = 1) -> list[np.ndarray]:
        return engines.speak(one, texts, seed=seed, folder=str(folder))

    (first,), (_, second) = of(voice, "abc"), of(voice, "xyz", "abc")
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float64 and np.abs(first).max() > 0.5
    (other,) = of(voice, "abc", seed=2)
    assert len(other) == len(first) and not np.array_equal(other, first)
    assert not np.array_equal(of(replace(voice, accent="1"), "abc")[0], first)
    assert len(of(replace(voice, rate=100), "abc")[0]) > 1.6 * len(first)
    version = engines.version(voice, str(folder))
    for wrong in (replace(voice, accent="en-us"), replace(voice, variant="huge")):
        with pytest.raises(ConfigurationError, match=r"no such voice of piper.*tiny"):
            engines.version(wrong, str(folder))
    # Its two speakers are people of two splits.
    given = {"espeak": 0, "piper": 1, "piper_voices": str(folder)}
    speakers, _ = read_speakers(replace(PARAMS, **given, test_voices=0), root)
    assert {one.voice.accent for one in speakers} == {"0", "1"}
    with pytest.raises(ConfigurationError, match="piper has no voice for test"):
        read_speakers(replace(PARAMS, **given), root)
    (folder / "tiny.onnx.json").unlink()
    with pytest.raises(InputError, match="the voice has no description"):
        of(voice, "abc")
    assert version != synthesis.version()


def test_draws_are_even_and_do_not_depend_on_other_choices() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    drawn = [draws.choose(weights, "test", turn) for turn in range(4000)]
    for name, weight in weights.items():
        assert drawn.count(name) / 4000 == pytest.approx(weight / 8, abs=0.03)
    more = [draws.choose({**weights, "d": 1.0}, "test", turn) for turn in range(4000)]
    changed = {
        (one, other) for one, other in zip(drawn, more, strict=True) if one != other
    }
    assert {other for _, other in changed} == {"d"}
    order = draws.ranks(np.arange(1000, dtype=np.uint64), 5)
    assert (
        sorted(order) == list(range(1000))
        and abs(np.corrcoef(order, range(1000))[0, 1]) < 0.1
    )
    fewer = draws.ranks(np.arange(900, dtype=np.uint64), 5)
    assert [place for place in order if place < 900] == list(fewer)


def test_the_files_of_the_documentation_can_be_used(root: Path) -> None:
    text = Path("docs/phrases.md").read_text("utf-8")
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    table, grammar = (
        next(
            "".join(line[4:] for line in block.strip("\n").splitlines(keepends=True))
            for block in blocks
            if block.strip("\n").startswith(f"    {first}")
        )
        for first in ("text,intent", "language: en")
    )
    (root / "sentences.csv").write_text(table)
    assert len(read_said(PARAMS, root)[0]["intent"].unique()) == 4
    (root / "sentences.csv").unlink()
    slots = ("intent", "state", "room", "level")
    rows = said(root, grammar, replace(PARAMS, slots=slots))
    frames = set(rows["intent"])
    assert {"Turn|on|none|none", "Dim|none|lounge|70", "Turn|off|kitchen|none"} < frames
    assert f"`corpus.slots=[{', '.join(slots)}]`".strip("`") in text
