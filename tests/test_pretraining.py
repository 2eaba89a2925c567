"""Pretraining: resuming to the same bits, and starting from given weights."""

import functools
import io
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.acoustic.checkpoint import load_checkpoint
from stages.acoustic.encoder import EncoderConfiguration
from stages.core.errors import InputError
from stages.core.hashing import hash_file
from stages.core.runtime import RunOptions
from stages.pretraining import run as pretraining
from stages.pretraining import sessions as speaking
from stages.pretraining.crops import Batch, Crops, _classes
from stages.pretraining.params import PretrainingParams
from stages.pretraining.run import _sequences
from stages.pretraining.sessions import IGNORED, load_session
from stages.speech import synthesis
from stages.speech.sentences import grammar_words

VOICES = Path(__file__).parent.parent / "data" / "demo" / "voices.csv"
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
        patch.setattr(pretraining, "EncoderConfiguration", sizes)
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
    ) -> dict[str, float]:
        return pretraining.run(
            params,
            avoided_voices=VOICES,
            output=self.output,
            work=self.work,
            start=start,
            options=RunOptions(device="cpu", workers=2),
        )

    def weights(self) -> dict[str, Tensor]:
        (saved,) = self.work.glob("training-*.pt")
        # Behind the checksum.
        state = torch.load(io.BytesIO(saved.read_bytes()[32:]), weights_only=True)
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


def test_a_run_writes_a_checkpoint_and_its_scores(unbroken: Run) -> None:
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


