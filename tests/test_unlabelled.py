"""Unlabelled speech: only new sentences, each by itself, nothing twice."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import parts, pipeline, refused_by

from pipeline.layout import Layout
from stages.cache.digest import read_digest
from stages.core.errors import ConfigurationError, InputError
from stages.core.hashing import hash_bytes
from stages.core.manifest import COLUMNS, write_manifest
from stages.core.text import normalise_text
from stages.corpus.params import CorpusParams
from stages.corpus.run import run as prepare
from stages.speech import engines
from stages.unlabelled.params import RECOMBINED, UnlabelledParams
from stages.unlabelled.sentences import recombine
from stages.unlabelled.utterances import Utterances, plan_utterances

LAYOUT = Layout("tiny")
FOLDER = LAYOUT.unlabelled
SENTENCES = Path("data/tiny/more.txt")
TRAIN = ["Open the door!", "now open it", "close the window", "shut it now"]
TRAIN += ["shut it", "open it and shut it"]
HELD_OUT = {"valid": "open the window", "test": "Close the door."}
VOICES = CorpusParams(
    name="lamps", sessions="speaker", train_voices=3, valid_voices=1, test_voices=1
)


def write_texts(folder: Path) -> Path:
    """A manifest with the texts of `TRAIN` and `HELD_OUT`."""
    said = [("train", text) for text in TRAIN] + list(HELD_OUT.items())
    rows = []
    for place, (split, text) in enumerate(said):
        id = f"lamps/{place}"
        key = hash_bytes(id.encode())
        intent = "ab"[place % 2]
        rows.append((id, f"{place}.wav", split, "one", text, intent, 1.0, key))
    path = folder / "manifest.csv"
    write_manifest(path, pd.DataFrame(rows, columns=list(COLUMNS)))
    return path


def plan(folder: Path, corpus: CorpusParams = VOICES, **params: object) -> Utterances:
    given = {"sentences": RECOMBINED, "count": 4, **params}
    manifest = write_texts(folder)
    return plan_utterances(UnlabelledParams(**given), corpus, manifest, folder)


def unlabelled(*arguments: str) -> str:
    done = pipeline("unlabelled", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def utterances() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "manifest.csv", dtype=str, keep_default_na=False)


@pytest.fixture
def prepared(given: Path) -> Path:
    """A working directory with a manifest, of people."""
    assert pipeline("prepare-corpus").exit_code == 0
    return given


# ----------------------------------------------------------------------- sentences


def test_recombined_sentences_are_all_new_ones_of_neighbours_in_train() -> None:
    texts = [normalise_text(text) for text in TRAIN]
    neighbours = {pair for text in texts for pair in pairwise(["", *text.split(), ""])}
    words = sorted({word for text in texts for word in text.split()})
    allowed = {
        " ".join(sentence)
        for length in range(1, 6)  # the longest has 5 words
        for sentence in product(words, repeat=length)
        if set(pairwise(["", *sentence, ""])) <= neighbours
    }
    held_out = {normalise_text(text) for text in HELD_OUT.values()}
    assert held_out < allowed and set(texts) < allowed  # so they would be drawn
    known = {*texts, *held_out}
    made = list(recombine(TRAIN, known, seed=1))
    assert sorted(made) == sorted(allowed - known)
    assert made == list(recombine(TRAIN[::-1], known, seed=1))
    assert made != list(recombine(TRAIN, known, seed=2))


def test_a_wording_said_often_counts_once() -> None:
    often = [*TRAIN, *99 * TRAIN[:1]]
    assert list(recombine(often, set(), 1)) == list(recombine(TRAIN, set(), 1))


def test_more_sentences_than_there_are_is_an_error_with_their_number(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=r"found (\d+); expected 1,000,.*to \1$"):
        plan(tmp_path, count=1000)
    assert list(recombine([""], set(), seed=1)) == []


def test_a_file_is_read_without_what_the_corpus_has_or_it_repeats(
    tmp_path: Path,
) -> None:
    lines = ["close it", "OPEN the window?", "", "shut it", "Close it!", "go, now"]
    (tmp_path / "more.txt").write_text("\n".join(lines), "utf-8")
    quoted = [f'"{line}",x' for line in lines if line]
    (tmp_path / "more.csv").write_text("\n".join(["text,note", *quoted]), "utf-8")
    text, table = (plan(tmp_path, sentences=f"more.{end}") for end in ("txt", "csv"))
    assert list(text.rows["text"]) == ["close it", "go, now"]
    assert text.left_out == table.left_out == 3
    assert list(text.rows["recipe"]) == list(table.rows["recipe"])
    assert text.rows["row"].iloc[1] == "line 6" and table.rows["row"].iloc[1] == "row 6"


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("none.txt", None, "none.txt: no such file.*recombined"),
        ("more.csv", b"sentence\nopen it\n", "no column text; found sentence"),
        ("more.txt", b"\n \n", "has no sentences"),
        ("more.txt", b"open\n?!\n", r"line 2 cannot be spoken; found '\?!'"),
        ("more.txt", b"open\x07\n", r"line 1 cannot be spoken"),
        ("more.txt", b"ok\n\xff\n", "line 2 is not UTF-8"),
        ("more.txt", b"Shut it.\n", "no sentence that the corpus lacks"),
        ("more.txt", "go\nоткрой\n".encode(), "line 2 cannot be spoken by espeak"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_line(
    tmp_path: Path, name: str, content: bytes | None, named: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=named):
        plan(tmp_path, sentences=name)


@pytest.mark.parametrize("name", ["../more.txt", "/etc/hosts"])
def test_a_file_outside_the_corpus_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "more.txt").write_text("go, now\n")
    (root := tmp_path / "root").mkdir()
    with pytest.raises(ConfigurationError, match=r"unlabelled\.sentences leaves"):
        plan(root, sentences=name)


# ---------------------------------------------------------------------- utterances


def test_an_utterance_depends_on_its_sentence_alone(tmp_path: Path) -> None:
    few, more = (plan(tmp_path, count=count).rows for count in (4, 6))
    assert list(more["recipe"])[:4] == list(few["recipe"])
    assert more["speaker"].nunique() > 1
    twice = plan(tmp_path, utterances=2).rows
    assert set(few["recipe"]) < set(twice["recipe"]) and len(twice) == 8
    assert not twice.duplicated(["text", "speaker"]).any()
    assert set(twice["speaker"]) <= {"train-001", "train-002", "train-003"}
    other = plan(tmp_path, seed=2).rows
    assert set(other["recipe"]).isdisjoint(few["recipe"])
    quiet = replace(VOICES, babble=0, room=0, telephone=0)
    assert set(plan(tmp_path, quiet).rows["condition"]) == {"clean"}


def test_the_corpus_gives_its_train_voices_and_people_get_drawn_ones(
    tmp_path: Path,
) -> None:
    people = replace(CorpusParams(), adapter="table")
    drawn = plan(tmp_path, people, voices=5)
    assert len(drawn.speakers) == 5
    phrases = plan(tmp_path, replace(VOICES, train_voices=5), voices=2)
    assert drawn.speakers == phrases.speakers
    (tmp_path / "voices.csv").write_text(
        "speaker,split,accent,variant,rate,pitch,pitch_range\n"
        "ann,train,en-us,f1,150,50,50\nbob,test,en-us,m1,150,50,50\n"
    )
    assert list(plan(tmp_path).speakers) == ["ann"]
    with pytest.raises(ConfigurationError, match="found 2; expected at most 1,"):
        plan(tmp_path, utterances=2)


def test_an_utterance_is_what_the_corpus_would_have_recorded(tmp_path: Path) -> None:
    """A sentence of the corpus has the same recipe and samples in both."""
    other = plan(tmp_path, count=3)
    lines = ["text,intent,split"]
    lines += [f"{text},on,train" for text in other.rows["text"]]
    lines += ["lamp off,off,", "lamp on,on,"]
    root = tmp_path / "lamps"
    root.mkdir()
    (root / "sentences.csv").write_text("\n".join(lines) + "\n")
    apart = replace(VOICES, sessions="utterance", train_utterances=9)
    params = replace(apart, valid_utterances=2, test_utterances=2)
    prepare(params, root=root, output=tmp_path / "cache", workers=2)
    files = {path.stem: path for path in tmp_path.glob("cache/audio/train/*/*.wav")}
    waves = dict(other.waves(list(other.rows["recipe"]), workers=2))
    assert len(waves) == 3
    for recipe, wave in waves.items():
        samples, _ = soundfile.read(files[recipe[:16]], dtype="float32")
        np.testing.assert_array_equal(wave, samples)


# ---------------------------------------------------------------------------- runs

_KILLED = """
import os
from stages.acoustic.onnx_encoder import OnnxEncoder
from stages.cache import store
from pipeline.cli import main

