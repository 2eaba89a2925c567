"""The teacher: both stages of fine-tuning, what may reach them, and the targets."""

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

from stages.cache.digest import read_digest
from stages.cache.store import CacheReader
from stages.core.errors import CacheError, ConfigurationError, InputError
from stages.core.hashing import hash_bytes
from stages.core.manifest import write_manifest
from stages.targets.params import TargetsParams
from stages.teacher import bert, finetune, targets, training
from stages.teacher.params import TeacherParams
from stages.teacher.vocabulary import SPECIAL, build_vocabulary

SPECIAL_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
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
QUICK = replace(
    LEARNS,
    scratch_hidden_size=16,
    scratch_layers=1,
    scratch_intermediate_size=16,
    mlm_epochs=1,
    intent_epochs=2,
    batch_size=16,
)


@pytest.fixture(autouse=True, scope="module")
def imports_out_of_the_collectors_way():
    """Trainer collects garbage at each start, half of its time on a tiny model."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def write_corpus(folder, edit=None):
    """Manifest and intents of rooms to be lit, after `edit` of the table."""
    wordings = ("Light, {}!", "would you put the light on in the {}")
    rows = [
        {
            "id": f"toy/{split}{take}/{room}{number}",
            "path": f"{split}{take}/{room}{number}.wav",
            "split": split,
            "speaker": f"{split}{take}",
            "text": wording.format(room),
            "intent": room,
            "seconds": 1.0,
            "audio_sha256": "0" * 64,
        }
        for split, takes in SPOKEN.items()
        for take in range(takes)
        for room in ROOMS
        for number, wording in enumerate(wordings)
    ]
    table = pd.DataFrame(rows)
    if edit:
        edit(table)
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "manifest.csv", table)
    return folder


def say(table, text, *splits):
    """Put `text` into an utterance of each of `splits`."""
    for split in splits:
        first = table.index[table["split"] == split][0]
        table.loc[first, "text"] = text


def train(corpus, params, output, **options):
    return finetune.run(
        params,
        manifest=corpus / "manifest.csv",
        intents=corpus / "intents.json",
        output=output,
        work=output.with_name(f"{output.name}.work"),
        device="cpu",
        **options,
    )


def embed(corpus, teacher, folder, pooling="mean"):
    return targets.run(
        TargetsParams(pooling),
        manifest=corpus / "manifest.csv",
        teacher=teacher,
        cache=folder / "targets",
        digest=folder / "targets.digest",
        device="cpu",
    )


def interrupt(monkeypatch, stage, step, act=None, watch=lambda stage: None):
    """Have a training stop after a step of a stage, by Ctrl-C or by `act`."""
    on_step_end = training._Watch.on_step_end

    def stop(self, args, state, control, **options):
        on_step_end(self, args, state, control, **options)
        watch(self.stage)
        if (self.stage, state.global_step) == (stage, step):
            act() if act else None
            raise KeyboardInterrupt

    monkeypatch.setattr(training._Watch, "on_step_end", stop)


def contents(folder, names=None):
    paths = sorted(folder.iterdir())
    return {p.name: p.read_bytes() for p in paths if names is None or p.name in names}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def learnt(corpus, tmp_path_factory):
    """A teacher trained until it knows the rooms, and its summary."""
    output = tmp_path_factory.mktemp("learnt") / "teacher"
    return output, train(corpus, LEARNS, output)


@pytest.fixture(scope="module")
def quick(corpus, tmp_path_factory):
    """A teacher of few steps that ends at the last epoch."""
    output = tmp_path_factory.mktemp("quick") / "teacher"
    train(corpus, replace(QUICK, selection="last"), output)
    return output


def spelling():
    """A vocabulary of letters."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    return {piece: number for number, piece in enumerate(pieces)}


