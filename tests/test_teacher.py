"""The teacher: both stages of fine-tuning, and what reaches them."""

import copy
import gc
import itertools
import json
import math
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertModel,
    BertTokenizer,
    PreTrainedTokenizerFast,
)

from stages.core.corpus_files import CorpusFiles
from stages.core.errors import CacheError, ConfigurationError, InputError
from stages.core.files import locked
from stages.core.manifest import write_manifest
from stages.core.runtime import RunOptions
from stages.teacher import bert, finetuning, training
from stages.teacher import run as teacher
from stages.teacher.params import TeacherParams
from stages.teacher.vocabulary import SPECIAL, build_vocabulary

SPECIAL_NAMES = ("pad", "unk", "cls", "sep", "mask")
ROOMS = ("bedroom", "cellar", "hall", "kitchen")
SPOKEN = {"train": 6, "valid": 2, "test": 2}
WEIGHTS = ("model.safetensors", "tokenizer.json", "tokenizer_config.json")
LEARNS = TeacherParams(
    model="scratch",
    scratch_hidden_size=64,
    scratch_layers=2,
    scratch_heads=2,
    scratch_intermediate_size=64,
    scratch_vocabulary_size=100,
    max_tokens=16,
    mlm_learning_rate=3e-3,
    mlm_epochs=4,
    intent_learning_rate=3e-3,
    intent_epochs=8,
    batch_size=8,
)
SMALL = {"scratch_hidden_size": 16, "scratch_intermediate_size": 16}
QUICK = replace(
    LEARNS, **SMALL, scratch_layers=1, mlm_epochs=1, intent_epochs=2, batch_size=16
)
SIZES = {
    **{"hidden_size": 24, "intermediate_size": 24},
    **{"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 48},
}
TUNED = {"head": "mean", "head_learning_rate": 0.03, "frozen_embeddings": True}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def imports_are_not_collected():
    """Trainer collects garbage at each start: half of the time with a tiny model."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_corpus(folder, edit=None, texts=()):
    """Manifest and intents of rooms to be lit, after `edit` of the table, and texts."""
    wordings = ("Light, {}!", "would you put the light on in the {}")
    rows = [
        (f"toy/{split}{take}/{room}{number}", split, wording.format(room), room)
        for split, takes in SPOKEN.items()
        for take in range(takes)
        for room in ROOMS
        for number, wording in enumerate(wordings)
    ]
    table = pd.DataFrame(rows, columns=["id", "split", "text", "intent"])
    table = table.assign(path=table["id"] + ".wav", speaker="a", seconds=1.0)
    table["audio_sha256"] = "0" * 64
    if edit:
        edit(table)
    folder.mkdir(parents=True, exist_ok=True)
    more = pd.DataFrame(texts, columns=["text", "intent"])
    write_manifest(folder / "manifest.csv", table, texts=more)
    return folder


def say(table, text, *splits):
    """Put `text` into an utterance of each of `splits`."""
    for split in splits:
        first = table.index[table["split"] == split][0]
        table.loc[first, "text"] = text


def train(corpus, params, output, *, minutes=10, force=False):
    return teacher.run(
        params,
        CorpusFiles(corpus),
        output=output,
        work=output.with_name(f"{output.name}.work"),
        checkpoint_minutes=minutes,
        options=RunOptions(device="cpu", force=force),
    )


def interrupt(monkeypatch, stage, step, act=None):
    """Stop a training after a step of a stage, by Ctrl-C or by `act`."""
    on_step_end = training._Watch.on_step_end

    def stop(self, args, state, control, **options):
        on_step_end(self, args, state, control, **options)
        if (self.stage.name, state.global_step) == (stage, step):
            act() if act else None
            raise KeyboardInterrupt

    monkeypatch.setattr(training._Watch, "on_step_end", stop)


def counted_steps(*arguments):
    """Train, and count the steps of mlm and intent."""
    steps = []
    on_step_end = training._Watch.on_step_end

    def count(self, *arguments, **options):
        on_step_end(self, *arguments, **options)
        steps.append(self.stage.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Watch, "on_step_end", count)
        train(*arguments)
    return steps.count("mlm"), steps.count("intent")


def contents(folder, names=None):
    paths = sorted(folder.iterdir())
    return {p.name: p.read_bytes() for p in paths if names is None or p.name in names}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_a_beta_can_be_0(corpus, tmp_path):
    # As YAML reads 0.
    train(corpus, replace(QUICK, adam_beta1=0), tmp_path / "teacher")
    assert (tmp_path / "teacher" / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def learnt(corpus, tmp_path_factory):
    """A teacher trained until it knows the rooms, and its summary."""
    output = tmp_path_factory.mktemp("learnt") / "teacher"
    return output, train(corpus, LEARNS, output)


def spelling():
    """A vocabulary of letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    return {piece: number for number, piece in enumerate(pieces)}


@pytest.fixture
def start(tmp_path):
    """A local model to start from, wide 24, with a pooler of its own."""
    torch.manual_seed(7)
    config = BertConfig(vocab_size=len(spelling()), **SIZES)
    folder = tmp_path / "start"
    BertForPreTraining(config).save_pretrained(folder)
    BertTokenizer(vocab=spelling()).save_pretrained(folder)
    return folder


def from_model(folder, **changes):
    return replace(QUICK, model=str(folder), max_tokens=48, **changes)


def tokenizer_of_letters(*names):
    """With the special tokens of these names alone."""
    backend = BertTokenizer(vocab=spelling()).backend_tokenizer
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)


