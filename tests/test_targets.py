"""Targets: each text's vector by itself, nothing computed twice, who made them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
)

from pipeline.cache.contents import needed_ids
from stages.cache.digest import read_digest
from stages.cache.store import CacheReader
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import CacheError, ConfigurationError
from stages.core.hashing import hash_bytes
from stages.core.manifest import SPLITS, read_labels, read_manifest, write_manifest
from stages.core.results import identify, record
from stages.core.runtime import RunOptions
from stages.core.text import text_key
from stages.targets import run as targets
from stages.targets.params import TargetsParams
from stages.teacher.bert import fit_tokenizer, load_classifier, predict
from stages.teacher.mean_head import MeanClassifier
from stages.teacher.vocabulary import build_vocabulary

ROOMS = ("bedroom", "cellar", "hall", "kitchen")
WORDINGS = ("light {}", "would you put the light on in the {}")
TEXTS = [wording.format(room) for wording in WORDINGS for room in ROOMS]
MAX_TOKENS = 16
CPU = torch.device("cpu")
Change = Callable[[np.ndarray], np.ndarray]


def write_corpus(
    folder: Path, *more: str, slots: tuple[str, ...] = (), **options: Any
) -> CorpusFiles:
    """A corpus whose splits have all `TEXTS`; train has `more`."""
    rows = [
        (f"toy/{split}/{number}", f"{split}/{number}.wav", split, "a", text, intent, 1)
        for split in SPLITS
        for number, text in enumerate((*TEXTS, *(more if split == "train" else ())))
        for intent in ["|".join((text.split()[-1], text[0])[: len(slots) or 1])]
    ]
    columns = ("id", "path", "split", "speaker", "text", "intent", "seconds")
    table = pd.DataFrame(rows, columns=list(columns)).assign(audio_sha256="0" * 64)
    table["text"] = table["text"].str.capitalize() + "!"
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "manifest.csv", table, slots, **options)
    return CorpusFiles(folder)


def write_teacher(
    folder: Path, corpus: CorpusFiles, kind: str = "bert", seed: int = 1
) -> Path:
    """A teacher of `corpus` as `train-teacher` leaves it, its weights random."""
    torch.manual_seed(seed)
    tokenizer = BertTokenizer(vocab=build_vocabulary(TEXTS, size=100))
    tokenizer.model_max_length = MAX_TOKENS
    names = {"dim": 24, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}
    if kind != "distilbert":
        names = {"hidden_size": 24, "intermediate_size": 24, "num_attention_heads": 2}
        names["num_hidden_layers"] = 2
    special = {f"{name}_token_id": tokenizer.cls_token_id for name in ("bos", "cls")}
    special |= {f"{name}_token_id": tokenizer.sep_token_id for name in ("eos", "sep")}
    special["pad_token_id"] = tokenizer.pad_token_id
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **special, **names)
    fit_tokenizer(tokenizer, config)
    config.num_labels = sum(read_labels(corpus.intents).sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer(["as in training"], truncation=True)
    tokenizer.save_pretrained(folder)
    (folder / "scores.json").write_text("{}")
    parameters = {"model": f"models/tiny-{kind}", "max_tokens": MAX_TOKENS}
    record(folder, identify("teacher", 1, parameters, {"intents": corpus.intents}))
    return folder


def embed(
    corpus: CorpusFiles, teacher: Path, folder: Path, pooling: str = "mean"
) -> targets.Summary:
    return targets.run(
        TargetsParams(pooling),
        corpus,
        teacher=teacher,
        cache=folder / "targets",
        posteriors=folder / "posteriors",
        options=RunOptions(device="cpu"),
    )


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusFiles:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def teacher(corpus: CorpusFiles, tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "teacher", corpus)


@pytest.mark.parametrize(
    ("kind", "pooling", "pooled"),
    [
        ("bert", "mean", lambda states: states.mean(axis=0)),
        ("bert", "mean_words", lambda states: states[1:-1].mean(axis=0)),
        ("bert", "cls", lambda states: states[0]),
        ("distilbert", "mean", lambda states: states.mean(axis=0)),
        ("modernbert", "mean", lambda states: states.mean(axis=0)),
    ],
)
def test_a_target_is_that_of_its_text_alone(
    corpus: CorpusFiles, tmp_path: Path, kind: str, pooling: str, pooled: Change
) -> None:
    teacher = write_teacher(tmp_path / "teacher", corpus, kind)
    summary = embed(corpus, teacher, tmp_path, pooling)
    header = read_digest(tmp_path / "targets.digest").header
    assert (header.kind, header.encoder, header.dim) == ("targets", f"tiny-{kind}", 24)
    assert (header.dtype, header.frame_step) == ("float32", 0)
    assert header.parameters == {"pooling": pooling, "max_tokens": MAX_TOKENS}
    reader = CacheReader(tmp_path / "targets")
    assert reader.header == header
    model = AutoModel.from_pretrained(teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    assert summary.texts == summary.computed == len(TEXTS)
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = model(**tokens).last_hidden_state.numpy()[0]
        found = reader[hash_bytes(text.encode())]
        assert found.dtype == np.float32 and found.shape == (1, 24)
        expected = pooled(states.astype(np.float64))
        np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_a_text_of_only_special_tokens_has_their_mean() -> None:
    states = torch.arange(12.0).view(1, 4, 3)
    special = torch.ones(1, 4, dtype=torch.long)
    found = targets.pool(states, special, "mean_words")
    assert torch.equal(found, states.mean(dim=1))


def test_only_new_texts_are_computed_and_the_digest_is_the_same(
    corpus: CorpusFiles,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches = []
    load_classifier = targets.load_classifier

    def counting(teacher: Path, device: torch.device) -> tuple:
        model, tokenizer = load_classifier(teacher, device)
        model.register_forward_pre_hook(
            lambda module, args, options: batches.append(len(options["input_ids"])),
            with_kwargs=True,
        )
        return model, tokenizer

    monkeypatch.setattr(targets, "load_classifier", counting)
    embed(corpus, teacher, tmp_path / "a")
    first = (tmp_path / "a" / "targets.digest").read_bytes()
    assert len(batches) == 2  # two lengths
    embed(corpus, teacher, tmp_path / "a")
    assert len(batches) == 2
    grown = write_corpus(tmp_path / "grown", "light in the hall")
    assert embed(grown, teacher, tmp_path / "a").computed == 1
    assert len(batches) == 3
    embed(grown, teacher, tmp_path / "b")
    digests = [tmp_path / name / "targets.digest" for name in "ab"]
    assert digests[0].read_bytes() == digests[1].read_bytes() != first
    assert "light_in_the_hall" in read_digest(digests[0]).rows
    # A text that is gone leaves the digest, not the cache.
    assert embed(corpus, teacher, tmp_path / "a").computed == 0
    assert digests[0].read_bytes() == first


def test_the_fingerprint_follows_the_weights_and_not_the_scores(
    corpus: CorpusFiles, tmp_path: Path
) -> None:
    def fingerprint(teacher: Path, pooling: str = "mean") -> str:
        embed(corpus, teacher, tmp_path, pooling)
        return read_digest(tmp_path / "targets.digest").header.fingerprint

    teacher, same, other = (
        write_teacher(tmp_path / f"teacher{number}", corpus, seed=seed)
        for number, seed in enumerate((1, 1, 2))
    )
    (same / "scores.json").write_text('{"test_accuracy": 1}')
    parameters = {"model": "tiny-bert", "max_tokens": MAX_TOKENS, "precision": "bf16"}
    made_from = {"intents": corpus.intents}
    record(same, identify("teacher", 2, parameters, made_from))
    found = fingerprint(teacher)
    assert fingerprint(same) == found != fingerprint(other)
    assert fingerprint(teacher, "cls") != found
    with (teacher / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(CacheError, match="not as its stage wrote it"):
        fingerprint(teacher)
    record(teacher, identify("teacher", 1, parameters, made_from))
    assert fingerprint(teacher) != found


def test_a_long_text_is_cut_and_the_teacher_is_frozen(teacher: Path) -> None:
    model, tokenizer = targets.load_classifier(teacher, CPU)
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())
    long, cut = (" ".join(["light"] * words) for words in (40, MAX_TOKENS - 2))
    (_, one, _), (_, other, _) = targets.embed(model, tokenizer, [long, cut], [4])
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("head", ["cls", "mean"])
@pytest.mark.parametrize("slots", [(), ("room", "first")])
def test_posteriors_are_what_the_teacher_answers_slot_by_slot(
    tmp_path: Path, slots: tuple[str, ...], head: str
) -> None:
    corpus = write_corpus(tmp_path / "corpus", slots=slots)
    teacher = write_teacher(tmp_path / "teacher", corpus)
    sizes = [4, 2] if slots else [4]
    if head == "mean":
        encoder = AutoModel.from_pretrained(teacher)
        MeanClassifier(encoder, sum(sizes)).save_pretrained(teacher)
        made_from = {"intents": corpus.intents}
        parameters = {"model": "tiny-bert", "max_tokens": MAX_TOKENS}
        record(teacher, identify("teacher", 1, parameters, made_from))
    embed(corpus, teacher, tmp_path)
    digest = read_digest(tmp_path / "posteriors.digest")
    assert (digest.header.kind, digest.header.dim) == ("posteriors", sum(sizes))
    assert set(digest.rows) == set(read_digest(tmp_path / "targets.digest").rows)
    vectors, found = (CacheReader(tmp_path / n) for n in ("targets", "posteriors"))
    labels = read_labels(corpus.intents)
    assert found.header.parameters["intents"] == labels.fingerprint
    model, tokenizer = load_classifier(teacher, CPU)
    numbers, confidences = predict(model, tokenizer, TEXTS, labels)
    for text, number, confidence in zip(TEXTS, numbers, confidences, strict=True):
        (probabilities,) = found[text_key(text)]
        parts = np.split(probabilities, np.cumsum(sizes)[:-1])
        assert [part.argmax() for part in parts] == number.tolist()
        np.testing.assert_allclose([part.sum() for part in parts], 1, rtol=1e-5)
        best = np.prod([part.max() for part in parts])
        np.testing.assert_allclose(best, confidence, rtol=1e-5)
        if head == "mean":
            layer = model.classifier
            vector = torch.from_numpy(vectors[text_key(text)].copy())
            logits = layer(vector)[0].split(sizes)
            expected = torch.cat([one.softmax(0) for one in logits])
            np.testing.assert_allclose(probabilities, expected, rtol=1e-5)


def test_texts_without_recordings_or_labels_are_cached_too(
    corpus: CorpusFiles, teacher: Path, tmp_path: Path
) -> None:
    def listed(name: str) -> list[str]:
        return list(read_digest(tmp_path / f"{name}.digest").rows)

    embed(corpus, teacher, tmp_path)
    plain = listed("targets")
    more = pd.DataFrame([("Light, please: hall!", "hall")], columns=["text", "intent"])
    write_corpus(corpus.folder, texts=more)
    (folder := corpus.unlabelled.parent).mkdir()
    corpus.unlabelled.write_text("id,text,key\nu/1,put the hall on,ab\n")
    record(folder, identify("unlabelled", 1, {}, {}))
    assert embed(corpus, teacher, tmp_path).computed == 2
    added = ["light_please_hall", "put_the_hall_on"]
    assert listed("targets") == listed("posteriors") == sorted([*plain, *added])
    needed = {name: needed_ids(corpus, name) for name in ("targets", "posteriors")}
    keys = {key for key, _ in read_digest(tmp_path / "targets.digest").rows.values()}
    assert needed["targets"].keys() == needed["posteriors"].keys() == keys
    corpus.unlabelled.write_text("id,text,key\n")
    with pytest.raises(CacheError, match=r"manifest\.csv has changed.*unlabelled"):
        embed(corpus, teacher, tmp_path)


def test_a_cache_without_the_other_is_completed(
    corpus: CorpusFiles, teacher: Path, tmp_path: Path
) -> None:
    embed(corpus, teacher, tmp_path)
    names = ("targets.digest", "posteriors.digest")
    first = [(tmp_path / name).read_bytes() for name in names]
    shutil.rmtree(tmp_path / "posteriors")
    assert embed(corpus, teacher, tmp_path).computed == len(TEXTS)
    assert [(tmp_path / name).read_bytes() for name in names] == first
    # Another pooling makes other targets, but the same posteriors.
    embed(corpus, teacher, tmp_path, "cls")
    assert (tmp_path / names[0]).read_bytes() != first[0]
    assert (tmp_path / names[1]).read_bytes() == first[1]


def test_the_variance_between_intents_is_that_of_distinct_texts(
    corpus: CorpusFiles, teacher: Path, tmp_path: Path
) -> None:
    summary = embed(corpus, teacher, tmp_path)
    figures = json.loads((tmp_path / "targets.json").read_text())
    assert figures["between_intents"] == summary.between_intents
    # Valid and test say what train says.
    assert summary.between_intents["unseen"] is None
    reader = CacheReader(tmp_path / "targets")
    vectors = np.stack([reader[text_key(text)][0] for text in TEXTS], dtype=float)
    intents = [ROOMS.index(text.split()[-1]) for text in TEXTS]
    onehot = np.eye(len(ROOMS))[intents]
    explained = LinearRegression(fit_intercept=False).fit(onehot, vectors)
    share = r2_score(
        vectors, explained.predict(onehot), multioutput="variance_weighted"
    )
    assert summary.between_intents["train"] == pytest.approx(share, abs=1e-4)
    table = read_manifest(corpus.manifest)
    heard = table["split"] != "train"
    table.loc[heard, "text"] = "please " + table.loc[heard, "text"]
    write_manifest(corpus.manifest, table)
    found = embed(corpus, teacher, tmp_path).between_intents
    assert found["train"] == summary.between_intents["train"]
    assert 0 < found["unseen"] < 1


def test_no_teacher_names_the_command(corpus: CorpusFiles, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="train-teacher"):
        embed(corpus, tmp_path / "teacher", tmp_path)
    other = write_corpus(tmp_path / "other", "light the attic")
    teacher = write_teacher(tmp_path / "teacher", other)
    with pytest.raises(CacheError, match=r"another intents than .*train-teacher"):
        embed(corpus, teacher, tmp_path)
    assert not (tmp_path / "targets.digest").exists()


def test_ids_have_no_spaces_and_differ() -> None:
    ids = [targets.text_id(text) for text in ("", "turn on", "turnon", "what's up")]
    assert ids == ["_", "turn_on", "turnon", "what's_up"]


def test_an_unknown_pooling_lists_the_known() -> None:
    with pytest.raises(ConfigurationError, match=r"targets\.pooling.*mean_words"):
        TargetsParams("max")
