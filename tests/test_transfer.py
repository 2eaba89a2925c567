"""What a student learns from the teacher beyond the paper."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import DEFAULT, Mock

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    ACOUSTIC,
    STUDENT_COUNTS,
    STUDENT_DIM,
    STUDENT_INTENTS,
    TARGETS,
    files_in,
    student_table,
    target_of,
    write_sources,
)

from stages.cache.digest import digest_path, write_digest
from stages.cache.store import CacheWriter
from stages.core.errors import CacheError
from stages.core.hashing import hash_bytes
from stages.core.labels import Labels
from stages.core.manifest import write_manifest
from stages.core.results import identify, record
from stages.core.runtime import RunOptions
from stages.core.text import normalise_text, text_key
from stages.student import training
from stages.student.batches import Batch
from stages.student.inputs import Inputs, Sources
from stages.student.model import load_student
from stages.student.params import RecommendedParams, StudentParams, Variant
from stages.student.run import run
from stages.student.training import wanted_intents

PARAMS = StudentParams(
    learning_rate=1e-2, batch_size=16, epochs=4, seeds=(8, 3), gru_width=8
)
EVERYTHING = RecommendedParams(
    transfer="utterance",
    standardisation=True,
    teacher_classifier=True,
    soft_targets=0.25,
    unlabelled=True,
)
CPU = torch.device("cpu")
MORE = {"no light, thanks": "off", "let it shine": "on"}
UNLABELLED = [f"turn it {word} now" for word in ("on", "off", "over", "up", "in")]


def posterior_of(text: str) -> np.ndarray:
    """The teacher's probabilities of a text, (1, intents) float32."""
    seed = list(hash_bytes(normalise_text(text).encode()).encode())
    values = np.random.default_rng(seed).random((1, len(STUDENT_INTENTS)))
    return (values / values.sum()).astype(np.float32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """With labelled texts, posteriors and unlabelled utterances."""
    folder = tmp_path_factory.mktemp("corpus")
    made = write_sources(folder)
    rows = [{"text": text, "intent": intent} for text, intent in MORE.items()]
    texts_given = pd.DataFrame(rows)
    write_manifest(made.corpus.manifest, student_table(), texts=texts_given)
    every = [*student_table()["text"], *MORE, *UNLABELLED]
    texts = sorted(set(map(normalise_text, every)))
    pairs = [(text, text_key(text)) for text in texts]
    posteriors = folder / "posteriors"
    headers = replace(
        TARGETS,
        kind="posteriors",
        dim=len(STUDENT_INTENTS),
        parameters={"intents": Labels.of(STUDENT_INTENTS, ()).fingerprint},
    )
    for path, header, of in (
        (made.targets, TARGETS, target_of),
        (posteriors, headers, posterior_of),
    ):
        assert path is not None
        with CacheWriter(path, header) as writer:
            for text, key in pairs:
                if key in set(writer.missing([key])):
                    writer.add(text.replace(" ", "_"), key, of(text))
        named = [(text.replace(" ", "_"), key) for text, key in pairs]
        write_digest(digest_path(path), path, header.fingerprint, named)
    unlabelled = folder / "unlabelled"
    write_unlabelled(unlabelled)
    return replace(made, posteriors=posteriors, unlabelled=unlabelled)


def write_unlabelled(folder: Path) -> None:
    header = replace(ACOUSTIC, kind="unlabelled")
    generator = np.random.default_rng(9)
    rows = []
    with CacheWriter(folder / "features", header) as writer:
        for place, text in enumerate(UNLABELLED):
            frames = generator.standard_normal((3 + place, STUDENT_DIM))
            key = hash_bytes(text.encode())
            writer.add(f"u/{place}", key, frames.astype(np.float32))
            rows.append({"id": f"u/{place}", "text": text, "key": key})
    pairs = [(row["id"], row["key"]) for row in rows]
    features = folder / "features"
    write_digest(digest_path(features), features, header.fingerprint, pairs)
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    record(folder, identify("unlabelled", 1, {}, {}), ["manifest.csv"])


def train(
    sources: Sources,
    output: Path,
    variant: Variant,
    *,
    workers: int = 1,
    force: bool = True,
) -> dict[str, bytes]:
    run(
        variant,
        sources,
        output=output,
        unfinished=output.with_name("unfinished"),
        ledger=output.with_name("results"),
        options=RunOptions(device="cpu", workers=workers, force=force),
    )
    return files_in(output)


def test_unlabelled_utterances_follow_those_of_train(sources: Sources) -> None:
    inputs = Inputs(sources, [EVERYTHING.variant(PARAMS)])
    loaded = inputs.load("train", CPU)
    plain = Inputs(sources, [Variant("aln", 0.5, PARAMS)]).load("train", CPU)
    count = STUDENT_COUNTS["train"]
    assert len(loaded) == count + len(UNLABELLED) and len(plain) == count
    assert (loaded.labels[count:] == -1).all() and (loaded.labels[:count] >= 0).all()
    assert loaded.texts is not None and loaded.said is not None
    texts = [*student_table().query("split == 'train'")["text"], *UNLABELLED]
    assert loaded.texts.posteriors is not None
    for place, text in enumerate(texts):
        row = loaded.said[place]
        np.testing.assert_array_equal(loaded.texts.vectors[row][None], target_of(text))
        np.testing.assert_array_equal(
            loaded.texts.posteriors[row][None], posterior_of(text)
        )
    assert loaded.lengths[count:].tolist() == [3, 4, 5, 6, 7]
    mine, other = loaded.labelled.gather(torch.arange(9)), plain.gather(torch.arange(9))
    assert len(loaded.labelled) == count
    torch.testing.assert_close(mine.features, other.features, rtol=0, atol=0)
    torch.testing.assert_close(mine.targets, other.targets, rtol=0, atol=0)


def test_labelled_texts_are_those_of_train_and_the_given_ones(
    sources: Sources,
) -> None:
    variant = EVERYTHING.variant(PARAMS)
    texts = Inputs(sources, [variant]).load("train", CPU).texts
    assert texts is not None
    found = sorted(
        (tuple(texts.vectors[row].tolist()), STUDENT_INTENTS[label])
        for row, label in zip(texts.rows, texts.labels[:, 0], strict=True)
    )
    train = student_table().query("split == 'train'")
    said = {**dict(zip(train["text"], train["intent"], strict=True)), **MORE}
    expected = [(tuple(target_of(text)[0].tolist()), said[text]) for text in said]
    assert found == sorted(expected)
    generator = torch.Generator().manual_seed(1)
    vectors, labels = texts.draw(500, generator)
    drawn = {tuple(one.tolist()) for one in vectors}
    assert len(drawn) == len(said) and labels.shape == (500, 1)


def test_targets_are_standardised_over_the_texts_of_train(
    sources: Sources, tmp_path: Path
) -> None:
    params = replace(PARAMS, epochs=15, seeds=(8,), standardisation=True)
    train(sources, tmp_path / "student", Variant("aln_linguistic", 0.8, params))
    table = student_table()
    texts = table.query("split == 'train'")["text"].map(normalise_text).unique()
    known = np.concatenate([target_of(text) for text in texts]).astype(float)
    valid = table.query("split == 'valid'")["text"]
    vectors = np.concatenate([target_of(text) for text in valid])
    expected = (vectors - known.mean(0)) / known.std(0)
    with np.load(tmp_path / "student" / "embeddings.npz") as file:
        np.testing.assert_allclose(file["teacher"], expected, rtol=1e-4, atol=1e-5)
        errors = [
            np.square(file[name] - expected).mean()
            for name in ("student_first", "student_last")
        ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_labels_and_probabilities_are_mixed(weight: float) -> None:
    values = (2, 3)
    labels = torch.tensor([[1, 0], [-1, -1], [0, 2]])
    posteriors = torch.tensor(
        [[0.3, 0.7, 0.2, 0.2, 0.6], [0.5, 0.5, 0.1, 0.1, 0.8], [1, 0, 0, 0.5, 0.5]]
    )
    batch = Batch(torch.empty(3, 1, 1), torch.empty(3, 1), torch.ones(3), labels, None)
    params = replace(PARAMS, soft_targets=weight, unlabelled=True)
    variant = Variant("aln", 0.5, params)
    found = wanted_intents(replace(batch, posteriors=posteriors), variant, values)
    hard = torch.tensor([[0, 1, 1, 0, 0], [0] * 5, [1, 0, 0, 0, 1]])
    for row in (0, 2):
        expected = weight * posteriors[row] + (1 - weight) * hard[row]
        torch.testing.assert_close(found[row], expected)
    torch.testing.assert_close(found[1], posteriors[1])
    plain = wanted_intents(batch, Variant("aln", 0.5, PARAMS), values)
    assert torch.equal(plain, labels)


def test_it_learns_alike_whatever_the_workers(sources: Sources, tmp_path: Path) -> None:
    params = replace(PARAMS, epochs=15)
    variant = EVERYTHING.variant(params)
    once = train(sources, tmp_path / "a" / "student", variant)
    again = train(sources, tmp_path / "b" / "student", variant, workers=2)
    assert once == again
    history = pd.read_csv(tmp_path / "a" / "student" / "history.csv")
    assert history["train_accuracy"].iloc[-1] > 90
    assert history["transfer_loss"].iloc[-1] < history["transfer_loss"].iloc[0]
    predictions = pd.read_csv(tmp_path / "a" / "student" / "predictions.csv")
    right = predictions["intent"] == predictions["predicted"]
    assert len(predictions) == 2 * (STUDENT_COUNTS["valid"] + STUDENT_COUNTS["test"])
    assert right.mean() > 0.9
    model, metadata = load_student(tmp_path / "a" / "student" / "model-8.safetensors")
    assert model.teacher_classifier is not None
    assert metadata["parameters"]["transfer"] == "utterance"


def test_a_killed_training_resumes_to_the_same_bits(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = replace(PARAMS, dropout=0.3, frame_dropout=0.3, frame_pooling="attention")
    variant = EVERYTHING.variant(replace(params, seeds=(8,)))
    whole = train(sources, tmp_path / "whole" / "student", variant)
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    epochs = Mock(wraps=training.train_epoch)
    epochs.side_effect = [DEFAULT, DEFAULT, KeyboardInterrupt]
    monkeypatch.setattr(training, "train_epoch", epochs)
    output = tmp_path / "broken" / "student"
    with pytest.raises(KeyboardInterrupt):
        train(sources, output, variant)
    epochs.side_effect = None
    assert train(sources, output, variant, force=False) == whole
    assert epochs.call_count == 3 + 2


@pytest.mark.parametrize(
    "change",
    [
        {"soft_targets": 0.0},
        {"unlabelled": False},
        {"teacher_classifier": False},
        {"standardisation": False},
        {"transfer": "frames", "teacher_classifier": False},
        {"alpha": 0.6},
        {"system": "aln"},
    ],
    ids=str,
)
def test_every_parameter_matters(
    sources: Sources, tmp_path: Path, change: dict[str, object]
) -> None:
    params = replace(PARAMS, seeds=(8,), epochs=2)
    weights = [
        train(sources, tmp_path / name / "student", one.variant(params))[
            "predictions.csv"
        ]
        for name, one in (("a", EVERYTHING), ("b", replace(EVERYTHING, **change)))  # type: ignore[arg-type]
    ]
    assert weights[0] != weights[1]


def test_the_papers_students_read_nothing_of_it(
    sources: Sources, tmp_path: Path
) -> None:
    paper, ours = Variant("aln", 0.5, PARAMS), EVERYTHING.variant(PARAMS)
    base = {"manifest", "intents", "acoustic", "quarantine"}
    assert set(sources.files(Variant("baseline2", None, PARAMS))) == base
    assert set(sources.files(paper)) == base | {"targets"}
    more = {"targets", "texts", "posteriors", "unlabelled"}
    assert set(sources.files(ours)) == base | more
    assert set(sources.files(RecommendedParams().variant(PARAMS))) >= base | {"targets"}
    assert set(sources.hashes()) == base | more
    # Nor does baseline2, whatever the parameters are.
    changed = Variant("baseline2", None, ours.params)
    assert set(sources.files(changed)) == base


def test_posteriors_of_other_intents_are_refused(
    sources: Sources, tmp_path: Path
) -> None:
    table = student_table()
    table["intent"] = table["intent"].replace("dim", "up")
    other = write_sources(tmp_path, table=table)
    given = replace(sources, corpus=other.corpus, unlabelled=None)
    soft = replace(PARAMS, soft_targets=0.5)
    Inputs(given, [Variant("aln", 0.5, PARAMS)])
    with pytest.raises(CacheError, match=r"posteriors.*other intents.*train-teacher"):
        Inputs(given, [Variant("aln", 0.5, soft)])


def test_unlabelled_sentences_that_are_now_in_test_are_refused(
    sources: Sources, tmp_path: Path
) -> None:
    table = student_table()
    for split, accepted in (("train", True), ("valid", False), ("test", False)):
        last = table.index[table["split"] == split][-1]
        changed = table.copy()
        changed.loc[last, "text"] = UNLABELLED[0].upper()
        other = write_sources(tmp_path / split, table=changed)
        given = replace(sources, corpus=other.corpus)
        if accepted:
            Inputs(given, [EVERYTHING.variant(PARAMS)])
            continue
        with pytest.raises(CacheError, match=r"manifest\.csv.*valid or test"):
            Inputs(given, [EVERYTHING.variant(PARAMS)])


def test_features_of_another_encoder_are_refused(tmp_path: Path) -> None:
    made = write_sources(tmp_path)
    folder = tmp_path / "unlabelled"
    write_unlabelled(folder)
    header = replace(ACOUSTIC, kind="unlabelled", fingerprint="ef" * 32)
    with CacheWriter(folder / "features", header) as writer:
        writer.add("u/0", "00" * 32, np.zeros((3, STUDENT_DIM), np.float32))
    features = folder / "features"
    pairs = [("u/0", "00" * 32)]
    write_digest(digest_path(features), features, header.fingerprint, pairs)
    variant = replace(EVERYTHING, soft_targets=0.0).variant(PARAMS)
    sources = replace(made, unlabelled=folder, posteriors=made.targets)
    with pytest.raises(CacheError, match="another encoder"):
        Inputs(sources, [variant])