class TestVocabulary:
    def test_frequent_words_first_and_equals_in_alphabetical_order(self):
        pieces = list(build_vocabulary(["ab ba", "ba", "bab aab"], size=100))
        assert pieces == [*SPECIAL, "a", "b", "##a", "##b", "ba", "aab", "ab", "bab"]
        assert pieces[:-2] == list(build_vocabulary(["ab ba", "ba", "bab aab"], 11))

    def test_numbers_count_up_and_do_not_depend_on_the_order_of_texts(self):
        texts = ["what's on", "on the one hand", "hand it over", "on"]
        vocabulary = build_vocabulary(texts, size=100)
        assert list(vocabulary.values()) == list(range(len(vocabulary)))
        assert vocabulary == build_vocabulary(texts[::-1], size=100)
        with pytest.raises(ConfigurationError, match=r"found 8.*at least 9"):
            build_vocabulary(["ab ba"], size=8)

    def test_an_unseen_word_is_spelled(self):
        tokenizer = BertTokenizer(vocab=build_vocabulary(["lamp spot"], size=100))
        assert tokenizer.tokenize("lamps top") == ["lamp", "##s", "t", "##o", "##p"]


class TestParams:
    def test_defaults_are_the_papers(self):
        params = TeacherParams()
        assert params.model == "bert-base-uncased"
        assert (params.mlm_learning_rate, params.mlm_epochs) == (5e-5, 3)
        assert (params.intent_learning_rate, params.intent_epochs) == (2e-5, 4)
        assert (params.adam_beta1, params.adam_beta2) == (0.9, 0.999)
        assert params.weight_decay == 0  # Adam's
        masking = params.mlm_probability, params.mlm_mask_share, params.mlm_random_share
        assert masking == (0.15, 0.8, 0.1)

    @pytest.mark.parametrize(
        ("name", "value"),
        {
            **{"model": "", "seed": 2**32, "schedule": "steps", "selection": "worst"},
            **{"precision": "fp16", "class_weights": "some", "scratch_heads": 3},
            **{"mlm_epochs": -1, "intent_epochs": 0, "batch_size": 0},
            **{"gradient_accumulation": 64, "repeats_per_row": 33},
            **{"mlm_probability": 0.0, "mlm_random_share": 0.3, "adam_epsilon": 0.0},
            **{"adam_beta2": 1.0, "intent_learning_rate": math.nan},
            **{"clip_norm": math.inf, "head": "max", "head_learning_rate": -0.1},
        }.items(),
    )
    def test_an_unusable_value_is_refused_by_name(self, name, value):
        with pytest.raises(ConfigurationError, match=r"teacher\."):
            TeacherParams(**{name: value})


