"""Speech for pretraining: voices and text kept apart, true alignments."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.core.errors import ConfigurationError
from stages.core.text import normalise_text
from stages.pretraining.params import PretrainingParams
from stages.pretraining.sessions import _aligned_words, plan_sessions
from stages.pretraining.speakers import draw_speaker
from stages.speech import synthesis
from stages.speech.phonemes import plain_phoneme
from stages.speech.sentences import grammar_words, sentences
from stages.speech.words import frequent_words

DEMO = Path(__file__).parent.parent / "data" / "demo"
VOICES = DEMO / "voices.csv"


@pytest.fixture(scope="module")
def plans() -> list:
    """The sessions of the shipped encoder's recipe: text and voices, not spoken."""
    params = PretrainingParams()
    return plan_sessions(params, VOICES, *frequent_words(params.vocabulary))


def test_no_voice_of_the_demo_and_no_held_out_one_is_trained_on(plans: list) -> None:
    params = PretrainingParams()
    demo = {synthesis.family(name) for name in pd.read_csv(VOICES)["variant"]}
    held_out = {synthesis.family(name) for name in params.held_out_variants}
    assert not demo & held_out
    trained = [plan.voice for plan in plans[: params.sessions]]
    known = [voice for voice in trained if not voice.definition]
    families = {synthesis.family(voice.variant) for voice in known}
    assert not families & (demo | held_out)
    assert len(families) > 20
    assert {voice.accent for voice in trained} == set(params.accents)
    scored = [plan.voice for plan in plans[params.sessions :]]
    assert len(scored) == 20
    assert {voice.variant for voice in scored} <= set(params.held_out_variants)
    assert {voice.accent for voice in scored} <= set(params.held_out_accents)
    assert not set(params.accents) & set(params.held_out_accents)
    assert {plan.warp for plan in plans[params.sessions :]} == {1.0}
    assert {v.variant for v in (*known, *scored)} <= set(synthesis.variants())


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
        made_up = plan_sessions(few, VOICES, words, weights)[:5]
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
        voice = synthesis.Voice("en-us", "drawn", definition=text)
        return synthesis.speak(voice, ["seven yellow onions"], seed=1)[0].samples

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
    phrases = pd.read_csv(DEMO / "sentences.csv", keep_default_na=False)["text"]
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
    few = plan_sessions(params, VOICES, words, weights)
    assert few[:2] == plans[:2]
    other = plan_sessions(replace(params, seed=2), VOICES, words, weights)
    assert other[0].texts != few[0].texts


@pytest.mark.parametrize(
    "variant, family",
    [("Mr-serious2", "mr-serious"), ("Gene2", "gene"), ("m1", "m1"), ("f5", "f5")],
)
def test_variants_that_differ_in_a_number_are_one_person(
    variant: str, family: str
) -> None:
    assert synthesis.family(variant) == family


def test_sentences_hold_known_words_only() -> None:
    words, weights = frequent_words(60)
    assert len(words) == 60 and 0 < weights.sum() < 1
    assert (np.diff(weights) <= 0).all()
    known = {*words, *grammar_words()}
    text = sentences(words, weights, np.random.default_rng(0))
    for _ in range(300):
        sentence = next(text)
        assert set(sentence.split(" ")) <= known


@pytest.mark.parametrize(
    "events, expected",
    [
        ([(0, 2, 10), (3, 3, 20), (7, 3, 30)], [("on", 10), ("the", 20), ("mat", 30)]),
        # «on the» run together is one event.
        ([(0, 6, 10), (7, 3, 30)], [(None, 10), ("mat", 30)]),
        ([(0, 2, 10), (3, 7, 20)], [("on", 10), (None, 20)]),
        ([(0, 10, 10)], [(None, 10)]),
        # An event within a word has no word, and the word before it is not whole.
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
    voice = synthesis.Voice("en-gb", "m1")
    one = synthesis.speak(voice, [text], seed=1)[0]
    aligned = _aligned_words(text, one.words)
    assert [at for _, at in aligned] == sorted(at for _, at in aligned)
    said = [word for word, _ in aligned if word]
    # Single words come in the order of the text.
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
