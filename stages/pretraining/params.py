"""Parameters of pretraining."""

import math
from dataclasses import dataclass

from stages.core.rules import check_rules

REVISION = 3
"""Bump it when the same inputs and parameters give another result."""

_SHORTEST_CROP = 0.16  # seconds: a frame of the encoder
_LISTS = ("accents", "held_out_accents", "held_out_variants")
_COUNTS = (
    "sessions",
    "sentences",
    "vocabulary",
    "batch_size",
    "steps",
    "checkpoint_steps",
)


@dataclass(frozen=True)
class PretrainingParams:
    """How the shipped encoder was made.

    The losses are those of Lugosch et al. 2019, section 2.2, cross-entropy of every
    frame's phoneme and word, and CTC over the phonemes, so that the encoder can also
    transcribe.

    Attributes:
        sessions: number of sessions, in each of which one voice speaks.
        sentences: sentences in a session.
        drawn_speakers: share of the sessions with an invented speaker; the others have
            one of the synthesiser's.
        longest_pause: longest silence before a sentence, seconds.
        vocabulary: number of most frequent English words; text and word classes are
            made of them.
        accents: espeak-ng accents to train on.
        held_out_accents: accents used only for the scores.
        held_out_variants: voice variants used only for the scores. Voices of the demo
            corpus are never used.
        lengths: durations of training crops, seconds; a batch has one of them.
        batch_size: crops in a step.
        steps: optimiser steps. More steps classify intents better on espeak-ng's voices
            and worse on another synthesiser's.
        learning_rate: peak of the one-cycle schedule.
        ctc_weight: factor of the CTC loss.
        checkpoint_steps: steps between checkpoints.
        seed: of text, voices, crops, augmentation and initialisation.
    """

    sessions: int = 1000
    sentences: int = 40
    drawn_speakers: float = 0.67
    longest_pause: float = 0.6
    vocabulary: int = 2500
    accents: tuple[str, ...] = (
        "en-gb",
        "en-gb-x-gbclan",
        "en-gb-x-gbcwmd",
        "en-gb-x-rp",
        "en-us",
        "en-us-nyc",
    )
    held_out_accents: tuple[str, ...] = ("en-029", "en-gb-scotland")
    held_out_variants: tuple[str, ...] = ("Andrea", "Hugo", "belinda", "ian", "m6")
    lengths: tuple[float, ...] = (1.28, 1.92, 2.56, 3.84)
    batch_size: int = 48
    steps: int = 2500
    learning_rate: float = 0.002
    ctc_weight: float = 0.3
    checkpoint_steps: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the parameter and what it can be.
        """
        rules = {
            "drawn_speakers": (0 <= self.drawn_speakers <= 1, "a share, 0 to 1"),
            "longest_pause": (0 <= self.longest_pause < math.inf, "0 or more seconds"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a number above 0"),
            "ctc_weight": (0 <= self.ctc_weight < math.inf, "0 or more"),
            "lengths": (
                bool(self.lengths)
                and all(_SHORTEST_CROP <= one < math.inf for one in self.lengths),
                f"durations of {_SHORTEST_CROP} seconds or more, at least one",
            ),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name in _LISTS:
            rules[name] = (bool(getattr(self, name)), "at least one")
        for name in _COUNTS:
            rules[name] = (getattr(self, name) >= 1, "1 or more")
        check_rules("pretraining", self, rules)