class TestFinetune:
    def test_both_stages_learn(self, learnt):
        history = pd.read_csv(learnt[0] / "history.csv")
        mlm = history[history["stage"] == "mlm"]
        intent = history[history["stage"] == "intent"]
        assert mlm["epoch"].tolist() == list(range(1, LEARNS.mlm_epochs + 1))
        assert intent["epoch"].tolist() == list(range(1, LEARNS.intent_epochs + 1))
        assert mlm["loss"].iloc[-1] < 0.8 * mlm["loss"].iloc[0]
        assert intent["loss"].iloc[-1] < 0.8 * intent["loss"].iloc[0]
        assert mlm["valid_accuracy"].isna().all()
        assert intent["valid_accuracy"].iloc[-1] > intent["valid_accuracy"].iloc[0]
        assert intent["valid_accuracy"].iloc[-1] >= 75

    def test_scores_and_predictions_are_those_of_each_text_alone(self, corpus, learnt):
        output, summary = learnt
        model = AutoModelForSequenceClassification.from_pretrained(output).eval()
        tokenizer = AutoTokenizer.from_pretrained(output)
        table = pd.read_csv(corpus / "manifest.csv")
        names = json.loads((corpus / "intents.json").read_text())
        expected, confidences = [], []
        for text in table["text"]:
            plain = text.lower().replace(",", "").replace("!", "")
            with torch.no_grad():
                logits = model(**tokenizer(plain, return_tensors="pt")).logits
            expected.append(names[int(logits.argmax())])
            confidences.append(float(logits.softmax(1).max()))
        table["predicted"], table["confidence"] = expected, confidences
        scores = json.loads((output / "scores.json").read_text())
        for split, rows in table.groupby("split"):
            right = 100 * (rows["predicted"] == rows["intent"]).mean()
            assert scores[f"{split}_accuracy"] == pytest.approx(right)
            macro = f1_score(
                rows["intent"], rows["predicted"], average="macro", zero_division=0
            )
            assert scores[f"{split}_macro_f1"] == pytest.approx(100 * macro, abs=1e-4)
        assert summary.scores["test_accuracy"] == scores["test_accuracy"]
        assert f"epoch {scores['intent_epoch']} of 8, the best on valid" in str(summary)
        history = pd.read_csv(output / "history.csv")
        assert scores["mlm_loss"] == history["loss"][LEARNS.mlm_epochs - 1]
        valid = history["valid_accuracy"][LEARNS.mlm_epochs :].tolist()
        chosen = valid[scores["intent_epoch"] - 1]
        assert scores["valid_accuracy"] == pytest.approx(chosen, abs=1e-4)
        assert chosen == max(valid)
        scored = table[table["split"] != "train"].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            pd.read_csv(output / "predictions.csv"),
            scored[["id", "split", "intent", "predicted", "confidence"]],
            rtol=0,
            atol=2e-6,
        )

    def test_texts_that_are_cut_are_counted(self, learnt, tmp_path):
        assert "max_tokens" not in str(learnt[1])

        def edit(table):
            say(table, " ".join(["light"] * 15), "train", "test")
            say(table, " ".join(["light"] * 14), "valid")

        corpus = write_corpus(tmp_path, edit)
        summary = train(corpus, replace(QUICK, max_tokens=16), tmp_path / "teacher")
        assert str(summary).endswith("; teacher.max_tokens cut 1 text")
        saved = json.loads((tmp_path / "teacher" / "tokenizer.json").read_text())
        assert saved["truncation"]["max_length"] == 16  # not as counting left it

    def test_the_folder_holds_nothing_but_what_is_documented(self, learnt):
        files = {"config.json", "history.csv", "identity.json", "model.safetensors"}
        files |= {"predictions.csv", "scores.json"}
        files |= {"tokenizer.json", "tokenizer_config.json"}
        assert set(contents(learnt[0])) == files
        assert list(learnt[0].parent.iterdir()) == [learnt[0]]

    def test_texts_without_recordings_are_utterances_of_train(self, corpus, tmp_path):
        texts = [("Zyzzyva!", "hall"), ("zyzzyva", "hall"), ("xyst", "cellar")]
        more = write_corpus(tmp_path / "corpus", texts=texts)
        params = replace(QUICK, batch_size=1, intent_epochs=1)
        plain = train(corpus, replace(params, mlm_epochs=0), tmp_path / "plain")
        output = tmp_path / "teacher"
        assert counted_steps(more, params, output) == (plain.utterances + 3,) * 2
        summary = train(more, params, output)
        assert summary.up_to_date
        found = summary.utterances - plain.utterances, summary.texts - plain.texts
        assert found == (3, 2)
        vocabulary = AutoTokenizer.from_pretrained(output).vocab
        assert {"zyzzyva", "xyst"} <= set(vocabulary)
        assert len(pd.read_csv(output / "predictions.csv")) == 2 * 2 * 2 * len(ROOMS)
        write_corpus(tmp_path / "corpus", texts=texts[1:])
        assert not train(more, params, output).up_to_date

    @pytest.mark.parametrize(
        ("selection", "splits", "same"),
        [
            ("last", ("valid", "test"), True),
            ("best", ("test",), True),
            ("last", ("train",), False),
        ],
    )
    def test_only_train_reaches_vocabulary_and_weights_and_test_nothing(
        self, corpus, tmp_path, selection, splits, same
    ):
        marked = write_corpus(tmp_path, lambda table: say(table, "zyzzyva", *splits))
        params = replace(QUICK, selection=selection)
        for texts, name in ((corpus, "plain"), (marked, "marked")):
            train(texts, params, tmp_path / name)
        plain, found = (
            contents(tmp_path / name, WEIGHTS) for name in ("plain", "marked")
        )
        assert (found == plain) is same

    def test_a_finished_teacher_is_found_and_comes_back_with_its_parameters(
        self, tmp_path, capfd
    ):
        corpus = write_corpus(tmp_path / "corpus")
        output = tmp_path / "teacher"
        params = replace(QUICK, selection="last")
        first, found = str(train(corpus, params, output)), contents(output)
        assert capfd.readouterr() == ("", "")
        train(corpus, replace(params, seed=2), output)
        assert contents(output, WEIGHTS) != {name: found[name] for name in WEIGHTS}
        assert counted_steps(corpus, params, output) == (0, 0)
        assert contents(output) == found
        line = f"{output}: up to date; "
        assert str(train(corpus, params, output)) == first.replace(f"{output}: ", line)
        train(corpus, params, output, force=True)
        assert contents(output) == found
        (output / "model.safetensors").write_bytes(b"damaged")
        train(corpus, params, output)
        assert contents(output) == found

    def test_the_files_of_the_starting_model_count(self, corpus, start, tmp_path):
        params = from_model(start, mlm_epochs=0)
        output = tmp_path / "teacher"
        assert not train(corpus, params, output).up_to_date
        assert train(corpus, params, output).up_to_date
        (start / "README.md").write_text("another model")
        assert not train(corpus, params, output).up_to_date

    def test_stages_hand_on_the_encoder_and_see_every_utterance(
        self, corpus, start, tmp_path, monkeypatch
    ):
        seen = {}
        fit = finetuning.fit

        def watched(model, rows, collator, *, stage, **options):
            before = training.copied_weights(model.base_model)
            result = fit(model, rows, collator, stage=stage, **options)
            after = training.copied_weights(model.base_model)
            seen[stage.name] = (before, after, len(rows))
            return result

        monkeypatch.setattr(finetuning, "fit", watched)
        params = from_model(start)
        train(corpus, params, tmp_path / "teacher")
        given = training.copied_weights(AutoModel.from_pretrained(start))
        (first, handed, sentences), (taken, last, utterances) = seen.values()
        assert list(seen) == ["mlm", "intent"]
        assert sentences == utterances == SPOKEN["train"] * len(ROOMS) * 2
        poolers = {name for name in taken if name.startswith("pooler.")}
        assert poolers == set(given) - set(first) != set()
        name = "encoder.layer.0.output.dense.weight"
        assert torch.equal(first[name], given[name])
        assert not torch.equal(handed[name], given[name])
        assert all(torch.equal(taken[name], handed[name]) for name in handed)
        assert all(torch.equal(taken[name], given[name]) for name in poolers)
        assert not torch.equal(last[name], taken[name])

    def test_the_later_of_the_best_epochs_is_kept(self, corpus, tmp_path, monkeypatch):
        weights = []
        share = iter((0.5, 1.0, 1.0, 0.5))  # of valid, right, epoch by epoch
        predict_table = finetuning._predict_table

        def scripted(model, tokenizer, table, classes):
            if len(weights) == 4:
                return predict_table(model, tokenizer, table, classes)
            weights.append(training.copied_weights(model))
            right = np.arange(len(table)) < next(share) * len(table)
            named = table["intent"].where(right, "none")
            return table.assign(predicted=named, confidence=1.0)

        monkeypatch.setattr(finetuning, "_predict_table", scripted)
        params = replace(QUICK, intent_epochs=4)
        summary = train(corpus, params, tmp_path / "teacher")
        assert summary.scores["intent_epoch"] == 3
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher")
        kept = model.state_dict()
        assert all(torch.equal(kept[name], weights[2][name]) for name in kept)
        assert not torch.equal(weights[3]["classifier.bias"], kept["classifier.bias"])

    def test_a_batch_never_goes_without_a_masked_token(self):
        tokenizer = BertTokenizer(vocab=build_vocabulary(["lamp"], size=100))
        masking = training.Masked(tokenizer, TeacherParams(mlm_probability=0.01))
        for draw in range(20):
            example = dict(tokenizer("lamp", return_special_tokens_mask=True))
            labels = masking([{**example, "count": 1, "draw": draw}])["labels"]
            assert (labels != -100).tolist() == [[False, True, False]]

    def test_utterances_without_text_train_the_second_stage_alone(self, tmp_path):
        corpus = write_corpus(tmp_path, lambda table: say(table, "?!", "train"))
        params = replace(QUICK, batch_size=1 + 6 * len(ROOMS) * 2)
        assert train(corpus, params, tmp_path / "teacher").texts == 2 * len(ROOMS) + 1

    def test_a_diverged_training_names_the_learning_rate(
        self, corpus, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(
            training.functional,
            "cross_entropy",
            lambda logits, *_, **__: logits[:, 0] / 0,
        )
        with pytest.raises(ConfigurationError, match=r"epoch 1 .*mlm_learning_rate"):
            train(corpus, QUICK, tmp_path / "teacher")


LONGER = replace(QUICK, mlm_epochs=2, intent_epochs=3)  # 3 steps an epoch


@pytest.fixture(scope="module", params=[False, True], ids=["random", "by length"])
def unbroken(request, corpus, tmp_path_factory):
    """Parameters, and all files of a training with them."""
    params = replace(LONGER, group_by_length=request.param)
    output = tmp_path_factory.mktemp("unbroken") / "teacher"
    train(corpus, params, output)
    return params, contents(output)


class TestHead:
    def test_the_mean_of_real_tokens_is_classified_and_the_encoder_loads_by_itself(
        self, corpus, start, tmp_path
    ):
        params = from_model(start, mlm_epochs=0, intent_epochs=12, **TUNED)
        output = tmp_path / "teacher"
        summary = train(corpus, params, output)
        assert summary.scores["train_accuracy"] > 90
        encoder = AutoModel.from_pretrained(output).eval()
        given, learnt = (
            AutoModel.from_pretrained(one).get_input_embeddings().weight
            for one in (start, output)
        )
        assert torch.equal(learnt, given)
        head = load_file(output / "head.safetensors")
        tokenizer = AutoTokenizer.from_pretrained(output)
        predicted = pd.read_csv(output / "predictions.csv").set_index("id")
        table = (
            pd.read_csv(corpus / "manifest.csv").set_index("id").loc[predicted.index]
        )
        for id, text in (
            table["text"].str.lower().str.replace("[,!]", "", regex=True).items()
        ):
            with torch.no_grad():
                tokens = tokenizer(text, return_tensors="pt")
                states = encoder(**tokens).last_hidden_state[0]
            logits = head["weight"] @ states.mean(0) + head["bias"]
            assert ROOMS[logits.argmax()] == predicted.loc[id, "predicted"]
            confidence = float(logits.softmax(0).max())
            assert predicted.loc[id, "confidence"] == pytest.approx(
                confidence, abs=2e-6
            )

    def test_a_stopped_run_ends_with_the_same_bytes(self, corpus, start, tmp_path):
        params = from_model(start, mlm_epochs=0, **TUNED)
        expected = tmp_path / "unbroken"
        train(corpus, params, expected)
        output = tmp_path / "teacher"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, "intent", 3)
            train(corpus, params, output, minutes=0)
        assert counted_steps(corpus, params, output)[1] < 6
        assert contents(output) == contents(expected)

    @pytest.mark.parametrize("head", ["cls", "mean"])
    @pytest.mark.parametrize("rate", [0, 0.02])
    def test_a_head_can_have_a_rate_of_its_own(
        self, corpus, start, tmp_path, head, rate
    ):
        states = []

        def note(self, args, state, control, model=None, **options):
            states.append(training.copied_weights(model))
            if len(states) == 2:
                raise KeyboardInterrupt

        params = from_model(start, mlm_epochs=0, head=head, head_learning_rate=rate)
        params = replace(params, warmup=0.0, schedule="constant_with_warmup")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training._Watch, "on_step_begin", note, raising=False)
            train(corpus, params, tmp_path / "teacher")
        # Adam's first step is as large as the rate.
        moved = {n: float((states[1][n] - states[0][n]).abs().max()) for n in states[0]}
        own = params.intent_learning_rate
        assert moved.pop("classifier.weight") == pytest.approx(rate or own, rel=1e-3)
        assert moved.pop("classifier.bias") == pytest.approx(rate or own, rel=1e-3)
        assert max(moved.values()) == pytest.approx(own, rel=1e-3)