@pytest.fixture
def start(tmp_path):
    """A local model to start from, wide 24, with a pooler of its own."""
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(spelling()),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=48,
    )
    folder = tmp_path / "start"
    BertForPreTraining(config).save_pretrained(folder)
    BertTokenizer(vocab=spelling()).save_pretrained(folder)
    return folder


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

    def test_an_unheard_word_is_spelled_out(self):
        tokenizer = BertTokenizer(vocab=build_vocabulary(["lamp spot"], size=100))
        assert tokenizer.tokenize("lamps top") == ["lamp", "##s", "t", "##o", "##p"]

    def test_too_small_a_size_names_the_least(self):
        with pytest.raises(ConfigurationError, match=r"found 8.*at least 9"):
            build_vocabulary(["ab ba"], size=8)


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
        assert TargetsParams().pooling == "mean"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("model", ""),
            ("mlm_epochs", -1),
            ("intent_epochs", 0),
            ("batch_size", 0),
            ("mlm_probability", 0.0),
            ("intent_learning_rate", float("nan")),
            ("adam_beta2", 1.0),
            ("schedule", "steps"),
            ("selection", "worst"),
            ("scratch_heads", 3),
            ("mlm_random_share", 0.3),
            ("adam_epsilon", 0.0),
            ("clip_norm", float("inf")),
            ("precision", "fp16"),
            ("class_weights", "some"),
            ("repeats_per_row", 33),
            ("gradient_accumulation", 64),
            ("seed", 2**32),
        ],
    )
    def test_an_unusable_value_is_refused_by_name(self, name, value):
        with pytest.raises(ConfigurationError, match=r"teacher\."):
            TeacherParams(**{name: value})

    def test_an_unknown_pooling_lists_the_known(self):
        with pytest.raises(ConfigurationError, match=r"targets\.pooling.*mean_words"):
            TargetsParams("max")


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
        table["right"] = 100.0 * (table["predicted"] == table["intent"])
        accuracy = table.groupby("split")["right"].mean()
        scores = json.loads((output / "scores.json").read_text())
        for split in SPOKEN:
            assert scores[f"{split}_accuracy"] == pytest.approx(accuracy[split])
            rows = table[table["split"] == split]
            assert scores[f"{split}_macro_f1"] == pytest.approx(
                100
                * f1_score(
                    rows["intent"], rows["predicted"], average="macro", zero_division=0
                ),
                abs=1e-4,
            )
        assert summary.scores["test_accuracy"] == scores["test_accuracy"]
        assert f"epoch {scores['intent_epoch']} of 8, the best on valid" in str(summary)
        history = pd.read_csv(output / "history.csv")
        assert scores["mlm_loss"] == history["loss"][LEARNS.mlm_epochs - 1]
        best = history["valid_accuracy"].max()
        assert history["valid_accuracy"][LEARNS.mlm_epochs :].iloc[
            scores["intent_epoch"] - 1
        ] == pytest.approx(best)
        assert scores["valid_accuracy"] == pytest.approx(best, abs=1e-4)
        heard = table[table["split"] != "train"].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            pd.read_csv(output / "predictions.csv"),
            heard[["id", "split", "intent", "predicted", "confidence"]],
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
        assert sorted(contents(learnt[0])) == [
            "config.json",
            "history.csv",
            "model.safetensors",
            "parameters.json",
            "predictions.csv",
            "scores.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        assert list(learnt[0].parent.iterdir()) == [learnt[0]]

    def test_same_seed_same_bytes_and_no_word_to_the_terminal(
        self, corpus, quick, tmp_path, capfd
    ):
        train(corpus, replace(QUICK, selection="last"), tmp_path / "again")
        assert capfd.readouterr() == ("", "")
        assert contents(tmp_path / "again") == contents(quick)

    def test_another_seed_gives_another_teacher(self, corpus, quick, tmp_path):
        train(corpus, replace(QUICK, selection="last", seed=2), tmp_path / "other")
        assert contents(tmp_path / "other", WEIGHTS) != contents(quick, WEIGHTS)

    def test_texts_of_valid_and_test_reach_no_vocabulary_weight_or_target(
        self, corpus, quick, tmp_path
    ):
        for splits, leaks in ((["valid", "test"], False), (["train"], True)):
            marked = write_corpus(
                tmp_path / splits[0], lambda table, s=splits: say(table, "zyzzyva", *s)
            )
            output = tmp_path / f"{splits[0]}-teacher"
            train(marked, replace(QUICK, selection="last"), output)
            same = contents(output, WEIGHTS) == contents(quick, WEIGHTS)
            assert same is not leaks
            if not leaks:
                embed(corpus, quick, tmp_path / "plain")
                embed(marked, output, tmp_path / "marked")
                plain, found = (
                    read_digest(tmp_path / name / "targets.digest").rows
                    for name in ("plain", "marked")
                )
                assert "zyzzyva" in found and plain.items() <= found.items()

    def test_test_has_no_say_where_valid_chooses_the_epoch(self, corpus, tmp_path):
        marked = write_corpus(tmp_path, lambda table: say(table, "zyzzyva", "test"))
        train(corpus, QUICK, tmp_path / "plain")
        train(marked, QUICK, tmp_path / "marked")
        found = contents(tmp_path / "marked", WEIGHTS)
        assert found == contents(tmp_path / "plain", WEIGHTS)

    def test_stages_hand_on_the_encoder_and_see_every_utterance(
        self, corpus, start, tmp_path, monkeypatch
    ):
        seen = {}
        fit = finetune.fit

        def watched(model, rows, collator, *, stage, **options):
            before = training.copied_weights(model.base_model)
            result = fit(model, rows, collator, stage=stage, **options)
            after = training.copied_weights(model.base_model)
            seen[stage] = (before, after, len(rows))
            return result

        monkeypatch.setattr(finetune, "fit", watched)
        params = replace(QUICK, model=str(start), max_tokens=48)
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

    def test_no_language_stage_starts_from_the_given_encoder(
        self, corpus, start, tmp_path
    ):
        params = replace(QUICK, model=str(start), max_tokens=48, mlm_epochs=0)
        train(corpus, params, tmp_path / "teacher")
        history = pd.read_csv(tmp_path / "teacher" / "history.csv")
        assert set(history["stage"]) == {"intent"}
        scores = json.loads((tmp_path / "teacher" / "scores.json").read_text())
        assert scores["mlm_loss"] is None

    def test_the_later_of_the_best_epochs_is_kept(self, corpus, tmp_path, monkeypatch):
        weights = []
        share = iter((0.5, 1.0, 1.0, 0.5))  # of valid, right, epoch by epoch
        predict_table = finetune._predict_table

        def scripted(model, tokenizer, table, classes):
            if len(weights) == 4:
                return predict_table(model, tokenizer, table, classes)
            weights.append(training.copied_weights(model))
            right = np.arange(len(table)) < next(share) * len(table)
            named = table["intent"].where(right, "none")
            return table.assign(predicted=named, confidence=1.0)

        monkeypatch.setattr(finetune, "_predict_table", scripted)
        params = replace(QUICK, intent_epochs=4)
        assert train(corpus, params, tmp_path / "teacher").intent_epoch == 3
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

    def test_an_interrupted_run_leaves_the_former_teacher_or_none(
        self, corpus, tmp_path, monkeypatch
    ):
        output = tmp_path / "teacher"
        interrupt(monkeypatch, "intent", 1)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, QUICK, output)
        assert not output.exists()
        output.mkdir()
        (output / "config.json").write_text("former")
        with pytest.raises(KeyboardInterrupt):
            train(corpus, QUICK, output)
        assert contents(output) == {"config.json": b"former"}

    def test_a_finished_run_replaces_the_former_teacher(self, corpus, quick, tmp_path):
        output = tmp_path / "teacher"
        output.mkdir()
        (output / "stale.bin").write_text("former")
        train(corpus, replace(QUICK, selection="last"), output)
        assert list(tmp_path.iterdir()) == [output]
        assert contents(output) == contents(quick)


