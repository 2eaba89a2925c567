"""Random crops of speech, with the phoneme and the word of every frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.acoustic.frames import FRAME_STEP
from stages.pretraining.sessions import Session
from stages.speech.loading import SAMPLE_RATE

PHONEME_STEP = FRAME_STEP // 4
SILENCE = 0


@dataclass(frozen=True)
class Batch:
    """Crops of equal length, with the classes of every frame.

    Attributes:
        waves: (batch, samples) float32.
        phonemes: (batch, frames at 25 a second) int64.
        words: (batch, frames at 6.25 a second) int64.
    """

    waves: Tensor
    phonemes: Tensor
    words: Tensor


class Crops:
    """Random crops of sessions.

    Args:
        sessions: the speech.
        inventory: names of the phoneme classes.
    """

    def __init__(self, sessions: list[Session], inventory: Sequence[str]) -> None:
        self.sessions = sessions
        place = {name: number for number, name in enumerate(inventory)}
        self.phonemes = [
            np.array([place[str(name)] for name in one.phonemes]) for one in sessions
        ]

    def draw(self, size: int, seconds: float, generator: np.random.Generator) -> Batch:
        """Draw `size` crops that begin up to 0.5 s before a random sentence.

        They are `seconds` long, rounded to whole word frames.
        """
        samples = FRAME_STEP * round(seconds * SAMPLE_RATE / FRAME_STEP)
        waves = np.zeros((size, samples), np.float32)
        phonemes = np.zeros((size, samples // PHONEME_STEP), np.int64)
        words = np.zeros((size, samples // FRAME_STEP), np.int64)
        for row in range(size):
            number = int(generator.integers(len(self.sessions)))
            one = self.sessions[number]
            begin = int(generator.choice(one.sentence_starts))
            begin -= int(generator.integers(int(0.5 * SAMPLE_RATE)))
            begin = max(0, min(begin, len(one.audio) - samples))
            part = one.audio[begin : begin + samples]
            waves[row, : len(part)] = part / 32768
            every_phoneme = begin + np.arange(PHONEME_STEP // 2, samples, PHONEME_STEP)
            every_word = begin + np.arange(FRAME_STEP // 2, samples, FRAME_STEP)
            phonemes[row] = _classes(
                self.phonemes[number], one.phoneme_starts, every_phoneme
            )
            silent = (
                _classes(self.phonemes[number], one.phoneme_starts, every_word)
                == SILENCE
            )
            spoken = _classes(one.words, one.word_starts, every_word)
            words[row] = np.where(silent, SILENCE, spoken)
        return Batch(
            torch.from_numpy(waves),
            torch.from_numpy(phonemes),
            torch.from_numpy(words),
        )


def _classes(
    classes: np.ndarray, starts: np.ndarray, centres: np.ndarray
) -> np.ndarray:
    """The class at each frame's centre, all positions in samples."""
    return classes[np.clip(np.searchsorted(starts, centres, "right") - 1, 0, None)]
