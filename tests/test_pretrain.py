"""Pretraining: exact resuming, one training in several processes, a given start."""

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.acoustic import pretrain
from stages.acoustic import speech as speaking
from stages.acoustic.checkpoint import load_checkpoint
from stages.acoustic.encoder import EncoderConfiguration
from stages.core.errors import InputError
from stages.core.hashing import hash_file
from stages.pretraining.crops import Batch, Crops, _classes
from stages.pretraining.params import PretrainingParams
from stages.pretraining.peers import Peers
from stages.pretraining.run import _sequences
from stages.pretraining.sentences import grammar_words
from stages.pretraining.sessions import load_session
from stages.speech import synthesis

VOICES = Path(__file__).parent.parent / "data" / "demo" / "voices.csv"
DRAW = Crops.draw
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


def test_sequences_for_ctc_drop_repeats_and_silence() -> None:
    frames = torch.tensor([[0, 3, 3, 0, 3, 1], [2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0]])
    targets, lengths = _sequences(frames)
    assert targets.tolist() == [4, 4, 2, 3]
    assert lengths.tolist() == [3, 1, 0]


@pytest.fixture(scope="module")
def small() -> Any:
    """A small encoder, few held-out sessions and few scored crops."""
    with pytest.MonkeyPatch.context() as patch:
        sizes = functools.partial(EncoderConfiguration, filters=6, channels=4, hidden=5)
        patch.setattr(pretrain, "EncoderConfiguration", sizes)
        patch.setattr(speaking, "_HELD_OUT_SESSIONS", 1)
        draw = Crops.draw

        def fewer(self: Crops, size: int, seconds: float, *others: Any, **how: Any):
            return draw(self, min(size, 2), min(seconds, 1.28), *others, **how)

        patch.setattr(Crops, "draw", fewer)
        yield


class Run:
    """A whole run in a folder, on speech that all of them share."""

    def __init__(self, folder: Path, speech: Path) -> None:
        self.output = folder / "encoder.safetensors"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        for part in speech.iterdir():
            (self.work / part.name).symlink_to(part)

    def __call__(
        self,
        params: PretrainingParams = TINY,
        *,
        start: Path | None = None,
        workers: int = 1,
    ) -> dict[str, float]:
        return pretrain.run(
            params,
            avoided_voices=VOICES,
            output=self.output,
            work=self.work,
            start=start,
            device="cpu",
            workers=workers,
        )

    def weights(self) -> dict[str, Tensor]:
        (saved,) = self.work.glob("training-*.pt")
        state = torch.load(saved, weights_only=True)
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
    notes = described(unbroken.output)
    recipe = notes["recipe"]
    assert isinstance(recipe, dict) and recipe["sessions"] == TINY.sessions
    scores = notes["pretraining_scores"]
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
    before = unbroken.output.read_bytes(), described(unbroken.output)
    monkeypatch.setattr(pretrain, "_losses", None)
    assert unbroken() == before[1]["pretraining_scores"]
    assert (unbroken.output.read_bytes(), described(unbroken.output)) == before


def described(output: Path) -> dict[str, Any]:
    """What stands beside a checkpoint."""
    return json.loads(output.with_suffix(".json").read_text())


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

    monkeypatch.setattr(synthesis, "speak", silent)
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
    assert described(run.output) == described(unbroken.output)


