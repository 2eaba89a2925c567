"""Crops for pretraining: the classes of the place they are read from, true sound."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.pretraining.augmentation import augment
from stages.pretraining.crops import PHONEME_STEP, SILENCE, Crops, _classes
from stages.pretraining.sessions import IGNORED, Session


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
    found = _classes(classes, starts, begin + 5 + 10 * np.arange(8))
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
    crops = Crops([SESSION], ["_", "a", "b"])
    batch = crops.draw(20, 1.28, np.random.default_rng(0))
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
    crops = Crops([short], ["_", "a"])
    batch = crops.draw(1, 1.28, np.random.default_rng(0))
    assert batch.waves[0, :16_000].all() and not batch.waves[0, 16_000:].any()
    assert not batch.phonemes[0, 24:].any()
    assert not batch.words[0, 6:].any()


def test_augmentation_keeps_shape_and_range_and_is_its_seed() -> None:
    waves = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, (40, 8000)))
    waves = waves.float().clamp(-1, 1)
    augmented = augment(waves, torch.Generator().manual_seed(1))
    assert augmented.shape == waves.shape and augmented.dtype == torch.float32
    assert torch.isfinite(augmented).all()
    assert augmented.abs().amax() <= 1 + 1e-6
    peaks = augmented.abs().amax(dim=1)
    assert peaks.min() < 0.1 < 0.5 < peaks.max()
    assert torch.equal(augmented, augment(waves, torch.Generator().manual_seed(1)))
    assert not torch.equal(augmented, augment(waves, torch.Generator().manual_seed(2)))
