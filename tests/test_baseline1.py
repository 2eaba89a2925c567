"""Baseline-1: recognisers, cached transcripts, word errors and intents."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torchaudio
from conftest import change_identity, pipeline
from hypothesis import given as examples
from hypothesis import strategies as st
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from stages.baseline1 import transcribing
from stages.baseline1.language_model import BEGIN, END, bigram_arpa, ngram_arpa
from stages.baseline1.lexicon import build_lexicon
from stages.baseline1.params import Baseline1Params
from stages.baseline1.transcribing import choose_recogniser
from stages.baseline1.transcripts import open_transcripts
from stages.core.errors import CacheError, ConfigurationError, InputError
from stages.core.word_errors import count_errors
from stages.speech import synthesis

ROOT = Path(__file__).parent.parent
ENCODER = ROOT / "data" / "demo" / "encoder.safetensors"
CPU = torch.device("cpu")
FOLDER = Path("cache/tiny/baseline1")
TRANSCRIPTS = Path("cache/tiny/transcripts")

SAID = [
    "turn on the lights in the kitchen",
    "play some quiet music",
    "it is too cold in here",
    "close the garden door",
]


class Arpa:
    """An independent reader of ARPA files."""

    def __init__(self, text: str) -> None:
        self.tables: dict[int, dict[tuple[str, ...], tuple[float, float]]] = {}
        self.counts = {
            int(n): int(count) for n, count in re.findall(r"ngram (\d)=(\d+)", text)
        }
        for n, body in re.findall(r"\\(\d)-grams:\n(.*?)(?=\n\n)", text, re.S):
            rows = [line.split("\t") for line in body.splitlines()]
            self.tables[int(n)] = {
                tuple(row[1].split(" ")): (
                    10 ** float(row[0]),
                    10 ** float(row[2]) if len(row) > 2 else 1.0,
                )
                for row in rows
            }
        self.words = [word for (word,) in self.tables[1] if word[0] != "<"] + [END]

    def probability(self, *ngram: str) -> float:
        """p(last | those before), backing off."""
        table = self.tables.get(len(ngram), {})
        if ngram in table:
            return table[ngram][0]
        history = ngram[:-1]
        backoff = self.tables.get(len(history), {}).get(history, (0.0, 1.0))[1]
        return backoff * self.probability(*ngram[1:])


SHARES = {"on": 3.0, "off": 2.0, "lamp": 1.0, "the": 4.0, "rare": 0.0}
TEXTS = [["the", "lamp", "on"], ["the", "lamp", "off"], ["lamp", "on"]]

PAIRS = {
    ("the", "lamp"): 30.0,
    ("the", "on"): 10.0,
    (BEGIN, "the"): 5.0,
    ("the", "unknown"): 99.0,
    ("unknown", "the"): 99.0,
}


class TestLanguageModel:
    @pytest.mark.parametrize(
        "text",
        [
            *(ngram_arpa(TEXTS, SHARES, order) for order in (2, 3, 4)),
            bigram_arpa(SHARES, {"the": 100.0}, PAIRS),
            # Every word was counted after `the`: none is left to back off to.
            bigram_arpa(SHARES, {"the": 9.0}, {("the", word): 1.0 for word in SHARES}),
            bigram_arpa(SHARES, {}, {}),
        ],
        ids=["2-gram", "3-gram", "4-gram", "bigram", "full", "unigram"],
    )
    def test_probabilities_sum_to_one(self, text):
        arpa = Arpa(text)
        assert 2 in arpa.counts  # KenLM needs bigrams
        for n, count in arpa.counts.items():
            assert len(arpa.tables[n]) == count
        for history in [(), (BEGIN,), ("the",), ("the", "lamp"), ("rare", "on")]:
            total = sum(arpa.probability(*history, word) for word in arpa.words)
            assert total == pytest.approx(1, abs=1e-5)

    def test_witten_bell_interpolation(self):
        arpa = Arpa(ngram_arpa(TEXTS, SHARES, 2))
        # Eleven words and ends, of four words and the end.
        raised = {**SHARES, "rare": 1e-9}
        base = 0.875 * raised["on"] / sum(raised.values())
        on = (2 + 5 * base) / (11 + 5)
        assert arpa.probability("on") == pytest.approx(on, rel=1e-5)
        # After `lamp` came two different words, `on` twice.
        assert arpa.probability("lamp", "on") == pytest.approx(
            (2 + 2 * on) / (3 + 2), rel=1e-5
        )
        # Never counted: the rest of the probability, shared as without a history.
        assert arpa.probability("lamp", "the") == pytest.approx(
            2 / 5 * arpa.probability("the"), rel=1e-5
        )

    def test_counted_pairs_keep_their_shares(self):
        arpa = Arpa(bigram_arpa(SHARES, {"the": 100.0}, PAIRS))
        assert arpa.probability("the", "lamp") == pytest.approx(0.3 * 0.875, rel=1e-5)
        assert "unknown" not in arpa.words


class TestLexicon:
    def test_each_accent_gives_a_pronunciation(self):
        names = ("t", "@", "m", "A:", "eI", "oU", "s", "I")
        lexicon = build_lexicon(
            ["tomato", "sit", "zoo"], accents=["en-gb", "en-us"], phonemes=names
        )
        assert lexicon["sit"] == [("s", "I", "t")]
        assert lexicon["tomato"] == [
            ("t", "@", "m", "A:", "t", "oU"),
            ("t", "@", "m", "eI", "t", "oU"),
        ]
        assert "zoo" not in lexicon  # has phonemes that the encoder lacks

    def test_of_homophones_the_first_are_kept(self):
        alike = ["write", "right", "rite", "wright", "writes", "wrights", "rights"]
        alike += ["rightt", "wrightt", "ritte"]  # misspelt homophones
        lexicon = build_lexicon(
            alike, accents=["en-gb"], phonemes=["r", "aI", "t", "s", "I"]
        )
        sounds = defaultdict(list)
        for word, (sound,) in lexicon.items():
            sounds[sound].append(word)
        assert all(len(words) <= 6 for words in sounds.values())
        assert sounds["r", "aI", "t"][:4] == ["write", "right", "rite", "wright"]

    def test_phonemes_of_another_language_are_refused(self):
        with pytest.raises(ConfigurationError, match="no word can be pronounced"):
            build_lexicon(["house"], accents=["en-gb"], phonemes=["x"])


words = st.lists(st.sampled_from(["on", "off", "lamp", "the"]), max_size=6)


class TestWordErrors:
    @examples(st.lists(st.tuples(words, words), min_size=1, max_size=4))
    def test_errors_are_the_least_edits(self, pairs):
        said = [" ".join(one) for one, _ in pairs]
        recognised = [" ".join(other) for _, other in pairs]
        found = count_errors(said, recognised)
        edits = sum(
            torchaudio.functional.edit_distance(one, other) for one, other in pairs
        )
        assert found.substitutions + found.deletions + found.insertions == edits
        assert found.words == sum(len(one) for one, _ in pairs)
        assert found.deletions - found.insertions == sum(
            len(one) - len(other) for one, other in pairs
        )
        assert sum(count for _, count in found.confusions) == edits
        assert found.empty == sum(not other for _, other in pairs)
        if found.words:
            assert found.rate == pytest.approx(100 * edits / found.words)
        else:
            assert math.isnan(found.rate)

    def test_case_and_punctuation_are_not_errors(self):
        found = count_errors(["Lights on, please!"], ["lights ON please"])
        assert found.rate == 0 and found.confusions == []

    def test_the_most_confused_come_first(self):
        found = count_errors(
            ["turn on", "turn off", "lamp"], ["town on", "town off", ""]
        )
        assert found.confusions == [(("turn", "town"), 2), (("lamp", ""), 1)]
        assert (found.substitutions, found.deletions, found.insertions) == (2, 1, 0)


class TestTranscripts:
    KEYS: ClassVar = [f"{n:064x}" for n in range(2)]

    def test_the_file_is_read_back(self, tmp_path):
        with open_transcripts(tmp_path, "f" * 64, "some recogniser") as kept:
            kept.add(self.KEYS[0], "corpus/a", "turn  it\ton\n")
            kept.add(self.KEYS[1], "corpus/b", "")
        (path,) = tmp_path.glob("*.tsv")
        assert path.read_text() == (
            "# some recogniser\n"
            f"{self.KEYS[0]}\tcorpus/a\tturn it on\tb8bf44fc6e89c00e\n"
            f"{self.KEYS[1]}\tcorpus/b\t\t7489f4fc5b83c47a\n"
        )
        with open_transcripts(tmp_path, "f" * 64, "some recogniser") as kept:
            assert kept == {self.KEYS[0]: "turn it on", self.KEYS[1]: ""}
        with open_transcripts(tmp_path, "e" * 64, "another") as kept:
            assert kept == {}

    def test_an_incomplete_line_is_cut_off(self, tmp_path):
        with open_transcripts(tmp_path, "f" * 64, "one") as kept:
            kept.add(self.KEYS[0], "a", "said")
        (path,) = tmp_path.glob("*.tsv")
        whole = path.read_bytes()
        with open_transcripts(tmp_path, "f" * 64, "one") as kept:
            kept.add(self.KEYS[1], "b", "half")
        both = path.read_bytes()
        for size in range(len(whole), len(both)):
            path.write_bytes(both[:size])
            with open_transcripts(tmp_path, "f" * 64, "one") as kept:
                assert kept == {self.KEYS[0]: "said"}
                kept.add(self.KEYS[1], "b", "half")
            assert path.read_bytes() == both

    def test_a_damaged_line_is_named(self, tmp_path):
        with open_transcripts(tmp_path, "f" * 64, "one") as kept:
            kept.add(self.KEYS[0], "a", "said")
        (path,) = tmp_path.glob("*.tsv")
        whole = path.read_bytes()
        for place in range(len("# one\n"), len(whole) - 1):
            path.write_bytes(
                whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :]
            )
            with (
                pytest.raises(CacheError, match=r"line 2 is damaged.*fix: delete"),
                open_transcripts(tmp_path, "f" * 64, "one"),
            ):
                pass

    def test_a_second_writer_is_refused(self, tmp_path):
        with (
            open_transcripts(tmp_path, "f" * 64, "one"),
            pytest.raises(CacheError, match=f"process {os.getpid()} is writing"),
            open_transcripts(tmp_path, "f" * 64, "one"),
        ):
            pass


def spoken(text: str) -> np.ndarray:
    """`text`, spoken by espeak-ng, at 16 kHz."""
    (one,) = synthesis.speak(synthesis.Voice("en-gb", "m3"), [text], seed=0)
    samples = torch.from_numpy(one.samples.astype(np.float32) / 32768)
    return torchaudio.functional.resample(
        samples, synthesis.SAMPLE_RATE, 16_000
    ).numpy()


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


class TestEncoderRecogniser:
    PARAMS = Baseline1Params(model=str(ENCODER), vocabulary=1500, accents=("en-gb",))

    def choose(self, work, **changes):
        params = replace(self.PARAMS, **changes)
        return choose_recogniser(params, texts=SAID, work=work, workers=2)

    def test_it_transcribes_a_clear_voice(self, work):
        recogniser = self.choose(work, language_model="train")
        assert "3-gram of the train texts" in recogniser.name
        transcribe = recogniser.load(CPU)
        assert [transcribe(spoken(text)) for text in SAID] == SAID
        assert transcribe(np.zeros(800, np.float32)).split() in ([], ["the"], ["a"])

    def test_without_the_texts_it_makes_more_errors(self, work):
        general = self.choose(work)
        assert "general English" in general.name
        transcribe = general.load(CPU)
        rate = count_errors(SAID, [transcribe(spoken(text)) for text in SAID]).rate
        assert 0 < rate < 60

    def test_parameters_change_its_fingerprint(self, work):
        same = self.choose(work).fingerprint
        assert self.choose(work).fingerprint == same
        others = {
            self.choose(work, **changes).fingerprint
            for changes in (
                {"language_model": "train"},
                {"language_model": "train", "order": 2},
                {"vocabulary": 1400},
                {"beam_size": 100},
                {"language_model_weight": 1.5},
            )
        }
        assert len(others) == 5 and same not in others

    def test_your_own_language_model_is_used(self, work, tmp_path):
        path = tmp_path / "own.arpa"
        path.write_text(
            ngram_arpa([SAID[0].split()], dict.fromkeys(SAID[0].split(), 1.0), 2)
        )
        assert "own.arpa" in self.choose(work, language_model=str(path)).name
        path.write_text("nothing of the kind")
        with pytest.raises(InputError, match=r"own\.arpa: not an ARPA file"):
            self.choose(work, language_model=str(path))
        text = ngram_arpa([["ON"]], {"ON": 1.0}, 2)
        path.write_text(text)
        with pytest.raises(InputError, match="no word of the lexicon; found ON"):
            self.choose(work, language_model=str(path))
        whole = ngram_arpa([SAID[0].split()], dict.fromkeys(SAID[0].split(), 1.0), 2)
        path.write_text(whole[: len(whole) * 2 // 3])
        with pytest.raises(InputError, match=r"not a language model that KenLM"):
            self.choose(work, language_model=str(path)).load(CPU)
        path.unlink()
        with pytest.raises(InputError, match="cannot read the language model"):
            self.choose(work, language_model=str(path))

    def test_words_of_another_alphabet_are_left_out(self, work, tmp_path):
        params = replace(self.PARAMS, language_model="train")
        texts = ["light 打开 lamp", "свет"]
        choose_recogniser(params, texts=texts, work=tmp_path, workers=2)
        (lexicon,) = tmp_path.glob("lexicon-*.txt")
        listed = lexicon.read_text().split()
        assert "lamp" in listed and "打开" not in listed and "свет" not in listed
        with pytest.raises(InputError, match="no train text has a word"):
            choose_recogniser(params, texts=["打开", "свет"], work=work, workers=2)

    def test_an_encoder_without_a_head_is_refused(self, work, tmp_path):
        from stages.acoustic.checkpoint import frozen_encoder, save_checkpoint
        from stages.acoustic.encoder import EncoderConfiguration

        path = tmp_path / "mute.safetensors"
        sizes = EncoderConfiguration("log-cmn", hidden=4, phonemes=2, words=2)
        save_checkpoint(path, frozen_encoder(sizes, 0).encoder, ("a", "b"), ("c", "d"))
        with pytest.raises(InputError, match=r"mute.*cannot transcribe.*fix: set"):
            self.choose(work, model=str(path))


LETTERS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6}


def write_wav2vec2(folder: Path) -> Wav2Vec2ForCTC:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(LETTERS),
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=6,
        num_conv_pos_embedding_groups=2,
    )
    model = Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(30)  # otherwise one class wins everywhere
        model.lm_head.bias[1:4] = -1e4  # a trained model never gives these
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(str(LETTERS).replace("'", '"'))
    Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return model


class TestOtherRecognisers:
    def test_a_ctc_model_gives_its_best_classes(self, tmp_path):
        model = write_wav2vec2(tmp_path)
        params = Baseline1Params(recogniser="transformers", model=str(tmp_path))
        recogniser = choose_recogniser(params, texts=[], work=tmp_path, workers=1)
        wave = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
        normal = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        with torch.inference_mode():
            logits = model(torch.from_numpy(normal)[None]).logits[0]
        names = dict(map(reversed, LETTERS.items()))
        best = [names[n] for n in logits.argmax(1).unique_consecutive().tolist()]
        expected = "".join(name for name in best if len(name) == 1).replace("|", " ")
        assert expected.strip()
        found = recogniser.load(CPU)(wave)
        assert found == " ".join(expected.split())
        # Too short for a single frame.
        assert [recogniser.load(CPU)(wave[:n]) for n in (1, 399)] == ["", ""]
        with open(tmp_path / "preprocessor_config.json", "a") as stream:
            stream.write("\n")
        other = choose_recogniser(params, texts=[], work=tmp_path, workers=1)
        assert recogniser.fingerprint != other.fingerprint

    def test_a_sequence_to_sequence_model_gives_text(self, tmp_path):
        torch.manual_seed(0)
        vocabulary = {chr(97 + n): n for n in range(26)}
        special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
        vocabulary |= {name: 26 + n for n, name in enumerate(special)}
        config = WhisperConfig(
            vocab_size=len(vocabulary),
            d_model=12,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=12,
            decoder_ffn_dim=12,
            num_mel_bins=8,
            max_source_positions=50,
            max_target_positions=12,
            decoder_start_token_id=27,
            bos_token_id=26,
            eos_token_id=26,
            pad_token_id=26,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
        model = WhisperForConditionalGeneration(config)
        model.generation_config.no_timestamps_token_id = 28
        model.generation_config.max_length = 8
        model.save_pretrained(tmp_path)
        WhisperTokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path)
        WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(
            tmp_path
        )
        params = Baseline1Params(recogniser="transformers", model=str(tmp_path))
        recogniser = choose_recogniser(params, texts=[], work=tmp_path, workers=1)
        assert recogniser.name.startswith("whisper")
        transcribe = recogniser.load(CPU)
        wave = np.random.default_rng(0).normal(size=9_000).astype(np.float32)
        text = transcribe(wave)
        assert text == transcribe(wave)
        assert text

    @pytest.mark.parametrize(
        ("damage", "complaint"),
        [
            (lambda f: (f / "config.json").unlink(), "cannot load the recogniser"),
            (
                lambda f: (f / "model.safetensors").unlink(),
                "cannot load the recogniser",
            ),
            (
                lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
                "not a speech recogniser.*found a bert",
            ),
        ],
    )
    def test_an_incomplete_one_is_refused(self, tmp_path, damage, complaint):
        write_wav2vec2(tmp_path)
        damage(tmp_path)
        params = Baseline1Params(recogniser="transformers", model=str(tmp_path))
        with pytest.raises((InputError, ConfigurationError), match=complaint):
            choose_recogniser(params, texts=[], work=tmp_path, workers=1).load(CPU)

    def test_a_pipeline_of_torchaudio_is_chosen_by_its_file_name(self, tmp_path):
        params = Baseline1Params(
            recogniser="torchaudio", model=str(tmp_path / "weights.pth")
        )
        with pytest.raises(InputError, match=r"expected one of.*ls960"):
            choose_recogniser(params, texts=[], work=tmp_path, workers=1)
        (tmp_path / "weights.pth").touch()
        with pytest.raises(InputError, match=r"weights\.pth.*expected one of.*ls960"):
            choose_recogniser(params, texts=[], work=tmp_path, workers=1)
        path = tmp_path / "wav2vec2_fairseq_base_ls960_asr_ls960.pth"
        path.write_bytes(b"damaged")
        params = replace(params, model=str(path))
        recogniser = choose_recogniser(params, texts=[], work=tmp_path, workers=1)
        assert recogniser.name == "torchaudio WAV2VEC2_ASR_BASE_960H"
        with pytest.raises(InputError, match="cannot load torchaudio's WAV2VEC2"):
            recogniser.load(CPU)

    @pytest.mark.slow
    def test_a_pipeline_of_torchaudio_gives_its_best_classes(self, tmp_path):
        bundle = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
        torch.manual_seed(0)
        model = torchaudio.models.wav2vec2_base(aux_num_out=32).eval()
        path = tmp_path / "wav2vec2_fairseq_base_ls960_asr_ls960.pth"
        with torch.no_grad():
            model.aux.weight.mul_(30)
        torch.save(model.state_dict(), path)
        params = Baseline1Params(recogniser="torchaudio", model=str(path))
        recogniser = choose_recogniser(params, texts=[], work=tmp_path, workers=1)
        wave = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
        with torch.inference_mode():
            logits = model(torch.from_numpy(wave)[None])[0][0]
        # torchaudio leaves out the classes that fairseq has for special tokens.
        best = logits[:, [0, *range(4, 32)]].argmax(1)
        labels = bundle.get_labels()
        kept = [labels[n] for n in best.unique_consecutive().tolist() if n]
        expected = " ".join("".join(kept).replace("|", " ").split())
        assert expected and recogniser.load(CPU)(wave) == expected

    def test_pocketsphinx_gives_english_words(self, tmp_path):
        pytest.importorskip("pocketsphinx")
        params = Baseline1Params(recogniser="pocketsphinx")
        recogniser = choose_recogniser(params, texts=[], work=tmp_path, workers=1)
        transcribe = recogniser.load(CPU)
        text = transcribe(spoken("the weather is nice today"))
        assert text and re.fullmatch(r"[a-z' ]+", text)
        assert transcribe(np.zeros(1600, np.float32)) == ""

    def test_a_missing_extra_is_named(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "pocketsphinx", None)
        params = Baseline1Params(recogniser="pocketsphinx")
        with pytest.raises(ConfigurationError, match=r"pip install -e '\.\[pocketsp"):
            choose_recogniser(params, texts=[], work=tmp_path, workers=1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"recogniser": "siri"},
            "baseline1.recogniser cannot be used; found 'siri'; expected one of",
        ),
        ({"language_model": "french"}, "language_model.*expected general, train or"),
        ({"order": 1}, "order cannot be used.*2 to 6"),
        ({"vocabulary": 0}, "vocabulary.*1 to 1,000,000"),
        ({"accents": ()}, "accents.*1 to 1,000"),
        ({"beam_threshold": math.nan}, "beam_threshold.*above 0"),
        ({"language_model_weight": math.inf}, "weight.*-1,000 to 1,000"),
    ],
)
def test_unusable_parameters_are_refused(changes, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        Baseline1Params(**changes)


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / name, keep_default_na=False)


def use(monkeypatch, texts: dict[str, str]) -> list[str]:
    """Transcribe recordings as `texts`; returns the names of those transcribed."""
    transcribed: list[str] = []

    def work(recogniser, device, recording):
        transcribed.append(recording[0].name)
        return texts.get(recording[0].parent.name + "/" + recording[0].name, "")

    monkeypatch.setattr("stages.baseline1.transcribing._transcribe_recording", work)
    return transcribed


class TestStage:
    def test_a_second_run_finds_its_result(self, finished, results, monkeypatch):
        first = results["baseline1",].stdout
        monkeypatch.setattr("stages.baseline1.run._measure", None)
        result = pipeline("baseline1")
        assert result.exit_code == 0, result.output
        assert result.stdout == first.replace(
            "baseline1: ", "baseline1: up to date; "
        ).replace(", 12 of them new", "")

    @pytest.mark.parametrize("changed", ["language model", "teacher"])
    def test_a_changed_input_makes_it_again(self, finished, changed):
        Path("own.arpa").write_text(ngram_arpa([["the"]], {"the": 1.0}, 2))
        options = ("--set", "baseline1.language_model=own.arpa")
        assert "12 of them new" in pipeline("baseline1", *options).stdout
        assert "up to date" in pipeline("baseline1", *options).stdout
        if changed == "teacher":
            change_identity(Path("cache/tiny/teacher"))
        else:
            with open("own.arpa", "a") as stream:
                stream.write("\n")
        assert "of them new" in pipeline("baseline1", *options).stdout

    def test_forced_it_reads_the_cached_transcripts(self, finished, snapshot):
        before = snapshot(FOLDER), snapshot(TRANSCRIPTS)
        result = pipeline("baseline1", "--force")
        assert result.exit_code == 0 and "0 of them new" in result.stdout
        assert (snapshot(FOLDER), snapshot(TRANSCRIPTS)) == before

    def test_a_changed_recording_costs_one_transcript(self, finished, monkeypatch):
        transcribed = use(monkeypatch, {})
        path = Path("data/tiny/test/play-0.wav")
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples[:-100], rate)
        for command in ("prepare-corpus", "extract-acoustic", "baseline1"):
            assert pipeline(command).exit_code == 0
        assert transcribed == ["play-0.wav"]

    def test_the_transcript_decides_the_intent(self, finished, monkeypatch):
        shutil.rmtree(TRANSCRIPTS)
        teacher = pd.read_csv("cache/tiny/teacher/predictions.csv")
        by_id = teacher.set_index("id")
        # The text of another utterance, which the teacher has classified already.
        swapped = {
            "test/play-0.wav": ("light the lamp", "tiny/test/lamp-on-0"),
            "test/lamp-on-0.wav": ("Put OUT the lamp!", "tiny/test/lamp-off-0"),
        }
        use(monkeypatch, {name: text for name, (text, _) in swapped.items()})
        result = pipeline("baseline1", "--force")
        assert result.exit_code == 0, result.output
        found = read("predictions.csv").set_index("id")
        for name, (_, like) in swapped.items():
            row = found.loc["tiny/" + name.removesuffix(".wav")]
            assert row["predicted"] == by_id.loc[like, "predicted"]
            assert row["confidence"] == pytest.approx(by_id.loc[like, "confidence"])
        # The ten others have an empty transcript.
        assert len(found) == 12
        empty = found.loc[
            ~found.index.isin(["tiny/test/play-0", "tiny/test/lamp-on-0"])
        ]
        assert empty["predicted"].nunique() == 1
        assert "nothing recognised in 4" in result.stdout
        transcripts = read("transcripts.csv").set_index("id")
        assert transcripts.loc["tiny/test/lamp-on-0", "transcript"] == (
            "put out the lamp"
        )

    @pytest.mark.parametrize("head", ["cls", "mean"])
    def test_given_transcripts(self, finished, snapshot, head):
        before = snapshot(TRANSCRIPTS)
        pipeline("train-teacher", "--set", f"teacher.head={head}")
        teacher = pd.read_csv("cache/tiny/teacher/predictions.csv")
        manifest = pd.read_csv("cache/tiny/manifest.csv")
        given = manifest.loc[manifest["split"] != "train", ["id", "text"]]
        given.to_csv("given.tsv", sep="\t", index=False)
        options = ("--recogniser", "given", "--model", "given.tsv")
        result = pipeline("baseline1", *options, "--set", "baseline1.column=text")
        assert result.exit_code == 0, result.output
        assert "word error rate 0.00%" in result.stdout
        pd.testing.assert_frame_equal(read("predictions.csv"), teacher)
        assert snapshot(TRANSCRIPTS) == before

        result = pipeline("baseline1", *options)
        assert "no column 'transcript'; found columns id, text" in result.stderr
        given[1:].to_csv("given.tsv", sep="\t", index=False)
        result = pipeline("baseline1", *options, "--set", "baseline1.column=text")
        assert result.exit_code == 2
        assert "1 utterances of valid and test have no transcript" in result.stderr
        assert f"none for {given['id'].iloc[0]}" in result.stderr

    def test_several_processes_transcribe_the_same(
        self, finished, snapshot, monkeypatch
    ):
        before = snapshot(FOLDER)
        shutil.rmtree(TRANSCRIPTS)
        monkeypatch.setattr("stages.baseline1.transcribing._PROCESSES_SECONDS", 0.0)
        started = []
        real = transcribing.run_in_processes

        def counted(*arguments, **options):
            started.append(arguments[2])
            return real(*arguments, **options)

        monkeypatch.setattr(transcribing, "run_in_processes", counted)
        assert pipeline("baseline1", "--workers", "2", "--force").exit_code == 0
        assert started == [2]
        assert snapshot(FOLDER) == before

    def test_a_killed_run_resumes(self, finished, snapshot):
        before = snapshot(FOLDER)
        shutil.rmtree(TRANSCRIPTS)
        code = (
            "import os, signal, stages.baseline1.transcribing as transcribing\n"
            "real, done = transcribing._transcribe_recording, []\n"
            "def work(*arguments):\n"
            "    if len(done) == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    done.append(1)\n"
            "    return real(*arguments)\n"
            "transcribing._transcribe_recording = work\n"
            "from pipeline.cli import main\n"
            "main(['baseline1', '--workers', '1', '--force'])\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL
        result = pipeline("baseline1", "--force")
        assert "5 of them new" in result.stdout
        assert snapshot(FOLDER) == before

    @pytest.mark.parametrize(
        ("damage", "complaint"),
        [
            (
                lambda: shutil.rmtree("cache/tiny/teacher"),
                "no finished result here.*train-teacher",
            ),
            (
                lambda: Path("cache/tiny/teacher/identity.json").write_text('{"a"'),
                "identity.json is damaged.*train-teacher",
            ),
            (
                lambda: Path("data/tiny/test/play-0.wav").unlink(),
                "play-0.wav: the recording cannot be read",
            ),
            (
                lambda: Path("cache/tiny/intents.json").write_text('["lamp on"]'),
                "made from another intents than",
            ),
            (
                lambda: Path("encoder.safetensors").write_bytes(b"x"),
                "not a readable safetensors file",
            ),
        ],
    )
    def test_bad_input_is_one_line(self, finished, damage, complaint):
        shutil.rmtree(TRANSCRIPTS)
        damage()
        result = pipeline("baseline1", "--force")
        assert result.exit_code == 2, result.output
        assert re.search(complaint, result.stderr)
        assert len(result.stderr.splitlines()) == 1

    def test_the_report_shows_the_word_error_rate(self, finished):
        page = Path("report/results.md").read_text(encoding="utf-8")
        assert "| Baseline-1, recognised text |" in page
        row = read("transcripts.csv").query("split == 'test'")
        errors = count_errors(row["text"].tolist(), row["transcript"].tolist())
        assert f"{errors.rate:.2f}% on test" in page