class TestResuming:
    @pytest.mark.parametrize(
        ("stage", "step"),
        [("mlm", 2), ("mlm", 6), ("intent", 1), ("intent", 5)],
    )
    def test_a_run_that_was_stopped_ends_with_the_same_bytes(
        self, corpus, unbroken, tmp_path, stage, step
    ):
        params, expected = unbroken
        output = tmp_path / "teacher"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, stage, step)
            train(corpus, params, output, minutes=0)
        assert not output.exists()
        # The checkpoint of a step is written after the step's end.
        left = (7 - step, 9) if stage == "mlm" else (0, 10 - step)
        assert counted_steps(corpus, params, output) == left
        assert contents(output) == expected
        assert list(tmp_path.iterdir()) == [output]

    def test_a_killed_run_resumes(self, corpus, unbroken, tmp_path):
        params, expected = unbroken
        output = tmp_path / "teacher"
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
                interrupt(patch, "intent", 4, kill)
                train(corpus, params, output, minutes=0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL and not output.exists()
        # As a kill in the middle of writing leaves it.
        (folder,) = (tmp_path / "teacher.work").glob("*/intent")
        (folder / "checkpoint-4").mkdir()
        (folder / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
        train(corpus, params, output)
        assert contents(output) == expected

    def test_other_parameters_or_texts_start_again(self, corpus, tmp_path):
        output = tmp_path / "teacher"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, "intent", 1)
            train(corpus, LONGER, output, minutes=0)
        grown = write_corpus(
            tmp_path / "grown", lambda table: say(table, "dark", "train")
        )
        others = ((replace(LONGER, seed=2), corpus), (LONGER, grown))
        for number, (params, texts) in enumerate(others):
            resumed = tmp_path / f"resumed{number}"
            shutil.copytree(tmp_path / "teacher.work", f"{resumed}.work")
            assert counted_steps(texts, params, resumed) == (6, 9)

    def test_another_device_or_precision_starts_again(self, monkeypatch):
        def found(device, precision, able):
            monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: able)
            params = replace(LONGER, precision=precision)
            device = torch.device(device)
            return finetuning._circumstances(params, BertConfig(), device)

        assert found("cpu", "float32", True) != found("cuda", "float32", True)
        assert found("cuda", "bf16", True) != found("cuda", "bf16", False)
        assert found("cuda", "bf16", False)["bf16"] is False
        assert found("cpu", "bf16", True)["bf16"] is False
        assert found("cuda:0", "bf16", True) == found("cuda:1", "bf16", True)

    def test_a_damaged_checkpoint_is_named_and_not_used(self, corpus, tmp_path, caplog):
        def cut(path):
            path.write_bytes(path.read_bytes()[:-100])

        def flip(path):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)

        damages = [
            ("intent", "latest.json", lambda path: path.write_text("")),
            ("intent", "latest.json", lambda path: path.write_text("[]")),
            ("intent", "checkpoint-4", shutil.rmtree),
            ("intent", "checkpoint-4/optimizer.pt", cut),
            ("intent", "checkpoint-4/model.safetensors", flip),
            ("mlm", "finished.pt", cut),
            ("mlm", "finished.pt", flip),
        ]
        names = ("best.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt")
        for name in (*names, "trainer_state.json"):
            damages.append(("intent", f"checkpoint-4/{name}", os.unlink))
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, "intent", 5)
            train(corpus, LONGER, tmp_path / "stopped", minutes=0)
        train(corpus, LONGER, tmp_path / "unbroken")
        for number, (stage, name, damage) in enumerate(damages):
            output = tmp_path / str(number)
            shutil.copytree(tmp_path / "stopped.work", f"{output}.work")
            (path,) = Path(f"{output}.work").glob(f"*/{stage}/{name}")
            damage(path)
            caplog.clear()
            # The masked-LM stage has a checkpoint of its own, one step before its end.
            left = {"mlm": (1, 5), "intent": (0, 9)}[stage]
            assert counted_steps(corpus, LONGER, output) == left, name
            assert "damaged checkpoint" in caplog.text, name
            assert contents(output) == contents(tmp_path / "unbroken"), name

    def test_a_checkpoint_and_its_folder_are_flushed_before_it_is_named(
        self, corpus, tmp_path, monkeypatch
    ):
        flushed = []
        write_json = training.write_json
        monkeypatch.setattr(training, "flush_path", flushed.append)

        def noting(path, value):
            folder = path.parent / value["checkpoint"]
            assert {folder, *folder.iterdir()} <= set(flushed)
            assert sorted(value["files"]) == sorted(p.name for p in folder.iterdir())
            write_json(path, value)

        monkeypatch.setattr(training, "write_json", noting)
        train(corpus, QUICK, tmp_path / "teacher", minutes=0)
        assert flushed

    def test_two_at_once_do_not_share_a_work_folder(self, corpus, tmp_path):
        with (
            locked(tmp_path / "teacher.work"),
            pytest.raises(CacheError, match=r"teacher\.work: process \d+ is writing"),
        ):
            train(corpus, QUICK, tmp_path / "teacher")