LONGER = replace(QUICK, mlm_epochs=2, intent_epochs=3)  # 3 steps an epoch


@pytest.fixture(scope="module", params=[False, True], ids=["random", "by length"])
def unbroken(request, corpus, tmp_path_factory):
    """Parameters, and all that a training with them writes."""
    params = replace(LONGER, group_by_length=request.param)
    output = tmp_path_factory.mktemp("unbroken") / "teacher"
    train(corpus, params, output)
    return params, contents(output)


class TestGoingOn:
    @pytest.mark.parametrize(
        ("stage", "step"),
        [("mlm", 2), ("mlm", 4), ("mlm", 6), ("intent", 1), ("intent", 5)],
    )
    def test_a_run_that_was_stopped_ends_with_the_same_bytes(
        self, corpus, unbroken, tmp_path, stage, step
    ):
        params, expected = unbroken
        output = tmp_path / "teacher"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, stage, step)
            train(corpus, params, output, checkpoint_minutes=0)
        steps = []
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, "", 0, watch=steps.append)
            train(corpus, params, output)
        done = step - 1  # the checkpoint of a step is written after it
        expected_steps = {"mlm": 6 - done, "intent": 9}
        if stage == "intent":
            expected_steps = {"mlm": 0, "intent": 9 - done}
        assert {name: steps.count(name) for name in expected_steps} == expected_steps
        assert contents(output) == expected
        assert list(tmp_path.iterdir()) == [output]

    def test_a_killed_run_goes_on(self, corpus, unbroken, tmp_path):
        params, expected = unbroken
        output = tmp_path / "teacher"
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                kill = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
                interrupt(patch, "intent", 4, kill)
                train(corpus, params, output, checkpoint_minutes=0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL and not output.exists()
        # What a kill in the middle of writing would leave.
        (folder,) = (tmp_path / "teacher.work").glob("*/intent")
        (folder / "checkpoint-4").mkdir()
        (folder / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
        train(corpus, params, output)
        assert contents(output) == expected

    def test_other_parameters_or_texts_begin_anew(self, corpus, tmp_path):
        output = tmp_path / "teacher"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, "intent", 1)
            train(corpus, LONGER, output, checkpoint_minutes=0)
        grown = write_corpus(
            tmp_path / "grown", lambda table: say(table, "dark", "train")
        )
        for params, texts in ((replace(LONGER, seed=2), corpus), (LONGER, grown)):
            shutil.copytree(tmp_path / "teacher.work", tmp_path / "other.work")
            train(texts, params, tmp_path / "other")
            train(texts, params, tmp_path / "alone")
            assert contents(tmp_path / "other") == contents(tmp_path / "alone")

    def test_another_device_or_precision_begins_anew(self, corpus, monkeypatch):
        def folder(device, precision, able):
            monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: able)
            params = replace(LONGER, precision=precision)
            return finetune._own_folder(
                corpus, params, BertConfig(), table, [], torch.device(device)
            )

        table = pd.DataFrame({"split": ["train"], "text": ["a"], "number": [0]})
        assert folder("cpu", "float32", True) != folder("cuda", "float32", True)
        assert folder("cuda", "bf16", True) != folder("cuda", "bf16", False)
        assert folder("cuda:0", "bf16", True) == folder("cuda:1", "bf16", True)

    def test_what_is_damaged_is_told_and_begun_anew(self, corpus, tmp_path, caplog):
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
            ("mlm", "encoder.safetensors", cut),
            ("mlm", "encoder.safetensors", os.unlink),
            ("mlm", "finished.json", lambda path: path.write_text("{}")),
        ]
        damages += [
            ("intent", f"checkpoint-4/{name}", os.unlink)
            for name in (
                "best.safetensors",
                "optimizer.pt",
                "rng_state.pth",
                "scheduler.pt",
                "trainer_state.json",
            )
        ]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt(patch, "intent", 5)
            train(corpus, LONGER, tmp_path / "stopped", checkpoint_minutes=0)
        train(corpus, LONGER, tmp_path / "unbroken")
        for number, (stage, name, damage) in enumerate(damages):
            output = tmp_path / str(number)
            shutil.copytree(tmp_path / "stopped.work", tmp_path / f"{number}.work")
            (path,) = (tmp_path / f"{number}.work").glob(f"*/{stage}/{name}")
            damage(path)
            caplog.clear()
            steps = []
            with pytest.MonkeyPatch.context() as patch:
                interrupt(patch, "", 0, watch=steps.append)
                train(corpus, LONGER, output)
            assert "the stage begins anew" in caplog.text, name
            begun = {"mlm": (6, 5), "intent": (0, 9)}[stage]
            assert (steps.count("mlm"), steps.count("intent")) == begun, name
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
        train(corpus, QUICK, tmp_path / "teacher", checkpoint_minutes=0)
        assert flushed

    def test_two_at_once_do_not_share_a_work_folder(self, corpus, tmp_path):
        with (
            training.work_folder(tmp_path / "teacher.work"),
            pytest.raises(ConfigurationError, match="another process trains"),
        ):
            train(corpus, QUICK, tmp_path / "teacher")