def test_training_changes_every_weight_by_its_rate(
    unbroken: Run, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = unbroken.weights()
    begun = {}

    def begin(training: Any) -> Any:
        encoder = pretrain_begun(training)
        begun.update({n: one.clone() for n, one in encoder.state_dict().items()})
        return encoder

    pretrain_begun = pretrain._begun
    monkeypatch.setattr(pretrain, "_begun", begin)
    still = Run(tmp_path / "still", speech)
    still(replace(TINY, learning_rate=1e-12))
    for name, weight in still.weights().items():
        # The same beginning, which a rate of next to nothing keeps.
        torch.testing.assert_close(weight, begun[name], atol=1e-7, rtol=1e-5)
        assert not torch.allclose(trained[name], weight, atol=1e-6, rtol=1e-5), name
    run = Run(tmp_path / "run", speech)
    run(replace(TINY, learning_rate=1e-4))
    other = run.weights()
    assert not torch.equal(trained["word_linear.bias"], other["word_linear.bias"])


def test_the_alignment_fits_the_sound(unbroken: Run, speech: Path) -> None:
    (folder,) = speech.iterdir()
    assert len(list(folder.glob("*.npz"))) == TINY.sessions + 1
    pauses = []
    for number in range(TINY.sessions + 1):
        one = load_session(folder, number)
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
            centres = 160 + 320 * np.arange(len(frames))
            said = _classes(one.phonemes, one.phoneme_starts + shift, centres)
            vowel = np.array([name[0] in "aeiouAEIOUV03@" for name in said])
            voiceless = np.isin(said, list("ptkfsTSh"))
            ratios.append(np.median(power[vowel]) / np.median(power[voiceless]))
        # By how much depends on the voice.
        assert ratios[0] > 2 * max(1, *ratios[1:])
    assert max(pauses) > 320


# ------------------------------------------------------- several processes, a start


@pytest.fixture
def large() -> Any:
    """What a process that is not this one takes for granted: the shipped sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "EncoderConfiguration", EncoderConfiguration)
        patch.setattr(Crops, "draw", DRAW)
        patch.setattr(pretrain, "_score", lambda *_: {})
        yield


def test_two_processes_train_what_one_does(
    unbroken: Run, speech: Path, tmp_path: Path, large: Any
) -> None:
    # Parts of 8, 8 and 4 crops: shares differ in size, and in words that count.
    params = replace(TINY, batch_size=20, steps=3)
    alone, together = Run(tmp_path / "alone", speech), Run(tmp_path / "both", speech)
    alone(params)
    together(params, workers=2)
    expected = alone.weights()
    for name, weight in together.weights().items():
        apart = (weight - expected[name]).abs()
        # Adam makes a step of any gradient, be it rounding around zero.
        assert (apart > 2e-5).double().mean() < 1e-3, name
    # A share that is missing would be seen.
    fewer = Run(tmp_path / "fewer", speech)
    fewer(replace(params, batch_size=16))
    name = "word_linear.weight"
    assert (fewer.weights()[name] - expected[name]).abs().max() > 1e-4


def test_several_processes_go_on_where_they_were_stopped(
    speech: Path, tmp_path: Path, large: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two crops are one part: no more processes than parts.
    params = replace(TINY, batch_size=10, steps=3, checkpoint_steps=2)
    whole, broken = Run(tmp_path / "whole", speech), Run(tmp_path / "broken", speech)
    whole(params, workers=5)
    calls: list[Any] = []

    def stopping(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise Stop
        return pretrain_losses(*arguments)

    pretrain_losses = pretrain._losses
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_losses", stopping)
        with pytest.raises(Stop):
            broken(params, workers=2)
    broken(params, workers=2)
    for name, weight in broken.weights().items():
        assert torch.equal(weight, whole.weights()[name]), name


def test_gradients_are_added_up_not_averaged() -> None:
    class Two(Peers):
        count = 2

        def sum(self, values: Tensor) -> Tensor:
            return values.mul_(3)

    weight = torch.nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    bias = torch.nn.Parameter(torch.ones(2))
    for one, value in ((weight, 2.0), (bias, 5.0)):
        one.grad = torch.full_like(one, value)
    pretrain._add_up([weight, bias], Two())
    assert weight.grad is not None and bias.grad is not None
    assert weight.grad.dtype == torch.float64 and (weight.grad == 6).all()
    assert (bias.grad == 15).all()


def test_a_share_without_known_words_adds_nothing(unbroken: Run) -> None:
    encoder = load_checkpoint(unbroken.output).encoder
    silence = torch.zeros(2, 8, dtype=torch.int64)
    batch = Batch(torch.zeros(2, 20_480), silence.repeat(1, 4), silence - 100)
    sums, counts = pretrain._losses(encoder, batch)
    assert counts.tolist() == [64, 0, 2]
    assert sums[1] == 0 and sums.isfinite().all()


def training(run: Run, params: PretrainingParams, start: Path | None) -> Any:
    checkpoint = load_checkpoint(run.output)
    return pretrain._Training(
        params,
        Path(),
        ("_", "new", *checkpoint.phonemes[:0:-1]),
        ("<silence>", *checkpoint.words[5:], "newer"),
        start,
        Path("nowhere"),
        "cpu",
    )


def test_a_start_gives_its_weights_and_new_classes_begin_at_random(
    unbroken: Run,
) -> None:
    start = load_checkpoint(unbroken.output)
    given = start.encoder
    job = training(unbroken, TINY, start=unbroken.output)
    begun = pretrain._begun(job)
    assert begun.configuration.hidden == given.configuration.hidden == 5
    waves = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, 16_000)))
    with torch.inference_mode():
        hidden, count = begun.phoneme_module(waves.float())
        features, _ = begun.word_module(hidden, count)
        assert torch.allclose(features, given(waves.float()), atol=1e-6)
        for head, mine, theirs in (
            ("phoneme_linear", job.phonemes, start.phonemes),
            ("ctc_linear", ("", *job.phonemes), ("", *start.phonemes)),
            ("word_linear", job.words, start.words),
        ):
            values = features if head == "word_linear" else hidden
            found = getattr(begun, head)(values)
            known = getattr(given, head)(values)
            for place, name in enumerate(mine):
                if name in theirs:
                    other = known[..., theirs.index(name)]
                    assert torch.allclose(found[..., place], other, atol=1e-6), name
                else:
                    assert name in ("new", "newer")
                    assert found[..., place].std() > 0


def test_a_run_from_a_start_tells_of_it(
    unbroken: Run, speech: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", speech)
    run(replace(TINY, steps=1, learning_rate=1e-9), start=unbroken.output)
    notes, before = described(run.output), described(unbroken.output)
    assert notes["began_with"].pop("sha256") == hash_file(unbroken.output)
    assert notes["began_with"] == before
    # Another beginning goes on from no training of this one.
    run(replace(TINY, steps=1, learning_rate=1e-9))
    assert len(list(run.work.glob("training-*.pt"))) == 2
    assert "began_with" not in described(run.output)
    run(replace(TINY, steps=1, learning_rate=1e-9), start=unbroken.output)
    begun = load_checkpoint(run.output).encoder.state_dict()
    for name, weight in load_checkpoint(unbroken.output).encoder.state_dict().items():
        torch.testing.assert_close(begun[name], weight, atol=1e-3, rtol=1e-3)


def test_a_start_that_is_none_is_told(
    unbroken: Run, speech: Path, tmp_path: Path
) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"no")
    run = Run(tmp_path / "run", speech)
    with pytest.raises(InputError, match="safetensors"):
        run(start=tmp_path / "no.safetensors")
    shutil.copy(unbroken.output, tmp_path / "start.safetensors")
    for text, told in (("{", "JSON"), ("[]", "list")):
        (tmp_path / "start.json").write_text(text)
        with pytest.raises(InputError, match=told):
            run(start=tmp_path / "start.safetensors")


def test_damaged_speech_is_spoken_again(speech: Path, tmp_path: Path) -> None:
    (folder,) = speech.iterdir()
    copy = tmp_path / "speech"
    shutil.copytree(folder, copy / folder.name)
    audio, alignment = (
        sorted((copy / folder.name).glob(f"*.{kind}"))[0] for kind in ("npy", "npz")
    )
    expected = load_session(copy / folder.name, 0)
    for damaged in (audio, alignment):
        damaged.write_bytes(damaged.read_bytes()[:-100])
        Run(tmp_path / damaged.suffix, copy)(replace(TINY, steps=1))
        again = load_session(copy / folder.name, 0)
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(again, name), value)
