"""Slots: labels of several columns, each classified by itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ACOUSTIC, STUDENT_DIM, pipeline, write_tone
from scipy.special import log_softmax, softmax
from sklearn.metrics import f1_score

from stages.cache.digest import digest_path, write_digest
from stages.cache.store import CacheWriter
from stages.core import metrics
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import ConfigurationError, InputError
from stages.core.hashing import hash_bytes
from stages.core.labels import Labels
from stages.core.manifest import (
    COLUMNS,
    QUARANTINE_COLUMNS,
    read_labels,
    read_manifest,
    write_manifest,
    write_quarantine,
)
from stages.core.runtime import RunOptions
from stages.corpus.params import CorpusParams
from stages.corpus.run import read_corpus
from stages.corpus.splits import make_splits
from stages.student.inputs import Inputs, Sources
from stages.student.ledger import read_ledger, results_table
from stages.student.model import intent_loss, load_student
from stages.student.params import RecommendedParams, StudentParams, Variant
from stages.student.run import run

SLOTS = {"action": ["off", "on"], "room": ["hall", "none", "yard"]}
LABELS = Labels(SLOTS)


def test_frames_and_class_numbers() -> None:
    frames = ["on|hall", "off|none", "on|yard"]
    numbers = LABELS.numbers(frames)
    assert numbers.tolist() == [[1, 0], [0, 1], [1, 2]]
    assert LABELS.frames(numbers) == frames
    assert Labels.of(frames, ["action", "room"]) == LABELS
    assert Labels.from_json(json.loads(json.dumps(LABELS.to_json()))) == LABELS
    # A corpus without slots may have the separator in its intents.
    assert Labels.of(["b|c", "a"]).to_json() == ["a", "b|c"]
    with pytest.raises(KeyError):
        LABELS.numbers(["dim|hall"])


def test_the_most_probable_frame_and_its_probability() -> None:
    logits = np.random.default_rng(3).normal(size=(20, 5))
    parts = softmax(logits[:, :2], axis=1), softmax(logits[:, 2:], axis=1)
    joint = parts[0][:, :, None] * parts[1][:, None]  # (U, actions, rooms)
    best = np.stack(np.unravel_index(joint.reshape(20, -1).argmax(1), (2, 3)), 1)
    np.testing.assert_array_equal(LABELS.choose(logits), best)
    confidence = LABELS.confidence(np.concatenate(parts, 1))
    np.testing.assert_allclose(confidence, joint.max((1, 2)), rtol=1e-12)


def test_the_loss_is_summed_over_slots() -> None:
    logits = np.random.default_rng(4).normal(size=(6, 5))
    labels = np.array([[1, 0], [0, 1], [1, 2], [0, 0], [1, 1], [0, 2]])
    rows = np.arange(6)
    wanted = -(
        log_softmax(logits[:, :2], axis=1)[rows, labels[:, 0]]
        + log_softmax(logits[:, 2:], axis=1)[rows, labels[:, 1]]
    ).mean()
    loss = intent_loss(torch.tensor(logits), torch.tensor(labels), LABELS.sizes)
    assert float(loss) == pytest.approx(wanted, rel=1e-12)


def test_scores_of_frames_and_of_slots() -> None:
    actual = np.array([[0, 0], [1, 1], [1, 2], [0, 1]])
    predicted = np.array([[0, 0], [1, 2], [0, 2], [0, 1]])
    found = metrics.measure(LABELS, actual, predicted)
    assert found.pop("macro_f1") == pytest.approx(
        np.mean(
            [
                100 * f1_score(a, p, average="macro")
                for a, p in zip(actual.T, predicted.T, strict=True)
            ]
        )
    )
    assert found == {"accuracy": 50, "action_accuracy": 75, "room_accuracy": 75}
    table = {"intent": LABELS.frames(actual), "predicted": LABELS.frames(predicted)}
    assert metrics.measure_frames(LABELS, table)["accuracy"] == 50


# The columns of a table.

ROWS = """path,split,speaker,text,action,room,intent
a.wav,train,x,on in the hall,on,hall,
b.wav,train,x,off in the yard,off,yard,
c.wav,train,x,all off,off,,
d.wav,valid,y,on in the yard,on,yard,
e.wav,test,z,off in the hall,off,hall,
f.wav,test,z,all on,on,none,
"""
PARAMS = CorpusParams(name="rooms", adapter="table", slots=("action", "room"))


def corpus_of(folder: Path, rows: str) -> Path:
    for number, name in enumerate("abcdef"):
        write_tone(folder / f"{name}.wav", 200 + 20 * number, 0.4, number)
    (folder / "table.csv").write_text(rows)
    return folder


def test_columns_of_a_table_become_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus_of(tmp_path / "data" / "rooms", ROWS)
    (tmp_path / "params.yaml").write_text(
        "corpus: {name: rooms, adapter: table, slots: [action, room]}\n"
    )
    shown = pipeline("prepare-corpus").stdout
    assert "combinations of 2 slots" in shown
    ends = {line.split()[0]: line.split()[-2:] for line in shown.splitlines()}
    assert ends["utterances"] == ["action", "room"] and ends["test"] == ["2", "2"]
    folder = tmp_path / "cache" / "rooms"
    # Of test, `off|hall` and `on|none` are combinations that train lacks.
    assert read_manifest(folder / "manifest.csv")["intent"].tolist() == [
        "on|hall",
        "off|yard",
        "off|none",
        "on|yard",
        "off|hall",
        "on|none",
    ]
    assert read_labels(folder / "intents.json") == LABELS


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("off,yard", "off,ya|rd", r"table\.csv: row 3 has '\|' in its room"),
        ("z,all on,on,none", "z,all on,dim,none", "row 7 has action 'dim', which no t"),
        ("action,room", "action,place", "no column room"),
    ],
)
def test_labels_that_cannot_be_used(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    corpus_of(tmp_path, ROWS.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_corpus(PARAMS, tmp_path)


def test_slots_of_fluent_speech_commands(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "data" / f"{split}_data.csv").write_text(
            "path,speakerId,transcription,action,object,location\n"
            f"{split}1.wav,s,lights on,activate,lights,none\n"
            f"{split}2.wav,s,juice,bring,juice,kitchen\n"
        )
    params = CorpusParams(name="a", adapter="fsc", slots=("location", "action"))
    found = read_corpus(params, tmp_path).table["intent"]
    assert set(found) == {"none|activate", "kitchen|bring"}
    for unknown in ("speakerId", "intent", "place"):
        with pytest.raises(ConfigurationError, match="action, object, location"):
            replace(params, slots=("action", unknown))


def test_names_that_slots_cannot_have() -> None:
    for slots in (("text", "room"), ("room", "room"), ("",)):
        with pytest.raises(ConfigurationError, match=r"corpus\.slots"):
            replace(PARAMS, slots=slots)
    with pytest.raises(ConfigurationError, match="not read by the adapter snips"):
        CorpusParams(name="a", adapter="snips", slots=("action",))


def test_a_value_that_train_lost_to_quarantine_is_named(tmp_path: Path) -> None:
    table = slotted_table()
    corpus = CorpusFiles(tmp_path)
    write_manifest(corpus.manifest, table, ["action", "room"])
    bad = table[table["intent"].str.endswith("yard") & (table["split"] == "train")]
    write_quarantine(
        corpus.quarantine, bad.assign(reason="empty")[list(QUARANTINE_COLUMNS)]
    )
    with pytest.raises(InputError, match="has room 'yard', which no train utterance"):
        corpus.read_usable()


def test_made_splits_keep_every_value_in_train() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 9, (400, 3))
    rows = pd.DataFrame(
        {
            "path": [f"{number}.wav" for number in range(400)],
            "text": [f"say {row}" for row in values],
            "speaker": "s",
            "intent": ["|".join(map(str, row)) for row in values],
        }
    )
    rows.loc[7, "intent"] = "rare|1|1"
    for kind in ("random", "wordings"):
        made = make_splits(
            rows, kind, valid_share=0.2, test_share=0.3, seed=1, slots=("a", "b", "c")
        )
        train = made[made["split"] == "train"]
        assert made["split"].value_counts()["test"] == pytest.approx(120, abs=8)
        # Whole combinations are only in test, single values are not.
        assert set(made["intent"]) - set(train["intent"])
        for place in range(3):
            every, kept = (
                {frame.split("|")[place] for frame in part["intent"]}
                for part in (made, train)
            )
            assert every == kept


# A student.

SEEN = ["dim|none", "dim|yard", "off|hall", "off|yard", "on|hall", "on|none"]
NEW = ["dim|hall", "off|none", "on|yard"]
GRID = Labels.of([*SEEN, *NEW], ["action", "room"])


def slotted_table() -> pd.DataFrame:
    """Train lacks three combinations, which a third of valid and test are."""
    counts = {"train": 240, "valid": 45, "test": 90}
    frames = {split: SEEN if split == "train" else [*SEEN, *NEW] for split in counts}
    rows = [
        {
            "id": f"rooms/{split}/{number:03d}",
            "path": f"{split}/{number:03d}.wav",
            "split": split,
            "speaker": split,
            "text": "",
            "intent": frames[split][number % len(frames[split])],
            "seconds": 1.0,
            "audio_sha256": hash_bytes(f"{split}{number}".encode()),
        }
        for split in counts
        for number in range(counts[split])
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_slotted(folder: Path) -> Sources:
    """The corpus: an utterance is noise with a frame for each value that it has."""
    table = slotted_table()
    sources = Sources(CorpusFiles(folder), folder / "acoustic")
    write_manifest(sources.corpus.manifest, table, list(GRID.slots))
    nothing = pd.DataFrame(columns=list(QUARANTINE_COLUMNS), dtype=str)
    write_quarantine(sources.corpus.quarantine, nothing)
    generator = np.random.default_rng(6)
    with CacheWriter(sources.acoustic, ACOUSTIC) as writer:
        for row in table.itertuples():
            length = int(generator.integers(4, 9))
            frames = 0.3 * generator.standard_normal((length, STUDENT_DIM))
            places = generator.permutation(length)[:2]
            action, room = GRID.numbers([row.intent])[0]
            frames[places[0], action] += 4
            frames[places[1], 3 + room] += 4
            writer.add(row.id, row.audio_sha256, frames.astype(np.float32))
    pairs = list(zip(table["id"], table["audio_sha256"], strict=True))
    digest = digest_path(sources.acoustic)
    write_digest(digest, sources.acoustic, ACOUSTIC.fingerprint, pairs)
    return sources


def test_a_student_predicts_combinations_that_train_lacks(tmp_path: Path) -> None:
    sources = write_slotted(tmp_path)
    params = StudentParams(
        learning_rate=1e-2, batch_size=16, epochs=12, seeds=(1, 2), gru_width=12
    )
    summary = run(
        Variant("baseline2", None, params),
        sources,
        output=tmp_path / "student",
        unfinished=tmp_path / "unfinished",
        ledger=tmp_path / "ledger",
        options=RunOptions(device="cpu", workers=1, force=False),
    )
    found = pd.read_csv(tmp_path / "student" / "predictions.csv")
    test = found[found["split"] == "test"]
    new = test["intent"].isin(NEW)
    right = test["intent"] == test["predicted"]
    # Of these a classifier of whole intents has none right.
    assert right[new].mean() > 0.5
    scores = summary.scores
    assert scores["test_accuracy"] == pytest.approx(100 * right.mean())
    values = GRID.values(test["intent"]), GRID.values(test["predicted"])
    for slot in GRID.slots:
        same = np.array(values[0][slot]) == np.array(values[1][slot])
        assert scores[f"test_{slot}_accuracy"] == pytest.approx(100 * same.mean())
    table = results_table(read_ledger(tmp_path / "ledger"), params, RecommendedParams())
    (shown,) = table[["test", "test action accuracy"]].to_numpy().tolist()
    means = [scores["test_accuracy"], scores["test_action_accuracy"]]
    assert [text.split(" ± ")[0] for text in shown] == [f"{one:.2f}" for one in means]
    assert "valid_room_accuracy" in pd.read_csv(tmp_path / "student" / "history.csv")
    model, about = load_student(tmp_path / "student" / "model-1.safetensors")
    assert model.values == (3, 3) and Labels.from_json(about["intents"]) == GRID


def test_other_slots_are_another_student(tmp_path: Path) -> None:
    """The frames of a corpus can be the same with and without slots."""
    sources = write_slotted(tmp_path)
    variant = Variant("baseline2", None, StudentParams())
    before = sources.identify(variant)
    table = slotted_table()
    write_manifest(
        sources.corpus.manifest, table[table["split"] != "x"], ["act", "room"]
    )
    assert sources.identify(variant) != before
    assert list(Inputs(sources).labels.slots) == ["act", "room"]
