"""The teacher: both stages of fine-tuning, what may reach them, and the targets."""

import gc
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertTokenizer,
)

from stages.cache import CacheReader, read_digest
from stages.errors import CacheError, ConfigurationError, InputError
from stages.manifest import write_manifest
from stages.provenance import hash_bytes
from stages.teacher import finetune, targets
from stages.teacher.params import TeacherParams
from stages.teacher.vocabulary import SPECIAL, build_vocabulary

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


def train(corpus, params, output):
    return finetune.run(
        params,
        manifest=corpus / "manifest.csv",
        intents=corpus / "intents.json",
        output=output,
        device="cpu",
    )


def embed(corpus, teacher, folder, **options):
    return targets.run(
        manifest=corpus / "manifest.csv",
        teacher=teacher,
        cache=folder / "targets",
        digest=folder / "targets.digest",
        device="cpu",
        **options,
    )


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


@pytest.fixture
def start(tmp_path):
    """A local model to start from, wide 24, with a pooler of its own."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=48,
    )
    folder = tmp_path / "start"
    BertForPreTraining(config).save_pretrained(folder)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
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
        ],
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
        table["right"] = 100.0 * (table["predicted"] == table["intent"])
        accuracy = table.groupby("split")["right"].mean()
        scores = json.loads((output / "scores.json").read_text())
        for split in SPOKEN:
            assert scores[f"{split}_accuracy"] == pytest.approx(accuracy[split])
        assert summary.test_accuracy == scores["test_accuracy"]
        history = pd.read_csv(output / "history.csv")
        assert scores["mlm_loss"] == history["loss"][LEARNS.mlm_epochs - 1]
        heard = table[table["split"] != "train"].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            pd.read_csv(output / "predictions.csv"),
            heard[["id", "split", "intent", "predicted", "confidence"]],
            rtol=0,
            atol=2e-6,
        )

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

    def test_texts_of_valid_and_test_reach_neither_vocabulary_nor_weights(
        self, quick, tmp_path
    ):
        for splits, leaks in ((["valid", "test"], False), (["train"], True)):
            marked = write_corpus(
                tmp_path / splits[0], lambda table, s=splits: say(table, "zyzzyva", *s)
            )
            output = tmp_path / f"{splits[0]}-teacher"
            train(marked, replace(QUICK, selection="last"), output)
            same = contents(output, WEIGHTS) == contents(quick, WEIGHTS)
            assert same is not leaks

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
        fit = finetune._fit

        def watched(model, examples, collator, *, stage, **options):
            before = finetune._weights(model.base_model)
            history = fit(model, examples, collator, stage=stage, **options)
            seen[stage] = (before, finetune._weights(model.base_model), len(examples))
            return history

        monkeypatch.setattr(finetune, "_fit", watched)
        params = replace(QUICK, model=str(start), max_tokens=48)
        train(corpus, params, tmp_path / "teacher")
        given = finetune._weights(AutoModel.from_pretrained(start))
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
            weights.append(finetune._weights(model))
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
        masking = finetune._Masking(tokenizer, mlm_probability=0.01, seed=1)
        for _ in range(20):
            example = dict(tokenizer("lamp", return_special_tokens_mask=True))
            labels = masking([example])["labels"]
            assert (labels != -100).tolist() == [[False, True, False]]

    def test_utterances_without_text_train_the_second_stage_alone(self, tmp_path):
        corpus = write_corpus(tmp_path, lambda table: say(table, "?!", "train"))
        params = replace(QUICK, batch_size=1 + 6 * len(ROOMS) * 2)
        assert train(corpus, params, tmp_path / "teacher").texts == 2 * len(ROOMS) + 1

    def test_a_diverged_training_names_the_learning_rate(self):
        watch = finetune._Watch("mlm", None, None)
        with pytest.raises(ConfigurationError, match="mlm_learning_rate"):
            watch.on_log(
                None, type("State", (), {"epoch": 2.0}), None, {"loss": float("nan")}
            )

    def test_an_interrupted_run_leaves_the_former_teacher_or_none(
        self, corpus, tmp_path, monkeypatch
    ):
        output = tmp_path / "teacher"

        def interrupt(self, args, state, control, **kwargs):
            if self.stage == "intent":
                raise KeyboardInterrupt

        monkeypatch.setattr(finetune._Watch, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, QUICK, output)
        assert list(tmp_path.iterdir()) == []
        output.mkdir()
        (output / "config.json").write_text("former")
        with pytest.raises(KeyboardInterrupt):
            train(corpus, QUICK, output)
        assert list(tmp_path.iterdir()) == [output]
        assert contents(output) == {"config.json": b"former"}

    def test_a_finished_run_replaces_the_former_teacher(self, corpus, quick, tmp_path):
        output = tmp_path / "teacher"
        output.mkdir()
        (output / "stale.bin").write_text("former")
        train(corpus, replace(QUICK, selection="last"), output)
        assert list(tmp_path.iterdir()) == [output]
        assert contents(output) == contents(quick)


class TestBadInput:
    @pytest.mark.parametrize("name", ["no/such/folder/here", "bert-base-nowhere"])
    def test_an_unknown_model_is_one_line_with_the_fix(self, corpus, tmp_path, name):
        with pytest.raises(InputError) as caught:
            train(corpus, replace(QUICK, model=name), tmp_path / "teacher")
        line = str(caught.value)
        assert line.startswith(f"{name}: ") and "\n" not in line
        assert "model.safetensors" in line and "HF_HUB_OFFLINE" in line
        assert list(tmp_path.iterdir()) == []

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
    @pytest.mark.parametrize("batch_size", [1, 5])
    def test_each_is_the_mean_of_the_text_alone(
        self, corpus, learnt, tmp_path, batch_size
    ):
        teacher = learnt[0]
        summary = embed(corpus, teacher, tmp_path, batch_size=batch_size)
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
            expected = states.astype(np.float64).sum(axis=0) / len(states)
            found = reader[hash_bytes(text.encode())]
            assert found.dtype == np.float32 and found.shape == (1, 64)
            np.testing.assert_allclose(found[0], expected, atol=1e-5)

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
        assert sum(run) == 2 * len(ROOMS)
        embed(corpus, quick, tmp_path / "a")
        assert sum(run) == 2 * len(ROOMS)
        grown = write_corpus(
            tmp_path, lambda table: say(table, "light in the attic", "train")
        )
        run.clear()
        assert embed(grown, quick, tmp_path / "a").computed == 1
        assert sum(run) == 1
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
            return targets._header(teacher).fingerprint

        copy = tmp_path / "copy"
        copy.mkdir()
        for name, content in contents(quick).items():
            (copy / name).write_bytes(content)
        (copy / "scores.json").write_text("{}")
        assert mark(copy) == mark(quick) != mark(learnt[0])
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
