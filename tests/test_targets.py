"""Targets: each text's vector by itself, nothing computed twice, who made them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
)

from stages.cache.digest import read_digest
from stages.cache.store import CacheReader
from stages.core.corpus_files import CorpusFiles
from stages.core.errors import CacheError, ConfigurationError
from stages.core.hashing import hash_bytes
from stages.core.manifest import SPLITS, write_manifest
from stages.core.results import identify, record
from stages.core.runtime import RunOptions
from stages.targets import run as targets
from stages.targets.params import TargetsParams
from stages.teacher.bert import fit_tokenizer
from stages.teacher.vocabulary import build_vocabulary

ROOMS = ("bedroom", "cellar", "hall", "kitchen")
WORDINGS = ("light {}", "would you put the light on in the {}")
TEXTS = [wording.format(room) for wording in WORDINGS for room in ROOMS]
MAX_TOKENS = 16
CPU = torch.device("cpu")
Change = Callable[[np.ndarray], np.ndarray]


def write_corpus(folder: Path, *more: str) -> CorpusFiles:
    """A corpus whose splits have all `TEXTS`; train has `more`."""
    rows = [
        (f"toy/{split}/{number}", f"{split}/{number}.wav", split, "a", text, "lit", 1.0)
        for split in SPLITS
        for number, text in enumerate((*TEXTS, *(more if split == "train" else ())))
    ]
    columns = ("id", "path", "split", "speaker", "text", "intent", "seconds")
    table = pd.DataFrame(rows, columns=list(columns)).assign(audio_sha256="0" * 64)
    table["text"] = table["text"].str.capitalize() + "!"
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "manifest.csv", table)
    return CorpusFiles(folder)


def write_teacher(folder: Path, kind: str = "bert", seed: int = 1) -> Path:
    """A teacher as `train-teacher` leaves it, its weights random."""
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
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer(["as in training"], truncation=True)
    tokenizer.save_pretrained(folder)
    (folder / "scores.json").write_text("{}")
    parameters = {"model": f"models/tiny-{kind}", "max_tokens": MAX_TOKENS}
    record(folder, identify("teacher", 1, parameters, {}))
    return folder


def embed(
    corpus: CorpusFiles, teacher: Path, folder: Path, pooling: str = "mean"
) -> targets.Summary:
    return targets.run(
        TargetsParams(pooling),
        corpus,
        teacher=teacher,
        cache=folder / "targets",
        options=RunOptions(device="cpu"),
    )


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusFiles:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "teacher")


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
    teacher = write_teacher(tmp_path / "teacher", kind)
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
        model.base_model.register_forward_pre_hook(
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
    grown = write_corpus(tmp_path / "grown", "light in the attic")
    assert embed(grown, teacher, tmp_path / "a").computed == 1
    assert len(batches) == 3
    embed(grown, teacher, tmp_path / "b")
    digests = [tmp_path / name / "targets.digest" for name in "ab"]
    assert digests[0].read_bytes() == digests[1].read_bytes() != first
    assert "light_in_the_attic" in read_digest(digests[0]).rows
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
        write_teacher(tmp_path / f"teacher{number}", seed=seed)
        for number, seed in enumerate((1, 1, 2))
    )
    (same / "scores.json").write_text('{"test_accuracy": 1}')
    parameters = {"model": "tiny-bert", "max_tokens": MAX_TOKENS, "precision": "bf16"}
    record(same, identify("teacher", 2, parameters, {}))
    found = fingerprint(teacher)
    assert fingerprint(same) == found != fingerprint(other)
    assert fingerprint(teacher, "cls") != found
    with (teacher / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(CacheError, match="not as its stage wrote it"):
        fingerprint(teacher)
    record(teacher, identify("teacher", 1, parameters, {}))
    assert fingerprint(teacher) != found


def test_a_long_text_is_cut_and_the_teacher_is_frozen(teacher: Path) -> None:
    model, tokenizer = targets.load_classifier(teacher, CPU)
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())
    long, cut = (" ".join(["light"] * words) for words in (40, MAX_TOKENS - 2))
    vectors = dict(targets.embed(model, tokenizer, [long, cut]))
    np.testing.assert_array_equal(vectors[long], vectors[cut])


def test_no_teacher_names_the_command(corpus: CorpusFiles, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="train-teacher"):
        embed(corpus, tmp_path / "teacher", tmp_path)
    assert not (tmp_path / "targets.digest").exists()


def test_ids_have_no_spaces_and_differ() -> None:
    ids = [targets.text_id(text) for text in ("", "turn on", "turnon", "what's up")]
    assert ids == ["_", "turn_on", "turnon", "what's_up"]


def test_an_unknown_pooling_lists_the_known() -> None:
    with pytest.raises(ConfigurationError, match=r"targets\.pooling.*mean_words"):
        TargetsParams("max")