store.PART_FRAMES = {"unlabelled": 1}
encode, calls = OnnxEncoder.encode, []

def killed(session, waves):
    calls.append(len(waves))
    if len(calls) == 4:
        os._exit(9)
    return encode(session, waves)

OnnxEncoder.encode = killed
main(["unlabelled"])
"""


def test_a_killed_run_resumes_and_a_second_one_does_nothing(
    prepared: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("red", "green", "blue", "white", "black")
    SENTENCES.write_text("\n".join(f"{word} light" for word in words))
    assert "5 extracted now, 0 kept" in unlabelled()
    names = ("manifest.csv", "features.digest", "identity.json")
    whole = [(FOLDER / name).read_bytes() for name in names]
    shutil.rmtree(FOLDER)
    encoded.clear()
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", _KILLED], env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == 9 and len(parts(FOLDER / "features")) == 3
    assert not (FOLDER / "manifest.csv").exists()
    assert "2 extracted now, 3 kept" in unlabelled()
    assert encoded == [1, 1]
    assert [(FOLDER / name).read_bytes() for name in names] == whole

    monkeypatch.setattr(engines, "speak", None)
    assert "up to date; 5 utterances of 5 sentences" in unlabelled()
    assert "0 extracted now, 5 kept" in unlabelled("--force")
    (FOLDER / "manifest.csv").write_text("id\n")
    assert "0 extracted now, 5 kept" in unlabelled()
    assert [(FOLDER / name).read_bytes() for name in names] == whole


def test_features_and_table_have_the_same_keys(prepared: Path) -> None:
    unlabelled()
    table = utterances()
    assert list(table) == ["id", "text", "speaker", "condition", "key"]
    assert list(table["text"]) == SENTENCES.read_text().splitlines()
    digest = read_digest(FOLDER / "features.digest")
    rows = {id: key for id, (key, _) in digest.rows.items()}
    assert rows == dict(zip(table["id"], table["key"], strict=True))
    pipeline("extract-acoustic")
    other = read_digest(LAYOUT.folder / "acoustic.digest").header
    assert digest.header == replace(other, kind="unlabelled")


def test_missing_features_are_found_and_made_again(prepared: Path) -> None:
    unlabelled()
    whole = (FOLDER / "features.digest").read_bytes()
    verified = ("cache", "verify", "--kind", "unlabelled")
    for lost in (*parts(FOLDER / "features"), FOLDER / "features"):
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
        found = pipeline(*verified)
        assert (
            found.exit_code == 1 and "run `aln-pipeline unlabelled`\n" in found.stderr
        )
        assert "2 extracted now, 0 kept" in unlabelled()
        assert pipeline(*verified).exit_code == 0
    assert (FOLDER / "features.digest").read_bytes() == whole


def test_without_sentences_there_is_an_empty_table(prepared: Path) -> None:
    unlabelled()
    none = ("--set", 'unlabelled.sentences=""')
    assert "no sentences" in unlabelled(*none)
    assert utterances().empty and not (FOLDER / "features.digest").exists()
    assert pipeline("cache", "verify", "--kind", "unlabelled").exit_code == 0
    shutil.rmtree(FOLDER)
    unlabelled(*none)
    files = sorted(path.name for path in FOLDER.iterdir())
    assert files == ["identity.json", "manifest.csv"]


def test_the_cache_commands_know_the_features(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    pipeline("extract-acoustic")
    unlabelled()
    monkeypatch.setenv("ALN_CACHE_DIR", str(Path("cache").resolve()))
    Path("copy").mkdir()
    for name in ("data", "encoder.safetensors", "params.yaml"):
        Path("copy", name).symlink_to(Path(name).resolve())
    with monkeypatch.context() as there:
        there.chdir("copy")
        pipeline("prepare-corpus")
        encoded.clear()
        assert "0 extracted now, 2 kept" in unlabelled()
        assert encoded == []
    SENTENCES.write_text("light music\n")
    assert "0 extracted now, 1 kept" in unlabelled()
    verified = ("cache", "verify", "--kind", "unlabelled")
    assert "features of 1 unlabelled utterances: complete" in pipeline(*verified).stdout
    assert "1 of 1" in pipeline("cache", "info").stdout
    assert "1 utterances removed" in pipeline("cache", "gc").stdout
    assert "complete" in pipeline(*verified).stdout
    (part,) = parts(FOLDER / "features")
    for path in (part, FOLDER / "features.digest"):
        content = bytearray(whole := path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        found = pipeline(*verified)
        assert found.exit_code == 1 and "run `aln-pipeline unlabelled`" in found.stderr
        path.write_bytes(whole)


def test_a_missing_file_of_sentences_is_one_line(prepared: Path) -> None:
    SENTENCES.unlink()
    assert "more.txt: no such file" in refused_by("unlabelled")
