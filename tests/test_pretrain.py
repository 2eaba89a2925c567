"""Pretraining: true labels, voices and text that stay apart, exact resuming."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from stages import espeak
from stages.acoustic import pretrain
from stages.acoustic.augment import augment
from stages.acoustic.checkpoint import load_checkpoint
from stages.acoustic.encoder import EncoderConfiguration
from stages.acoustic.params import PretrainingParams
from stages.acoustic.phonemes import plain_phoneme
from stages.acoustic.pretrain import (
    IGNORED,
    PHONEME_STEP,
    SILENCE,
    Session,
    _aligned_words,
    _classes,
    _Corpus,
    _family,
    _plan_sessions,
    _sequences,
    read_scores,
)
from stages.acoustic.sentences import frequent_words, grammar_words, sentences
from stages.acoustic.speakers import draw_speaker
from stages.errors import ConfigurationError
from stages.texts import normalise_text

DEMO = Path(__file__).parent.parent / "data" / "demo"
VOICES = DEMO / "voices.csv"
TINY = PretrainingParams(
    sessions=2,
    sentences=3,
    vocabulary=50,
    lengths=(1.28, 0.96),
    batch_size=2,
    steps=5,
    checkpoint_steps=2,
    seed=3,
)


@pytest.fixture(scope="module")
def plans() -> list:
    """The sessions of the shipped encoder's recipe: text and voices, not spoken."""
    params = PretrainingParams()
    return _plan_sessions(params, VOICES, *frequent_words(params.vocabulary))


def test_no_voice_of_the_demo_and_no_held_out_one_is_trained_on(plans: list) -> None:
    params = PretrainingParams()
    demo = {_family(name) for name in pd.read_csv(VOICES)["variant"]}
    held_out = {_family(name) for name in params.held_out_variants}
    assert not demo & held_out
    heard = [plan.voice for plan in plans[: params.sessions]]
    known = [voice for voice in heard if not voice.definition]
    families = {_family(voice.variant) for voice in known}
    assert not families & (demo | held_out)
    assert len(families) > 20
    assert {voice.accent for voice in heard} == set(params.accents)
    scored = [plan.voice for plan in plans[params.sessions :]]
    assert len(scored) == 20
    assert {voice.variant for voice in scored} <= set(params.held_out_variants)
    assert {voice.accent for voice in scored} <= set(params.held_out_accents)
    assert not set(params.accents) & set(params.held_out_accents)
    assert {plan.warp for plan in plans[params.sessions :]} == {1.0}
    assert {v.variant for v in (*known, *scored)} <= set(espeak.variants())


def test_so_many_speakers_are_made_up_and_none_of_them_is_scored(plans: list) -> None:
    params = PretrainingParams()
    drawn = [bool(plan.voice.definition) for plan in plans]
    assert not any(drawn[params.sessions :])
    # Within four standard deviations.
    assert abs(sum(drawn) / params.sessions - params.drawn_speakers) < 0.06
    definitions = {plan.voice.definition for plan in plans if plan.voice.definition}
    assert len(definitions) == sum(drawn)
    words, weights = frequent_words(params.vocabulary)
    for share in (0, 1):
        few = replace(params, sessions=5, drawn_speakers=share)
        made_up = _plan_sessions(few, VOICES, words, weights)[:5]
        assert {bool(plan.voice.definition) for plan in made_up} == {bool(share)}
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigurationError, match="drawn_speakers"):
            replace(params, drawn_speakers=share)


def test_a_speaker_made_up_is_heard_in_every_line_of_its_definition() -> None:
    """The synthesiser ignores what it does not understand, without a word."""
    definition = draw_speaker("drawn", np.random.default_rng(3))
    lines = definition.splitlines()
    kinds = {line.split()[0] for line in lines}
    assert kinds >= {"formant", "tone", "breath", "flutter", "voicing", "stressAmp"}

    def audio(text: str) -> np.ndarray:
        voice = espeak.Voice("en-us", "drawn", definition=text)
        return espeak.speak(voice, ["seven yellow onions"], seed=1)[0].samples

    whole = audio(definition)
    np.testing.assert_array_equal(whole, audio(definition))
    for kind in sorted(kinds - {"language", "name", "intonation"}):
        others = [line for line in lines if line.split()[0] != kind]
        assert not np.array_equal(whole, audio("\n".join(others) + "\n")), kind