ENCODERS = {
    "bert": {},
    "distilbert": {"dim": 24, "hidden_dim": 24, "n_layers": 1, "n_heads": 2},
    "roberta": {"type_vocab_size": 1},
    "deberta": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {"global_attn_every_n_layers": 1, "local_attention": 8},
}


class TestEncoders:
    @pytest.mark.parametrize("kind", ENCODERS)
    def test_any_encoder_with_a_masked_lm_head_is_trained_in_both_stages(
        self, corpus, tmp_path, kind
    ):
        backend = BertTokenizer(vocab=spelling()).backend_tokenizer
        names = {name: f"[{name[:-6].upper()}]" for name in SPECIAL_NAMES}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
        sizes = {
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        }
        config = AutoConfig.for_model(
            kind,
            vocab_size=len(tokenizer),
            max_position_embeddings=48,
            pad_token_id=0,
            cls_token_id=2,
            sep_token_id=3,
            bos_token_id=2,
            eos_token_id=3,
            **(ENCODERS[kind] if kind == "distilbert" else sizes | ENCODERS[kind]),
        )
        torch.manual_seed(3)
        model = AutoModelForMaskedLM.from_config(config)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        before = training.copied_weights(model.base_model)
        params = replace(
            QUICK, model=str(tmp_path / "model"), max_tokens=40, masked_only=True
        )
        train(corpus, params, tmp_path / "teacher")
        history = pd.read_csv(tmp_path / "teacher" / "history.csv")
        assert history["stage"].tolist() == ["mlm", "intent", "intent"]
        embed(corpus, tmp_path / "teacher", tmp_path)
        header = read_digest(tmp_path / "targets.digest").header
        assert (header.encoder, header.dim) == ("model", 24)
        trained = targets.load_teacher(tmp_path / "teacher", torch.device("cpu"))[0]
        after = trained.state_dict()
        moved = [n for n in before if not torch.equal(before[n], after[n])]
        assert len(moved) > len(before) / 2

    @pytest.mark.parametrize("form", ["without weights for it", "of a kind without"])
    def test_no_masked_lm_head_asks_to_skip_the_first_stage(
        self, corpus, start, tmp_path, form
    ):
        config = AutoConfig.from_pretrained(start)
        BertModel(config).save_pretrained(start)
        if form == "of a kind without":
            AutoModel.from_config(
                AutoConfig.for_model(
                    "gpt2",
                    vocab_size=57,
                    n_embd=24,
                    n_layer=1,
                    n_head=2,
                    n_positions=48,
                    pad_token_id=0,
                )
            ).save_pretrained(start)
        params = replace(QUICK, model=str(start), max_tokens=48)
        with pytest.raises(ConfigurationError, match=r"no masked-LM head.*mlm_epochs"):
            train(corpus, params, tmp_path / "teacher")
        train(corpus, replace(params, mlm_epochs=0), tmp_path / "teacher")
        history = pd.read_csv(tmp_path / "teacher" / "history.csv")
        assert set(history["stage"]) == {"intent"}

    def test_encoder_weights_that_are_missing_are_not_made_up(
        self, corpus, start, tmp_path
    ):
        weights = load_file(start / "model.safetensors")
        del weights["bert.encoder.layer.0.output.dense.weight"]
        save_file(weights, start / "model.safetensors", {"format": "pt"})
        for epochs in (1, 0):
            params = replace(QUICK, model=str(start), max_tokens=48, mlm_epochs=epochs)
            with pytest.raises(InputError, match=r"missing.*layer\.0\.output\.dense"):
                train(corpus, params, tmp_path / "teacher")

    @pytest.mark.parametrize(
        ("kind", "longest"),
        [
            ("bert", 514),
            ("distilbert", 514),
            ("modernbert", 514),
            ("funnel", 514),
            ("xlnet", None),
            ("roberta", 512),
            ("camembert", 512),
            ("xlm-roberta", 512),
            ("xlm-roberta-xl", 512),
            ("mpnet", 512),
            ("data2vec-text", 512),
            ("roberta-prelayernorm", 512),
            ("ibert", 512),
            ("xmod", 512),
            ("longformer", 512),
            ("luke", 512),
            ("esm", 512),
        ],
    )
    def test_positions_may_begin_behind_the_paddings(self, kind, longest):
        tokenizer = BertTokenizer(vocab=spelling())
        sizes = {"max_position_embeddings": 514} if longest else {}
        config = AutoConfig.for_model(kind, vocab_size=60, pad_token_id=1, **sizes)
        assert bert.longest_text(tokenizer, config) == longest

    @pytest.mark.parametrize("kind", ["roberta", "mpnet", "xmod", "bert"])
    def test_a_text_of_that_length_is_the_longest_that_runs(self, kind):
        config = AutoConfig.for_model(
            kind,
            vocab_size=60,
            max_position_embeddings=20,
            pad_token_id=1,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            languages=["en"],
            default_language="en",
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
        config["auto_map"] = {
            name: "evil.Evil"
            for name in (
                "AutoConfig",
                "AutoModelForMaskedLM",
                "AutoModelForSequenceClassification",
                "AutoTokenizer",
            )
        }
        (start / "config.json").write_text(json.dumps(config))
        params = replace(QUICK, model=str(start), max_tokens=48)
        train(corpus, params, tmp_path / "teacher")  # with the library's own BERT
        assert not ran.exists()

    def test_a_pickle_gives_tensors_and_runs_nothing(self, corpus, start, tmp_path):
        weights = load_file(start / "model.safetensors")
        (start / "model.safetensors").unlink()
        torch.save(weights, start / "pytorch_model.bin")
        params = replace(QUICK, model=str(start), max_tokens=48)
        train(corpus, params, tmp_path / "teacher")

        ran = tmp_path / "ran"

        class Evil:
            def __reduce__(self):
                return (open, (str(ran), "w"))

        torch.save({"a": Evil()}, start / "pytorch_model.bin", pickle_module=pickle)
        with pytest.raises(InputError, match="cannot load the model"):
            train(corpus, params, tmp_path / "other")
        assert not ran.exists()

    def test_safetensors_are_preferred_to_a_pickle(self, corpus, start, tmp_path):
        (start / "pytorch_model.bin").write_bytes(b"no pickle")
        params = replace(QUICK, model=str(start), max_tokens=48)
        train(corpus, params, tmp_path / "teacher")

    def test_a_revision_pins_the_models_commit(
        self, corpus, start, tmp_path, monkeypatch
    ):
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(
                f"huggingface_hub.constants.{name}", str(tmp_path / "hub")
            )
        folder = tmp_path / "hub" / "models--some--bert"
        commits = {"main": "a" * 40, "old": "b" * 40}
        widths = {"main": 24, "old": 12}
        for name, commit in commits.items():
            (folder / "refs").mkdir(parents=True, exist_ok=True)
            (folder / "refs" / name).write_text(commit)
            shutil.copytree(start, folder / "snapshots" / commit)
            config = AutoConfig.from_pretrained(start)
            config.hidden_size = widths[name]
            BertForPreTraining(config).save_pretrained(folder / "snapshots" / commit)
        for revision, width in (("", 24), ("old", 12), ("b" * 40, 12)):
            params = replace(QUICK, model="some/bert", revision=revision, max_tokens=48)
            train(corpus, params, tmp_path / "teacher")
            config = AutoConfig.from_pretrained(tmp_path / "teacher")
            assert config.hidden_size == width
        params = replace(params, revision="c" * 40)
        with pytest.raises(InputError, match=r"no config\.json"):
            train(corpus, params, tmp_path / "teacher")


class TestObjective:
    def weighted(self, model, tokenizer, texts, labels, weights):
        """Cross-entropy of each text alone, averaged."""
        losses = torch.stack(
            [
                functional.cross_entropy(
                    model(**tokenizer(text, return_tensors="pt")).logits,
                    torch.tensor([label]),
                )
                for text, label in zip(texts, labels, strict=True)
            ]
        )
        weights = torch.tensor(weights)
        return (losses * weights).sum() / weights.sum()

    def step(self, corpus, params, start, folder):
        """The gradient of the first step of the intent stage, dropout off."""
        config = json.loads((start / "config.json").read_text())
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (start / "config.json").write_text(json.dumps(config))
        found = {}

        def note(self, args, state, control, model=None, **options):
            found["loss"] = None
            found["gradients"] = {
                name: weight.grad.clone()
                for name, weight in model.named_parameters()
                if weight.grad is not None
            }
            found["model"] = copy.deepcopy(model)
            raise KeyboardInterrupt

        params = replace(
            params, model=str(start), max_tokens=48, mlm_epochs=0, clip_norm=0.0
        )
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training._Watch, "on_pre_optimizer_step", note, raising=False)
            train(corpus, params, folder / "teacher")
        return found["gradients"], found["model"]

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"gradient_accumulation": 8},
            {"class_weights": "balanced"},
            {"class_weights": "balanced", "gradient_accumulation": 4},
            {"repeats_per_row": 4},
            {"class_weights": "balanced", "repeats_per_row": 2},
            {"class_weights": "balanced", "repeats_per_row": 4},
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
        params = replace(QUICK, batch_size=64, **changes)
        gradients, model = self.step(corpus, params, start, tmp_path)
        table = pd.read_csv(corpus / "manifest.csv")
        table = table[table["split"] == "train"]
        texts = [text.lower().replace(",", "").strip("!") for text in table["text"]]
        labels = [ROOMS.index(intent) for intent in table["intent"]]
        weights = [1.0] * len(labels)
        if params.class_weights == "balanced":
            weights = compute_sample_weight("balanced", labels).tolist()
        tokenizer = bert.load_tokenizer(str(start))
        model.zero_grad()
        self.weighted(model.eval(), tokenizer, texts, labels, weights).backward()
        for name, weight in model.named_parameters():
            np.testing.assert_allclose(
                gradients[name], weight.grad, atol=2e-6, err_msg=name
            )

    def test_rows_stand_for_every_utterance_once(self):
        keys = ["a", "b", "a", "a", "c", "a", "a"]
        assert training.merge_repeats(keys, 1) == [(n, 1) for n in range(7)]
        assert training.merge_repeats(keys, 2) == [
            (0, 2),
            (0, 2),
            (0, 1),
            (1, 1),
            (4, 1),
        ]

    @pytest.mark.parametrize("stage", ["mlm", "intent"])
    def test_a_row_weighs_its_count_whatever_rows_stand_beside_it(
        self, tmp_path, stage
    ):
        counts, numbers = [4, 4, 4, 1], [0, 1, 0, 1]
        kind = {
            "mlm": AutoModelForMaskedLM,
            "intent": AutoModelForSequenceClassification,
        }[stage]
        torch.manual_seed(3)
        model = kind.from_config(
            BertConfig(
                vocab_size=20,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=8,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
        tokens = torch.randint(5, 20, (4, 3))
        labels = torch.tensor(numbers)
        if stage == "mlm":  # two tokens of each row are masked
            labels = torch.where(torch.tensor([False, True, True]), tokens, -100)
        rows = training.Rows([{"count": count} for count in counts])
        params = TeacherParams(batch_size=8)
        assert training.rows_at_once(rows, params) == 2
        trainer = training._WeightedTrainer(
            model=model,
            args=training._arguments(
                params, tmp_path, torch.device("cpu"), 1e-3, 1, at_once=2
            ),
            class_weights=None,
            masked_only=False,
            mean_count=rows.mean_count(),
        )

        def gradient(places):
            batch = {
                "input_ids": tokens[places],
                "labels": labels[places],
                "counts": torch.tensor([float(counts[place]) for place in places]),
            }
            device = torch.device("cpu")
            pieces, total = trainer.get_batch_samples(iter([batch]), 1, device)
            model.zero_grad()
            trainer.compute_loss(model, pieces[0], num_items_in_batch=total).backward()
            return torch.cat(
                [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            )

        orders = list(itertools.permutations(range(4)))
        found = sum(
            gradient(list(half)) for order in orders for half in (order[:2], order[2:])
        ) / (2 * len(orders))
        spoken = [place for place, count in enumerate(counts) for _ in range(count)]
        model.zero_grad()
        logits = model(input_ids=tokens[spoken]).logits
        functional.cross_entropy(
            logits.flatten(0, -2), labels[spoken].flatten()
        ).backward()
        plain = torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )
        torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-4)

    def test_an_epoch_has_about_as_many_steps_as_without_merging(self):
        def steps(keys, most, **changes):
            merged = training.merge_repeats(keys, most)
            rows = training.Rows([{"count": count} for _, count in merged])
            params = TeacherParams(repeats_per_row=most, **changes)
            return training.steps_an_epoch(rows, params)

        distinct = range(1000)
        repeated = [n % 60 for n in range(6000)]
        for changes in ({}, {"gradient_accumulation": 2}):
            for most in (1, 2, 4, 8):
                assert steps(distinct, most, **changes) == math.ceil(1000 / 32)
                plain = math.ceil(6000 / 32)
                found = steps(repeated, most, **changes)
                assert found == pytest.approx(plain, rel=0.05)
        assert steps(["a"] * 4, 32) == 1

    def test_the_loss_of_masked_tokens_alone_is_the_same(self, corpus, tmp_path):
        for masked_only in (False, True):
            params = replace(QUICK, masked_only=masked_only)
            train(corpus, params, tmp_path / str(masked_only))
        plain, short = (
            pd.read_csv(tmp_path / str(name) / "history.csv") for name in (False, True)
        )
        np.testing.assert_allclose(short["loss"], plain["loss"], rtol=1e-4)
        weights = [
            load_file(tmp_path / str(name) / "model.safetensors")
            for name in (False, True)
        ]
        for name in weights[0]:
            torch.testing.assert_close(
                weights[0][name], weights[1][name], atol=2e-4, rtol=1e-3
            )

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

    def test_bf16_is_for_gpus_that_have_it(self, corpus, tmp_path, monkeypatch, caplog):
        assert not training.in_bf16("float32", torch.device("cuda"))
        assert not training.in_bf16("bf16", torch.device("cpu"))
        for able in (True, False):
            monkeypatch.setattr(
                torch.cuda, "is_bf16_supported", lambda able=able, **_: able
            )
            assert training.in_bf16("bf16", torch.device("cuda")) is able
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
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "name", ["no/such/folder/here", "/nowhere/bert", "./bert", "bert.bin"]
    )
    def test_a_folder_that_is_not_there_is_no_hubs_name(
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
            ConfigurationError, match=rf"no encoder of texts.*found {kind}.*bert-base"
        ):
            train(corpus, params, tmp_path / "teacher")

    def test_a_tokenizer_that_cannot_mask_asks_to_skip_the_stage_that_does(
        self, corpus, start, tmp_path
    ):
        backend = BertTokenizer(vocab=spelling()).backend_tokenizer
        names = {name: f"[{name[:-6].upper()}]" for name in SPECIAL_NAMES[:-1]}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
        for path in start.glob("tokenizer*"):
            path.unlink()
        tokenizer.save_pretrained(start)
        params = replace(QUICK, model=str(start), max_tokens=48)
        with pytest.raises(InputError, match=r"masks.*teacher\.mlm_epochs to 0"):
            train(corpus, params, tmp_path / "teacher")
        train(corpus, replace(params, mlm_epochs=0), tmp_path / "teacher")

    def test_a_model_without_tokenizer_is_not_trained_on_unknown_words(
        self, corpus, start, tmp_path
    ):
        for path in start.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(InputError, match="knows no words"):
            train(corpus, replace(QUICK, model=str(start)), tmp_path / "teacher")

    def test_a_cut_off_weights_file_is_named(self, corpus, start, tmp_path):
        weights = start / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(InputError, match="cannot load the model"):
            train(corpus, replace(QUICK, model=str(start)), tmp_path / "teacher")

    def test_another_models_tokenizer_is_refused(self, corpus, start, tmp_path):
        vocabulary = build_vocabulary([f"word{n}" for n in range(99)], size=200)
        BertTokenizer(vocab=vocabulary).save_pretrained(start)
        with pytest.raises(InputError, match="do not belong together"):
            train(corpus, replace(QUICK, model=str(start)), tmp_path / "teacher")

    def test_more_tokens_than_the_model_takes(self, corpus, start, tmp_path):
        params = replace(QUICK, model=str(start), max_tokens=64)
        with pytest.raises(ConfigurationError, match="at most 48"):
            train(corpus, params, tmp_path / "teacher")

    def test_an_intent_that_is_not_listed(self, tmp_path):
        corpus = write_corpus(tmp_path)
        (corpus / "intents.json").write_text('["bedroom", "cellar", "hall"]')
        with pytest.raises(InputError, match="'kitchen'"):
            train(corpus, QUICK, tmp_path / "teacher")

    def test_a_corpus_without_words(self, tmp_path):
        def hush(table):
            table["text"] = "..."

        with pytest.raises(InputError, match="no train utterance has a text"):
            train(write_corpus(tmp_path, hush), QUICK, tmp_path / "teacher")


