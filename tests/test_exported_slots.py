"""An exported model of a corpus with slots: one is called `intent`, one is HTML."""

import csv
import io
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import LINE, PARAMS, pipeline, write_corpus, write_encoder
from fastapi.testclient import TestClient

from stages.core.labels import Labels
from stages.inference.classifier import IntentClassifier, Outputs
from stages.inference.recordings import Recording, find_recordings
from stages.inference.server import build_app

COMMANDS = [one for one in LINE if one != ("robustness",)]
OBJECT = "<i>object</i>"
SLOTS = ["intent", OBJECT, "room"]
VALUES = {
    "lamp on": ("on", "<b>lamp</b>", "hall"),
    "lamp off": ("off", "<b>lamp</b>", ""),
    "play": ("on", "*song*", ""),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every command has run, and `model` is the export of ALN."""
    folder = tmp_path_factory.mktemp("slots")
    write_corpus(folder / "data" / "tiny")
    write_encoder(folder / "encoder.safetensors")
    params = PARAMS.replace("adapter: table", f"adapter: table\n  slots: {SLOTS}")
    params = params.replace("alpha: [0.5, 1]", "alpha: [0.5]")
    params = params.replace("seeds: [1]", "seeds: [1, 2]")
    (folder / "params.yaml").write_text(params)
    path = folder / "data" / "tiny" / "table.csv"
    table = pd.read_csv(path)
    slots = pd.DataFrame([VALUES[intent] for intent in table["intent"]], columns=SLOTS)
    table[SLOTS] = slots
    table.to_csv(path, index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (*COMMANDS, ("export", "aln-0.5", "model")):
            result = pipeline(*command)
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "root"
    shutil.copytree(root, folder)
    monkeypatch.chdir(folder)
    return folder


def exported() -> dict[str, Any]:
    return json.loads(Path("model/model.json").read_text("utf-8"))


def student(split: str | None = None) -> pd.DataFrame:
    """What the exported student predicted, with the paths of its recordings."""
    found = pd.read_csv("cache/tiny/student/aln-0.5/predictions.csv")
    table = pd.read_csv("cache/tiny/manifest.csv")[["id", "path"]]
    found = found[found["seed"] == exported()["seeds"][0]].merge(table, on="id")
    return found[found["split"] == split] if split else found


def test_it_predicts_the_frames_of_the_student(here: Path) -> None:
    classifier = IntentClassifier("model")
    assert classifier.intents == [] and list(classifier.slots) == SLOTS
    for row in student().itertuples():
        answer = classifier(f"data/tiny/{row.path}", reject=False)
        assert answer.intent == row.predicted == "|".join(answer.slots.values())
        assert list(answer.slots) == SLOTS
        assert len(answer.ranked) == 2 * 2 * 2
        assert sum(share for _, share in answer.ranked) == pytest.approx(1, abs=1e-5)
        assert answer.probability == answer.ranked[0][1]
    rejected = classifier(np.zeros(8000), 16_000)
    assert (rejected.intent, rejected.slots) == ("none", {})


def test_its_card_and_description_have_the_slots(here: Path) -> None:
    scores = json.loads(Path("cache/tiny/student/aln-0.5/metrics.json").read_text())
    about = exported()
    (measured,) = [one for one in scores["seeds"] if one["seed"] in about["seeds"]]
    assert [one["slot"] for one in about["intents"]] == SLOTS
    for slot in SLOTS:
        own = measured[f"test_{slot}_accuracy"]
        assert about["accuracy"]["slots"][slot] == pytest.approx(own)
    card = Path("model/README.md").read_text("utf-8")
    assert "# aln-0.5: 3 slots from speech" in card
    share = about["accuracy"]["slots"][OBJECT]
    assert f"| `{OBJECT}` | {share:.2f} | `*song*`, `<b>lamp</b>` |" in card


def test_an_ensemble_and_int8_weights(here: Path) -> None:
    # Which are compared with PyTorch's probabilities.
    result = pipeline("export", "aln-0.5", "model", "--ensemble", "--int8")
    assert result.exit_code == 0, result.output
    assert exported()["seeds"] == [1, 2]
    assert set(exported()["accuracy"]["slots"]) == set(SLOTS)


def test_a_student_in_pytorch_gives_the_same(here: Path) -> None:
    answers = []
    for model in ("model", "cache/tiny/student/aln-0.5"):
        result = pipeline(
            *("predict", "data/tiny/test", "--model", model, "--format", "jsonl")
        )
        answers.append([json.loads(line) for line in result.stdout.splitlines()])
    for one, other in zip(*answers, strict=True):
        assert one["slots"] == other["slots"] and one["intent"] == other["intent"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_tables_have_the_slots_and_the_accuracy_of_each(here: Path) -> None:
    test = student("test")
    manifest = pd.read_csv("cache/tiny/manifest.csv")
    manifest[manifest["split"] == "test"].to_csv("manifest.csv", index=False)
    table = pd.read_csv("data/tiny/table.csv", keep_default_na=False)
    table[table["split"] == "test"].to_csv("table.csv", index=False)
    labels = Labels(IntentClassifier("model").slots)
    same = {
        slot: np.mean(np.equal(actual, guess))
        for (slot, actual), guess in zip(
            labels.values(test["intent"]).items(),
            labels.values(test["predicted"]).values(),
            strict=True,
        )
    }
    right = np.mean(test["intent"] == test["predicted"])
    expected = (
        f"6 classified, {100 * right:.2f}% of 6 as the table has it, "
        + ", ".join(f"{slot} {100 * share:.2f}%" for slot, share in same.items())
    )
    for name in ("manifest.csv", "table.csv"):
        result = pipeline(
            *("predict", name, "--root", "data/tiny", "--no-reject"),
            *("--format", "csv", "--top", 2),
        )
        assert result.stderr == expected + "\n"
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
        columns = ["id", "intent", "probability", *(f"slots.{slot}" for slot in SLOTS)]
        assert list(rows[0]) == [*columns, "intent_2", "probability_2"]
        for row in rows:
            assert row["intent"] == "|".join(row[f"slots.{slot}"] for slot in SLOTS)
    result = pipeline(
        "predict", "table.csv", "--root", "data/tiny", "--format", "jsonl"
    )
    for line in result.stdout.splitlines():
        found = json.loads(line)
        assert found["rejected"] or list(found["slots"]) == SLOTS


def test_a_row_without_any_value_is_labelled_as_in_training(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    table = tmp_path / "table.csv"
    for text, slots, label in (
        ("path,action,room\na.wav,,\n", ["action", "room"], "none|none"),
        ("path,action\na.wav,on\n", ["action", "room"], None),
        ("path,intent\na.wav,\n", [], None),
    ):
        table.write_text(text)
        (found,) = find_recordings([str(table)], None, io.BytesIO(), slots)
        assert isinstance(found, Recording) and found.intent == label


def test_the_server_has_the_slots(here: Path) -> None:
    client = TestClient(build_app(IntentClassifier("model")))
    assert client.get("/model").json()["slots"][OBJECT] == ["*song*", "<b>lamp</b>"]
    data = Path("data/tiny/train/play-0.wav").read_bytes()
    found = client.post("/predict?reject=false&top=3", content=data).json()
    assert list(found["slots"]) == SLOTS and len(found["ranked"]) == 3


def test_the_ranking_has_the_most_probable_frames(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    parts = [generator.dirichlet(np.ones(size)) for size in (7, 8, 9)]
    slots = {f"{n}": [f"{n}{v}" for v in range(len(p))] for n, p in enumerate(parts)}
    about = {
        "intents": Labels(slots).to_json(),
        "rejection": {"threshold": 0, "quietest": 0},
        "batches": True,
        "frame_step": 2560,
    }

    def model(waves: list[np.ndarray]) -> Outputs:
        joined = np.concatenate(parts, dtype=np.float32)[None]
        return Outputs(joined, np.ones(1), np.ones((1, 1)))

    classifier = IntentClassifier(tmp_path, model=model, about=about)
    (found,) = classifier.classify([np.zeros(99, np.float32)])
    every = {
        "|".join(frame): float(np.prod(shares, dtype=float))
        for frame, shares in zip(product(*slots.values()), product(*parts), strict=True)
    }
    best = sorted(every.items(), key=lambda one: -one[1])[:100]
    assert dict(found.ranked) == pytest.approx(dict(best), rel=1e-5)
    assert [one[0] for one in found.ranked][:20] == [one[0] for one in best][:20]