ENCODERS = {
    "bert": {},
    "distilbert": {},
    "roberta": {"type_vocab_size": 1},
    "deberta": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {"global_attn_every_n_layers": 1, "local_attention": 8},
}


class TestEncoders:
    @pytest.mark.parametrize("head", ["cls", "mean"])
    @pytest.mark.parametrize("kind", ENCODERS)
    def test_any_encoder_with_a_masked_lm_head_is_trained_in_both_stages(
        self, corpus, tmp_path, kind, head
    ):
        tokenizer = tokenizer_of_letters(*SPECIAL_NAMES)
        special = {"pad": 0, "cls": 2, "sep": 3, "bos": 2, "eos": 3}
        config = AutoConfig.for_model(
            kind,
            vocab_size=len(tokenizer),
            **{f"{name}_token_id": number for name, number in special.items()},
            **SIZES | ENCODERS[kind],
        )
        torch.manual_seed(3)
        model = AutoModelForMaskedLM.from_config(config)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        before = training.copied_weights(model.base_model)
        params = from_model(tmp_path / "model", masked_only=True, head=head)
        params = replace(params, max_tokens=40)
        train(corpus, params, tmp_path / "teacher")
        history = pd.read_csv(tmp_path / "teacher" / "history.csv")
        assert history["stage"].tolist() == ["mlm", "intent", "intent"]
        after = AutoModel.from_pretrained(tmp_path / "teacher").state_dict()
        moved = [n for n in before if not torch.equal(before[n], after[n])]
        assert len(moved) > len(before) / 2

    @pytest.mark.parametrize("form", ["without weights for it", "of a kind without"])
    def test_no_masked_lm_head_asks_to_skip_the_first_stage(
        self, corpus, start, tmp_path, form
    ):
        config = AutoConfig.from_pretrained(start)
        BertModel(config).save_pretrained(start)
        if form == "of a kind without":
            sizes = {"vocab_size": len(spelling()), "pad_token_id": 0, **SIZES}
            config = AutoConfig.for_model("gpt2", **sizes)
            AutoModel.from_config(config).save_pretrained(start)
        params = from_model(start)
        with pytest.raises(ConfigurationError, match=r"no masked-LM head.*mlm_epochs"):
            train(corpus, params, tmp_path / "teacher")
        train(corpus, replace(params, mlm_epochs=0), tmp_path / "teacher")
        history = pd.read_csv(tmp_path / "teacher" / "history.csv")
        assert set(history["stage"]) == {"intent"}
        scores = json.loads((tmp_path / "teacher" / "scores.json").read_text())
        assert scores["mlm_loss"] is None

    def test_encoder_weights_that_are_missing_are_not_made_up(
        self, corpus, start, tmp_path
    ):
        weights = load_file(start / "model.safetensors")
        del weights["bert.encoder.layer.0.output.dense.weight"]
        save_file(weights, start / "model.safetensors", {"format": "pt"})
        for epochs in (1, 0):
            params = from_model(start, mlm_epochs=epochs)
            with pytest.raises(InputError, match=r"missing.*layer\.0\.output\.dense"):
                train(corpus, params, tmp_path / "teacher")

    @pytest.mark.parametrize(
        ("kind", "longest"),
        [
            *(("bert", 514), ("distilbert", 514), ("modernbert", 514), ("funnel", 514)),
            *(("roberta", 512), ("camembert", 512), ("xlm-roberta", 512)),
            *(("xlm-roberta-xl", 512), ("mpnet", 512), ("data2vec-text", 512)),
            *(("roberta-prelayernorm", 512), ("ibert", 512), ("xmod", 512)),
            *(("longformer", 512), ("luke", 512), ("esm", 512), ("xlnet", None)),
        ],
    )
    def test_positions_can_begin_behind_the_paddings(self, kind, longest):
        tokenizer = BertTokenizer(vocab=spelling())
        sizes = {"max_position_embeddings": 514} if longest else {}
        config = AutoConfig.for_model(kind, vocab_size=60, pad_token_id=1, **sizes)
        assert bert.longest_text(tokenizer, config) == longest

    @pytest.mark.parametrize("kind", ["roberta", "mpnet", "xmod", "bert"])
    def test_a_text_of_that_length_is_the_longest_that_runs(self, kind):
        config = AutoConfig.for_model(
            kind,
            vocab_size=60,
            pad_token_id=1,
            languages=["en"],
            default_language="en",
            **SIZES,
        )
        model = AutoModel.from_config(config).eval()
        longest = bert.longest_text(BertTokenizer(vocab=spelling()), config)
        model(torch.full((1, longest), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, longest + 1), 5))