def test_each_session_has_a_seed_and_the_sentences_asked_for(plans: list) -> None:
    seeds = [plan.seed for plan in plans]
    assert len(set(seeds)) == len(plans) == 1020
    assert {len(plan.texts) for plan in plans} == {40}
    pauses = np.array([plan.pauses for plan in plans])
    assert pauses.shape == (1020, 40)
    assert 0 <= pauses.min() < 0.01 < 0.59 < pauses.max() <= 0.6


def test_no_phrase_of_the_demo_is_said(plans: list) -> None:
    phrases = pd.read_csv(DEMO / "phrases.csv", keep_default_na=False)["text"]
    wanted = {normalise_text(text) for text in phrases}
    said = [text for plan in plans for text in plan.texts]
    assert len(wanted) > 200 and len(said) == 40_800
    assert said[0] == normalise_text(said[0])
    assert not wanted & set(said)
    # Nor within a longer sentence, if it has three words or more.
    long = {tuple(text.split()) for text in wanted if text.count(" ") >= 2}
    lengths = sorted({len(words) for words in long})
    for text in said:
        words = text.split()
        for length in lengths:
            for start in range(len(words) - length + 1):
                assert tuple(words[start : start + length]) not in long, text


def test_plans_are_their_parameters(plans: list) -> None:
    params = replace(PretrainingParams(), sessions=2)
    words, weights = frequent_words(params.vocabulary)
    few = _plan_sessions(params, VOICES, words, weights)
    assert few[:2] == plans[:2]
    other = _plan_sessions(replace(params, seed=2), VOICES, words, weights)
    assert other[0].texts != few[0].texts


@pytest.mark.parametrize(
    "variant, family",
    [("Mr-serious2", "mr-serious"), ("Gene2", "gene"), ("m1", "m1"), ("f5", "f5")],
)
def test_variants_that_differ_in_a_number_are_one_person(
    variant: str, family: str
) -> None:
    assert _family(variant) == family


def test_sentences_hold_known_words_only() -> None:
    words, weights = frequent_words(60)
    assert len(words) == 60 and 0 < weights.sum() < 1
    assert (np.diff(weights) <= 0).all()
    known = {*words, *grammar_words()}
    text = sentences(words, weights, np.random.default_rng(0))
    for _ in range(300):
        sentence = next(text)
        assert set(sentence.split(" ")) <= known


# ------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "events, expected",
    [
        ([(0, 2, 10), (3, 3, 20), (7, 3, 30)], [("on", 10), ("the", 20), ("mat", 30)]),
        # «on the» run together: one event stands for both.
        ([(0, 6, 10), (7, 3, 30)], [(None, 10), ("mat", 30)]),
        ([(0, 2, 10), (3, 7, 20)], [("on", 10), (None, 20)]),
        ([(0, 10, 10)], [(None, 10)]),
        # An event within a word stands for none, nor is the one before it whole.
        (
            [(0, 2, 10), (3, 1, 20), (4, 2, 25), (7, 3, 30)],
            [("on", 10), (None, 20), (None, 25), ("mat", 30)],
        ),
        ([], []),
    ],
)
def test_words_run_together_have_no_class(events: list, expected: list) -> None:
    assert _aligned_words("on the mat", events) == expected


def test_spoken_words_are_aligned_in_order() -> None:
    text = "the end of the road and the top of the hill"
    voice = espeak.Voice("en-gb", "m1")
    one = espeak.speak(voice, [text], seed=1)[0]
    aligned = _aligned_words(text, one.words)
    assert [at for _, at in aligned] == sorted(at for _, at in aligned)
    said = [word for word, _ in aligned if word]
    # Those that stand alone come in the order of the text.
    rest = iter(text.split())
    assert all(word in rest for word in said)
    assert {"end", "road", "top", "hill"} <= set(said)
    # espeak-ng runs «of the» together.
    assert any(word is None for word, _ in aligned)