class TestTargets:
    @pytest.mark.parametrize(
        ("pooling", "pooled"),
        [
            ("mean", lambda states: states.mean(axis=0)),
            ("mean_words", lambda states: states[1:-1].mean(axis=0)),
            ("cls", lambda states: states[0]),
        ],
    )
    def test_each_is_that_of_the_text_alone(
        self, corpus, learnt, tmp_path, pooling, pooled
    ):
        teacher = learnt[0]
        summary = embed(corpus, teacher, tmp_path, pooling)
        header = read_digest(tmp_path / "targets.digest").header
        assert header.parameters["pooling"] == pooling
        reader = CacheReader(tmp_path / "targets")
        model = AutoModel.from_pretrained(teacher).eval()
        tokenizer = AutoTokenizer.from_pretrained(teacher)
        phrases = ("light {}", "would you put the light on in the {}")
        texts = [phrase.format(room) for phrase in phrases for room in ROOMS]
        assert summary.texts == summary.computed == len(texts)
        for text in texts:
            tokens = tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                states = model(**tokens).last_hidden_state.numpy()[0]
            expected = pooled(states.astype(np.float64))
            found = reader[hash_bytes(text.encode())]
            assert found.dtype == np.float32 and found.shape == (1, 64)
            np.testing.assert_allclose(found[0], expected, atol=1e-5)

    def test_a_text_of_special_tokens_alone_has_their_mean(self):
        states = torch.arange(12.0).view(1, 4, 3)
        special = torch.ones(1, 4, dtype=torch.long)
        found = targets.pool(states, special, "mean_words")
        assert torch.equal(found, states.mean(dim=1))

    def test_only_new_texts_are_run_and_the_digest_forgets_how_it_came(
        self, corpus, quick, tmp_path, monkeypatch
    ):
        run = []
        load_teacher = targets.load_teacher

        def counting(teacher, device):
            model, tokenizer = load_teacher(teacher, device)
            model.register_forward_pre_hook(
                lambda module, args, options: run.append(len(options["input_ids"])),
                with_kwargs=True,
            )
            return model, tokenizer

        monkeypatch.setattr(targets, "load_teacher", counting)
        embed(corpus, quick, tmp_path / "a")
        assert len(run) == 2  # two lengths
        embed(corpus, quick, tmp_path / "a")
        assert len(run) == 2
        grown = write_corpus(
            tmp_path, lambda table: say(table, "light in the attic", "train")
        )
        run.clear()
        assert embed(grown, quick, tmp_path / "a").computed == 1
        assert len(run) == 1
        embed(grown, quick, tmp_path / "b")
        digests = [tmp_path / name / "targets.digest" for name in "ab"]
        assert digests[0].read_bytes() == digests[1].read_bytes()
        assert "light_in_the_attic" in read_digest(digests[0]).rows

    def test_the_digest_drops_a_text_that_is_gone(self, corpus, quick, tmp_path):
        grown = write_corpus(tmp_path, lambda table: say(table, "light", "train"))
        embed(grown, quick, tmp_path)
        embed(corpus, quick, tmp_path)
        digest = read_digest(tmp_path / "targets.digest")
        assert len(digest.rows) == 2 * len(ROOMS)
        assert "light" not in digest.rows

    def test_width_and_name_of_another_model_reach_the_header(
        self, corpus, start, tmp_path
    ):
        params = replace(QUICK, model=str(start), max_tokens=48)
        train(corpus, params, tmp_path / "teacher")
        embed(corpus, tmp_path / "teacher", tmp_path)
        header = read_digest(tmp_path / "targets.digest").header
        assert (header.kind, header.encoder, header.dim) == ("targets", "start", 24)
        assert (header.dtype, header.frame_step) == ("float32", 0)
        assert CacheReader(tmp_path / "targets").header == header

    def test_the_fingerprint_follows_the_weights_and_not_the_scores(
        self, corpus, quick, learnt, tmp_path
    ):
        def mark(teacher):
            return targets._header(teacher, "mean").fingerprint

        copy = tmp_path / "copy"
        copy.mkdir()
        for name, content in contents(quick).items():
            (copy / name).write_bytes(content)
        (copy / "scores.json").write_text("{}")
        assert mark(copy) == mark(quick) != mark(learnt[0])
        assert targets._header(copy, "cls").fingerprint != mark(copy)
        with open(copy / "tokenizer.json", "a") as stream:
            stream.write(" ")
        assert mark(copy) != mark(quick)

    def test_a_text_longer_than_max_tokens_is_cut_as_in_training(self, quick):
        model, tokenizer = targets.load_teacher(quick, torch.device("cpu"))
        long = " ".join(["light"] * 40)
        cut = " ".join(["light"] * (QUICK.max_tokens - 2))
        vectors = dict(targets.embed(model, tokenizer, [long, cut]))
        np.testing.assert_array_equal(vectors[long], vectors[cut])

    def test_the_teacher_is_frozen(self, quick):
        model, _ = targets.load_teacher(quick, torch.device("cpu"))
        assert not any(module.training for module in model.modules())
        assert not any(weight.requires_grad for weight in model.parameters())

    def test_no_teacher_names_the_command(self, corpus, tmp_path):
        with pytest.raises(CacheError, match="train-teacher"):
            embed(corpus, tmp_path / "teacher", tmp_path)
        assert not (tmp_path / "targets.digest").exists()

    def test_ids_have_no_spaces_and_differ(self):
        texts = ["", "turn on", "turnon", "what's up"]
        ids = [targets.text_id(text) for text in texts]
        assert ids == ["_", "turn_on", "turnon", "what's_up"]