class TestSupply:
    def test_code_that_comes_with_a_model_is_not_run(self, corpus, start, tmp_path):
        ran = tmp_path / "ran"
        (start / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
        config = json.loads((start / "config.json").read_text())
        kinds = ("Config", "ModelForMaskedLM", "ModelForSequenceClassification")
        config["auto_map"] = {
            f"Auto{kind}": "evil.Evil" for kind in (*kinds, "Tokenizer")
        }
        (start / "config.json").write_text(json.dumps(config))
        params = from_model(start)
        train(corpus, params, tmp_path / "teacher")  # with the library's own BERT
        assert not ran.exists()

    def test_a_pickle_gives_only_tensors_and_is_second_to_safetensors(
        self, corpus, start, tmp_path
    ):
        (start / "pytorch_model.bin").write_bytes(b"not a pickle")
        params = from_model(start)
        train(corpus, params, tmp_path / "safe")
        weights = load_file(start / "model.safetensors")
        (start / "model.safetensors").unlink()
        torch.save(weights, start / "pytorch_model.bin")
        train(corpus, params, tmp_path / "teacher")
        assert contents(tmp_path / "teacher", WEIGHTS) == contents(
            tmp_path / "safe", WEIGHTS
        )

        ran = tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return (open, (str(ran), "w"))

        torch.save({"a": Evil()}, start / "pytorch_model.bin", pickle_module=pickle)
        with pytest.raises(InputError, match="cannot load the model"):
            train(corpus, params, tmp_path / "other")
        assert not ran.exists()

    def test_a_revision_pins_the_models_commit(
        self, corpus, start, tmp_path, monkeypatch
    ):
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(
                f"huggingface_hub.constants.{name}", str(tmp_path / "hub")
            )
        folder = tmp_path / "hub" / "models--some--bert"
        (folder / "refs").mkdir(parents=True)
        for name, commit, width in (("main", "a" * 40, 24), ("old", "b" * 40, 12)):
            (folder / "refs" / name).write_text(commit)
            shutil.copytree(start, folder / "snapshots" / commit)
            config = AutoConfig.from_pretrained(start)
            config.hidden_size = width
            BertForPreTraining(config).save_pretrained(folder / "snapshots" / commit)
        for revision, width in (("", 24), ("old", 12), ("b" * 40, 12)):
            params = from_model("some/bert", revision=revision)
            train(corpus, params, tmp_path / "teacher")
            config = AutoConfig.from_pretrained(tmp_path / "teacher")
            assert config.hidden_size == width
        params = replace(params, revision="c" * 40)
        with pytest.raises(InputError, match=r"no config\.json"):
            train(corpus, params, tmp_path / "teacher")


def gradient(model):
    """All gradients of the model, one after another."""
    gradients = [weight.grad for weight in model.parameters()]
    return torch.cat([one.flatten() for one in gradients if one is not None]).clone()


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class TestObjective:
    def first_step(self, corpus, params, folder):
        """The gradient of the first step, and the model."""

        def note(self, args, state, control, model=None, **options):
            found.append((gradient(model), copy.deepcopy(model)))
            raise KeyboardInterrupt

        found = []
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training._Watch, "on_pre_optimizer_step", note, raising=False)
            train(corpus, params, folder / "teacher")
        return found[0]

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"gradient_accumulation": 8},
            {"class_weights": "balanced", "gradient_accumulation": 4},
            {"repeats_per_row": 4},
            {"class_weights": "balanced", "repeats_per_row": 4},
            {"head": "mean", "repeats_per_row": 4, "head_learning_rate": 0.1},
        ],
        ids=str,
    )
    def test_a_step_over_all_utterances_has_the_gradient_of_their_mean(
        self, start, tmp_path, changes
    ):
        def edit(table):  # a text with two intents, and one intent in plenty
            say(table, "Light, hall!", "train")
            table.loc[table["intent"] == "cellar", "text"] = "down there"
            most = table.index[table["intent"] == "hall"][:9]
            table.loc[most, ["text", "intent"]] = "down there", "cellar"

        corpus = write_corpus(tmp_path, edit)
        config = json.loads((start / "config.json").read_text()) | NO_DROPOUT
        (start / "config.json").write_text(json.dumps(config))
        params = from_model(start, mlm_epochs=0, clip_norm=0.0, **changes)
        params = replace(params, batch_size=64)
        found, model = self.first_step(corpus, params, tmp_path)
        table = pd.read_csv(corpus / "manifest.csv")
        table = table[table["split"] == "train"]
        texts = [text.lower().replace(",", "").strip("!") for text in table["text"]]
        labels = [ROOMS.index(intent) for intent in table["intent"]]
        balanced = "balanced" if params.class_weights == "balanced" else None
        weights = torch.tensor(compute_sample_weight(balanced, labels))
        tokenizer = bert.load_tokenizer(str(start))
        # Each text alone.
        tokens = [tokenizer(text, return_tensors="pt") for text in texts]
        logits = torch.cat([model.eval()(**one).logits for one in tokens])
        each = functional.cross_entropy(logits, torch.tensor(labels), reduction="none")
        model.zero_grad()
        ((each * weights).sum() / weights.sum()).backward()
        torch.testing.assert_close(found, gradient(model), atol=2e-6, rtol=0)

    def test_rows_stand_for_every_utterance_once(self):
        keys = ["a", "b", "a", "a", "c", "a", "a"]
        assert training.merge_repeats(keys, 1) == [(n, 1) for n in range(7)]
        merged = [(0, 2), (0, 2), (0, 1), (1, 1), (4, 1)]
        assert training.merge_repeats(keys, 2) == merged

    @pytest.mark.parametrize(
        ("stage", "values"), [("mlm", None), ("intent", [2]), ("intent", [2, 3])]
    )
    def test_a_row_weighs_its_count_whatever_the_other_rows(
        self, tmp_path, stage, values
    ):
        counts, numbers = [4, 4, 4, 1], [[0, 2], [1, 3], [0, 4], [1, 2]]
        kind, allowed = AutoModelForMaskedLM, None
        config = BertConfig(vocab_size=20, **SIZES, **NO_DROPOUT)
        if stage == "intent":
            kind = AutoModelForSequenceClassification
            config.num_labels, allowed = sum(values), training.slot_mask(values)
        torch.manual_seed(3)
        model = kind.from_config(config)
        tokens = torch.randint(5, 20, (4, 3))
        labels = torch.tensor(numbers)[:, : len(values or [])]
        if stage == "mlm":  # two tokens of each row are masked
            labels = torch.where(torch.tensor([False, True, True]), tokens, -100)
        rows = training.Rows([{"count": count} for count in counts])
        params = TeacherParams(batch_size=8)
        assert training.rows_at_once(rows, params) == 2
        one = training.Stage(stage, 1e-3, 1, CPU, tmp_path, minutes=60, bar=None)
        trainer = training._WeightedTrainer(
            model=model,
            args=training._arguments(params, one, at_once=2),
            class_weights=None,
            allowed=allowed,
            masked_only=False,
            mean_count=rows.mean_count(),
        )

        def of_batch(places):
            batch = {"input_ids": tokens[places], "labels": labels[places]}
            batch["counts"] = torch.tensor([float(counts[place]) for place in places])
            pieces, total = trainer.get_batch_samples(iter([batch]), 1, CPU)
            model.zero_grad()
            trainer.compute_loss(model, pieces[0], num_items_in_batch=total).backward()
            return gradient(model)

        orders = list(itertools.permutations(range(4)))
        halves = [half for order in orders for half in (order[:2], order[2:])]
        found = sum(of_batch(list(half)) for half in halves) / len(halves)
        spoken = [place for place, count in enumerate(counts) for _ in range(count)]
        model.zero_grad()
        logits = model(input_ids=tokens[spoken]).logits.flatten(0, -2)
        if stage == "mlm":
            loss = functional.cross_entropy(logits, labels[spoken].flatten())
        else:  # summed over slots, each among its own values
            loss = functional.cross_entropy(logits[:, :2], labels[spoken, 0])
            if len(values) > 1:
                loss += functional.cross_entropy(logits[:, 2:], labels[spoken, 1] - 2)
        loss.backward()
        torch.testing.assert_close(found, gradient(model), atol=1e-6, rtol=1e-4)
        if values:  # the accuracy on train is that of whole frames, as on valid
            parts = model(tokens).logits.split(values, dim=1)
            guesses = [one.argmax(1) + 2 * slot for slot, one in enumerate(parts)]
            right = (torch.stack(guesses, 1) == labels).all(1)
            trainer._right = trainer._seen = 0.0
            of_batch([0, 1, 2, 3])
            assert trainer._right == (right * torch.tensor(counts)).sum()
            assert trainer._seen == sum(counts)

    def test_an_epoch_has_about_as_many_steps_as_without_merging(self):
        def steps(keys, most, **changes):
            merged = training.merge_repeats(keys, most)
            rows = training.Rows([{"count": count} for _, count in merged])
            params = TeacherParams(repeats_per_row=most, **changes)
            return training.steps_an_epoch(rows, params)

        distinct = range(1000)
        repeated = [n % 60 for n in range(6000)]
        for most, accumulation in itertools.product((1, 2, 4, 8), (1, 2)):
            changes = {"gradient_accumulation": accumulation}
            assert steps(distinct, most, **changes) == math.ceil(1000 / 32)
            found = steps(repeated, most, **changes)
            assert found == pytest.approx(math.ceil(6000 / 32), rel=0.05)
        assert steps(["a"] * 4, 32) == 1

    def test_the_loss_of_masked_tokens_alone_is_the_same(self, corpus, tmp_path):
        outputs = [tmp_path / "plain", tmp_path / "short"]
        for masked_only, output in enumerate(outputs):
            train(corpus, replace(QUICK, masked_only=bool(masked_only)), output)
        plain, short = (pd.read_csv(one / "history.csv")["loss"] for one in outputs)
        np.testing.assert_allclose(short, plain, rtol=1e-4)
        plain, short = (load_file(one / "model.safetensors") for one in outputs)
        torch.testing.assert_close(short, plain, atol=2e-4, rtol=1e-3)

    def test_the_masks_are_berts(self):
        text = " ".join(chr(ord("a") + n % 26) for n in range(46))
        tokenizer = BertTokenizer(vocab=spelling())
        masking = training.Masked(tokenizer, TeacherParams())
        example = dict(tokenizer(text, return_special_tokens_mask=True))
        rows = [{**example, "count": 1, "draw": n} for n in range(400)]
        batch = masking([dict(row) for row in rows])
        again = masking([dict(row) for row in rows])
        assert torch.equal(batch["input_ids"], again["input_ids"])
        given = torch.tensor([example["input_ids"]] * 400)
        chosen = batch["labels"] != -100
        assert torch.equal(batch["labels"][chosen], given[chosen])
        assert torch.equal(batch["input_ids"][~chosen], given[~chosen])
        assert chosen[:, 1:-1].float().mean() == pytest.approx(0.15, abs=0.01)
        assert not chosen[:, [0, -1]].any()
        seen = batch["input_ids"][chosen]
        masked = (seen == tokenizer.mask_token_id).float().mean()
        assert masked == pytest.approx(0.8, abs=0.03)
        assert (seen == given[chosen]).float().mean() == pytest.approx(0.1, abs=0.03)

    def test_bf16_is_for_gpus(self, corpus, tmp_path, caplog):
        train(corpus, replace(QUICK, precision="bf16"), tmp_path / "teacher")
        assert caplog.text.count("trains in float32") == 1