def test_a_finished_run_does_not_train_again(
    unbroken: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = unbroken.output.read_bytes(), described(unbroken.output)
    monkeypatch.setattr(pretraining, "_losses", None)
    assert unbroken() == before[1]["pretraining_scores"]
    assert (unbroken.output.read_bytes(), described(unbroken.output)) == before


def described(output: Path) -> dict[str, Any]:
    """The description next to a checkpoint."""
    return json.loads(output.with_suffix(".json").read_text())


class Stop(Exception):
    """What stops a run."""


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_stopped_run_resumes_to_the_same_bits(
    unbroken: Run,
    speech: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    run = Run(tmp_path / "run", speech)
    losses = pretraining._losses
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
        patch.setattr(pretraining, "_losses", stopping)
        with pytest.raises(Stop):
            run()
    assert not run.output.exists()
    calls.clear()
    steps_left = TINY.steps - steps // TINY.checkpoint_steps * TINY.checkpoint_steps
    steps = 99
    monkeypatch.setattr(pretraining, "_losses", stopping)
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

    def begin(*arguments: Any) -> Any:
        encoder = initial_encoder(*arguments)
        begun.update({n: one.clone() for n, one in encoder.state_dict().items()})
        return encoder

    initial_encoder = pretraining._initial_encoder
    monkeypatch.setattr(pretraining, "_initial_encoder", begin)
    still = Run(tmp_path / "still", speech)
    still(replace(TINY, learning_rate=1e-12))
    for name, weight in still.weights().items():
        # The same beginning, which a rate of next to nothing keeps.
        torch.testing.assert_close(weight, begun[name], atol=1e-7, rtol=1e-5)
        assert not torch.allclose(trained[name], weight, atol=1e-6, rtol=1e-5), name


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


# --------------------------------------------------------- damage and given weights


def test_a_damaged_checkpoint_is_named_and_training_starts_over(
    unbroken: Run, speech: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path / "run", speech)
    (saved,) = unbroken.work.glob("training-*.pt")
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = run.work / saved.name
    damaged.write_bytes(content)
    run()
    assert f"{damaged}: damaged checkpoint" in caplog.text
    assert run.output.read_bytes() == unbroken.output.read_bytes()


def test_a_batch_without_known_words_has_no_word_loss(unbroken: Run) -> None:
    encoder = load_checkpoint(unbroken.output).encoder
    silence = torch.zeros(2, 8, dtype=torch.int64)
    batch = Batch(torch.zeros(2, 20_480), silence.repeat(1, 4), silence + IGNORED)
    losses = pretraining._losses(encoder, batch)
    assert losses[1] == 0 and losses.isfinite().all()


def test_losses_are_means_over_frames_words_and_crops(unbroken: Run) -> None:
    encoder = load_checkpoint(unbroken.output).encoder
    generator = torch.Generator().manual_seed(0)
    waves = 0.1 * torch.randn(3, 20_480, generator=generator)
    phonemes = torch.randint(0, 4, (3, 32), generator=generator)
    words = torch.randint(0, 9, (3, 8), generator=generator)
    words[0] = IGNORED
    losses = pretraining._losses(encoder, Batch(waves, phonemes, words))
    hidden, _ = encoder.phoneme_module(waves)
    features, _ = encoder.word_module(hidden, None)
    ctc = torch.nn.CTCLoss()
    each = [
        ctc(
            encoder.ctc_linear(hidden[row, :, None]).log_softmax(2),
            torch.tensor([[one + 1 for one in _collapsed(phonemes[row])]]),
            (32,),
            (len(_collapsed(phonemes[row])),),
        )
        for row in range(3)
    ]
    expected = [
        functional.cross_entropy(
            encoder.phoneme_linear(hidden).mT, phonemes, reduction="mean"
        ),
        functional.cross_entropy(encoder.word_linear(features[1:]).mT, words[1:]),
        torch.stack(each).mean(),
    ]
    torch.testing.assert_close(losses, torch.stack(expected))


def _collapsed(classes: Tensor) -> list[int]:
    return [one for one, _ in itertools.groupby(classes.tolist()) if one != 0]


def test_a_start_gives_its_weights_and_new_classes_start_at_random(
    unbroken: Run,
) -> None:
    start = load_checkpoint(unbroken.output)
    given = start.encoder
    phonemes = ["_", "new", *start.phonemes[:0:-1]]
    words = ["<silence>", *start.words[5:], "newer"]
    begun = pretraining._initial_encoder(phonemes, words, start)
    assert begun.configuration.hidden == given.configuration.hidden == 5
    waves = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, 16_000)))
    with torch.inference_mode():
        hidden, count = begun.phoneme_module(waves.float())
        features, _ = begun.word_module(hidden, count)
        assert torch.allclose(features, given(waves.float()), atol=1e-6)
        for head, mine, theirs in (
            ("phoneme_linear", phonemes, start.phonemes),
            ("ctc_linear", ["", *phonemes], ("", *start.phonemes)),
            ("word_linear", words, start.words),
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


def test_a_run_from_a_start_records_it(
    unbroken: Run, speech: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run", speech)
    run(replace(TINY, steps=1, learning_rate=1e-9), start=unbroken.output)
    notes, before = described(run.output), described(unbroken.output)
    assert notes["began_with"].pop("sha256") == hash_file(unbroken.output)
    assert notes["began_with"] == before
    # Another start resumes another training.
    run(replace(TINY, steps=1, learning_rate=1e-9))
    assert len(list(run.work.glob("training-*.pt"))) == 2
    assert "began_with" not in described(run.output)
    run(replace(TINY, steps=1, learning_rate=1e-9), start=unbroken.output)
    begun = load_checkpoint(run.output).encoder.state_dict()
    for name, weight in load_checkpoint(unbroken.output).encoder.state_dict().items():
        torch.testing.assert_close(begun[name], weight, atol=1e-3, rtol=1e-3)


def test_an_unusable_start_is_an_error(
    unbroken: Run, speech: Path, tmp_path: Path
) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"no")
    run = Run(tmp_path / "run", speech)
    with pytest.raises(InputError, match="safetensors"):
        run(start=tmp_path / "no.safetensors")
    shutil.copy(unbroken.output, tmp_path / "start.safetensors")
    for text, complaint in (("{", "JSON"), ("[]", "list")):
        (tmp_path / "start.json").write_text(text)
        with pytest.raises(InputError, match=complaint):
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