@pytest.mark.parametrize(
    "name, plain",
    [
        ("'a:", "a:"),
        ("_:", "_"),
        ("_", "_"),
        ("", "_"),
        ("a#", "@"),
        ("I2", "I"),
        ("t#", "t"),
        ("@", "@"),
        ("3:", "3:"),
        ("0", "0"),
    ],
)
def test_phonemes_lose_stress_and_shade(name: str, plain: str) -> None:
    assert plain_phoneme(name) == plain


def brute_force(
    classes: list[int], starts: list[float], begin: int, step: int, samples: int
) -> list[int]:
    """The class at each frame's centre: that of the last one that began by then."""
    found = []
    for frame in range(samples // step):
        centre = begin + step * frame + step // 2
        begun = [i for i, start in enumerate(starts) if start <= centre]
        found.append(classes[begun[-1] if begun else 0])
    return found


@pytest.mark.parametrize("begin", [0, 7, 40])
def test_frame_classes_are_those_at_the_frames_centres(begin: int) -> None:
    generator = np.random.default_rng(begin)
    # One begins exactly at a centre, and so counts there.
    starts = np.sort([*generator.uniform(0, 120, 8), begin + 45.0])
    classes = generator.permutation(9)
    found = _classes(classes, starts, begin, 10, 83)
    assert list(found) == brute_force(list(classes), list(starts), begin, 10, 83)


SESSION = Session(
    audio=np.arange(48_000, dtype=np.int16),
    phonemes=np.array(["_", "a", "b", "_", "b"]),
    phoneme_starts=np.array([0.0, 6000, 12_000, 20_000, 30_000]),
    words=np.array([2, IGNORED, 1]),
    word_starts=np.array([6000.0, 11_000, 30_000]),
    sentence_starts=np.array([0.0, 25_000]),
)


def test_crops_have_the_audio_and_classes_of_one_place() -> None:
    corpus = _Corpus([SESSION], ["_", "a", "b"])
    batch = corpus.crops(20, 1.28, np.random.default_rng(0))
    samples = int(1.28 * 16_000)
    assert batch.waves.shape == (20, samples) and batch.waves.dtype == torch.float32
    assert batch.phonemes.shape == (20, 32) and batch.words.shape == (20, 8)
    begins = set()
    for row in range(20):
        # The audio counts its own samples.
        begin = round(batch.waves[row, 0].item() * 32768)
        begins.add(begin)
        assert begin == 0 or 25_000 - 8000 < begin <= 25_000
        np.testing.assert_array_equal(
            batch.waves[row] * 32768, SESSION.audio[begin : begin + samples]
        )
        classes, starts = [0, 1, 2, 0, 2], list(SESSION.phoneme_starts)
        assert batch.phonemes[row].tolist() == brute_force(
            classes, starts, begin, PHONEME_STEP, samples
        )
        silent = brute_force(classes, starts, begin, 2560, samples)
        words = brute_force(
            list(SESSION.words), list(SESSION.word_starts), begin, 2560, samples
        )
        expected = [
            SILENCE if phoneme == 0 else word
            for phoneme, word in zip(silent, words, strict=True)
        ]
        assert batch.words[row].tolist() == expected
    assert len(begins) > 5


def test_a_crop_longer_than_its_session_ends_in_silence() -> None:
    short = replace(SESSION, audio=SESSION.audio[:16_000] + np.int16(1))
    short = replace(
        short,
        phonemes=np.array(["_", "a", "_"]),
        phoneme_starts=np.array([0.0, 6000, 15_000]),
        sentence_starts=np.array([0.0]),
    )
    batch = _Corpus([short], ["_", "a"]).crops(1, 1.28, np.random.default_rng(0))
    assert batch.waves[0, :16_000].all() and not batch.waves[0, 16_000:].any()
    assert not batch.phonemes[0, 24:].any()
    assert not batch.words[0, 6:].any()


def test_sequences_for_ctc_drop_repeats_and_silence() -> None:
    frames = torch.tensor([[0, 3, 3, 0, 3, 1], [2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0]])
    targets, lengths = _sequences(frames)
    assert targets.tolist() == [4, 4, 2, 3]
    assert lengths.tolist() == [3, 1, 0]


def test_augmentation_keeps_shape_and_range_and_is_its_seed() -> None:
    waves = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, (40, 8000)))
    waves = waves.float().clamp(-1, 1)
    heard = augment(waves, torch.Generator().manual_seed(1))
    assert heard.shape == waves.shape and heard.dtype == torch.float32
    assert torch.isfinite(heard).all()
    assert heard.abs().amax() <= 1 + 1e-6
    peaks = heard.abs().amax(dim=1)
    assert peaks.min() < 0.1 < 0.5 < peaks.max()
    assert torch.equal(heard, augment(waves, torch.Generator().manual_seed(1)))
    assert not torch.equal(heard, augment(waves, torch.Generator().manual_seed(2)))