class TestBadInput:
    @pytest.mark.parametrize("name", ["some/bert-nowhere", "bert-base-nowhere"])
    def test_an_unknown_model_is_one_line_with_the_fix(self, corpus, tmp_path, name):
        with pytest.raises(InputError) as caught:
            train(corpus, replace(QUICK, model=name), tmp_path / "teacher")
        line = str(caught.value)
        assert line.startswith(f"{name}: ") and "\n" not in line
        assert "no config.json; no model.safetensors" in line
        assert f"hf download {name} --local-dir data/models/" in line
        assert "HF_HUB_OFFLINE" in line
        assert not (tmp_path / "teacher").exists()

    @pytest.mark.parametrize(
        "name", ["no/such/folder/here", "/nowhere/bert", "./bert", "bert.bin"]
    )
    def test_a_missing_folder_is_not_a_hub_name(
        self, corpus, tmp_path, monkeypatch, name
    ):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "bert.bin").write_bytes(b"weights")
        with pytest.raises(InputError) as caught:
            train(corpus, replace(QUICK, model=name), tmp_path / "teacher")
        line = str(caught.value)
        assert line.startswith(f"{name}: no such folder") and "\n" not in line
        assert "a folder with config.json, model.safetensors" in line
        assert "--local-dir FOLDER" in line and "HF_HUB_OFFLINE" not in line
        assert ("found a file" in line) is (name == "bert.bin")

    @pytest.mark.parametrize("kind", ["vit", "wav2vec2", "bart", "t5"])
    def test_a_model_of_another_kind_is_refused(self, corpus, tmp_path, kind):
        AutoConfig.for_model(kind).save_pretrained(tmp_path / "model")
        if kind in ("bart", "t5"):  # they even have tokenizers
            BertTokenizer(vocab=spelling()).save_pretrained(tmp_path / "model")
        params = replace(QUICK, model=str(tmp_path / "model"))
        with pytest.raises(
            ConfigurationError, match=rf"not a text encoder.*found {kind}.*bert-base"
        ):
            train(corpus, params, tmp_path / "teacher")

    def test_a_tokenizer_that_cannot_mask_asks_to_skip_the_stage_that_does(
        self, corpus, start, tmp_path
    ):
        for path in start.glob("tokenizer*"):
            path.unlink()
        tokenizer_of_letters(*SPECIAL_NAMES[:-1]).save_pretrained(start)
        params = from_model(start)
        with pytest.raises(InputError, match=r"no mask token.*mlm_epochs to 0"):
            train(corpus, params, tmp_path / "teacher")
        train(corpus, replace(params, mlm_epochs=0), tmp_path / "teacher")

    def test_files_that_cannot_be_used_are_named(self, corpus, start, tmp_path):
        def refused(match):
            with pytest.raises(InputError, match=match):
                train(corpus, replace(QUICK, model=str(start)), tmp_path / "teacher")

        vocabulary = build_vocabulary([f"word{n}" for n in range(99)], size=200)
        BertTokenizer(vocab=vocabulary).save_pretrained(start)
        refused("do not belong together")
        for path in start.glob("tokenizer*"):
            path.unlink()
        refused("has no vocabulary")
        BertTokenizer(vocab=spelling()).save_pretrained(start)
        weights = start / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        refused("cannot load the model")

    def test_more_tokens_than_the_model_takes(self, corpus, start, tmp_path):
        with pytest.raises(ConfigurationError, match="at most 48"):
            params = replace(from_model(start), max_tokens=64)
            train(corpus, params, tmp_path / "teacher")

    def test_a_corpus_without_words(self, tmp_path):
        def hush(table):
            table["text"] = "..."

        with pytest.raises(InputError, match="no train utterance has a text"):
            train(write_corpus(tmp_path, hush), QUICK, tmp_path / "teacher")