# ------------------------------------------------------------------- the whole run


@pytest.fixture(scope="module")
def small() -> Any:
    """A small encoder, few held-out sessions and few scored crops."""
    with pytest.MonkeyPatch.context() as patch:
        sizes = functools.partial(EncoderConfiguration, filters=6, channels=4, hidden=5)
        patch.setattr(pretrain, "EncoderConfiguration", sizes)
        patch.setattr(pretrain, "_HELD_OUT_SESSIONS", 1)
        crops = _Corpus.crops

        def fewer(self: _Corpus, size: int, seconds: float, generator: Any) -> Any:
            return crops(self, min(size, 2), min(seconds, 1.28), generator)

        patch.setattr(_Corpus, "crops", fewer)
        yield


class Run:
    """A whole run in a folder, on speech that all of them share."""

    def __init__(self, folder: Path, speech: Path) -> None:
        self.output = folder / "encoder.safetensors"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        for part in speech.iterdir():
            (self.work / part.name).symlink_to(part)

    def __call__(self, params: PretrainingParams = TINY) -> dict[str, float]:
        return pretrain.run(
            params,
            avoided_voices=VOICES,
            output=self.output,
            work=self.work,
            device="cpu",
            workers=2,
        )

    def weights(self) -> dict[str, Tensor]:
        (saved,) = self.work.glob("training-*.pt")
        state = torch.load(saved, weights_only=True)
        assert state["step"] == TINY.steps
        return state["encoder"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speech")


@pytest.fixture(scope="module")
def unbroken(small: Any, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first run, which speaks."""
    run = Run(tmp_path_factory.mktemp("unbroken"), speech)
    run()
    (spoken,) = run.work.glob("speech-*")
    spoken.rename(speech / spoken.name)
    return run


def test_a_run_leaves_a_checkpoint_and_says_how_good_it_is(unbroken: Run) -> None:
    checkpoint = load_checkpoint(unbroken.output)
    configuration = checkpoint.encoder.configuration
    assert configuration.front_end == "log-cmn" and configuration.ctc
    assert checkpoint.phonemes[0] == "_" and checkpoint.words[0] == "<silence>"
    assert len(checkpoint.phonemes) == configuration.phonemes > 25
    assert len(checkpoint.words) == configuration.words
    assert set(grammar_words()) <= set(checkpoint.words)
    described = read_scores(unbroken.output)
    recipe = described["recipe"]
    assert isinstance(recipe, dict) and recipe["sessions"] == TINY.sessions
    scores = described["frame_accuracy"]
    assert isinstance(scores, dict)
    assert sorted(scores) == [
        f"{what}_{condition}"
        for what in ("phoneme_error_rate", "phoneme_frames", "word_frames")
        for condition in ("augmented", "clean")
    ]
    assert all(0 <= scores[name] <= 100 for name in scores if "frames" in name)


def test_a_finished_run_trains_no_more(
    unbroken: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = unbroken.output.read_bytes(), read_scores(unbroken.output)
    monkeypatch.setattr(pretrain, "_losses", None)
    assert unbroken() == before[1]["frame_accuracy"]
    assert (unbroken.output.read_bytes(), read_scores(unbroken.output)) == before


class Stop(Exception):
    """What stops a run."""


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_bits(
    unbroken: Run,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    run = Run(tmp_path / "run", speech)
    losses = pretrain._losses
    calls: list[Any] = []

    def stopping(*arguments: Any) -> Any:
        if len(calls) == steps:
            raise Stop
        calls.append(arguments)
        return losses(*arguments)

    def silent(*_: Any, **__: Any) -> None:
        raise AssertionError("spoken again")

    monkeypatch.setattr(espeak, "speak", silent)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_losses", stopping)
        with pytest.raises(Stop):
            run()
    assert not run.output.exists()
    calls.clear()
    steps_left = TINY.steps - steps // TINY.checkpoint_steps * TINY.checkpoint_steps
    steps = 99
    monkeypatch.setattr(pretrain, "_losses", stopping)
    run()
    assert len(calls) == steps_left
    expected = unbroken.weights()
    for name, weight in run.weights().items():
        assert torch.equal(weight, expected[name]), name
    assert run.output.read_bytes() == unbroken.output.read_bytes()
    assert read_scores(run.output) == read_scores(unbroken.output)


def test_training_changes_every_weight_and_depends_on_the_seed_of_crops(
    unbroken: Run, speech: Path, tmp_path: Path
) -> None:
    trained = unbroken.weights()
    torch.manual_seed(TINY.seed)
    encoder = pretrain.Encoder(load_checkpoint(unbroken.output).encoder.configuration)
    for name, weight in encoder.state_dict().items():
        assert not torch.equal(trained[name], weight), name
    run = Run(tmp_path / "run", speech)
    run(replace(TINY, learning_rate=1e-4))
    other = run.weights()
    assert not torch.equal(trained["word_linear.bias"], other["word_linear.bias"])


def test_the_alignment_fits_the_sound(unbroken: Run, speech: Path) -> None:
    (folder,) = speech.iterdir()
    sessions = sorted(folder.iterdir())
    assert len(sessions) == TINY.sessions + 1
    pauses = []
    for path in sessions:
        with np.load(path) as arrays:
            one = Session(**{name: arrays[name] for name in arrays})
        assert one.audio.dtype == np.int16
        assert len(one.sentence_starts) == TINY.sentences
        for starts in (one.phoneme_starts, one.word_starts, one.sentence_starts):
            assert (np.diff(starts) >= 0).all()
            assert starts[0] >= 0 and starts[-1] <= len(one.audio)
        # Each sentence begins where its pause ends; the first pause begins the audio.
        assert one.phonemes[0] == "_" and one.phoneme_starts[0] == 0
        quiet = one.audio[: max(1, int(one.sentence_starts[0]) - 160)]
        assert np.abs(quiet).max() < 10
        pauses.append(one.sentence_starts[0])
        # Vowels are louder than voiceless consonants, but not a tenth of a second on.
        frames = one.audio[: len(one.audio) // 320 * 320].reshape(-1, 320)
        power = np.mean(frames.astype(float) ** 2, axis=1)
        ratios = []
        for shift in (0, -1600, 1600):
            said = _classes(
                one.phonemes, one.phoneme_starts + shift, 0, 320, len(one.audio)
            )
            vowel = np.array([name[0] in "aeiouAEIOUV03@" for name in said])
            voiceless = np.isin(said, list("ptkfsTSh"))
            ratios.append(np.median(power[vowel]) / np.median(power[voiceless]))
        # By how much depends on the voice.
        assert ratios[0] > 2 * max(1, *ratios[1:])
    assert max(pauses) > 320
