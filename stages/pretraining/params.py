"""Parameters of pretraining."""

import math
from dataclasses import dataclass

from stages.core.errors import ConfigurationError

_SHORTEST_CROP = 0.16  # seconds: a frame of the encoder


@dataclass(frozen=True)
class PretrainingParams:
    """How the shipped encoder was made.

    The losses are those of Lugosch et al. 2019, section 2.2: cross-entropy of every
    frame's phoneme and word; to them comes CTC over the phonemes, so that the encoder
    can also transcribe.

    Attributes:
        sessions: voices drawn; each speaks `sentences` sentences in one go.
        sentences: sentences a session.
        drawn_speakers: share of the sessions whose speaker is made up; the others have
            the synthesiser's own.
        longest_pause: silence before a sentence is at most so long, seconds.
        vocabulary: most frequent English words, which make up text and word classes.
        accents: espeak-ng accents that are heard.
        held_out_accents: accents heard only in the scores.
        held_out_variants: voice variants heard only in the scores; besides them, no
            voice of the demo corpus is heard.
        lengths: durations of training crops, seconds; a batch has one of them.
        batch_size: crops a step.
        steps: optimiser steps. With more of them intents come out better on espeak-ng's
            voices and worse on another synthesiser's (CONTRIBUTING.md, the table).
        learning_rate: peak of the one-cycle schedule.
        ctc_weight: factor of the CTC loss.
        checkpoint_steps: a resumable checkpoint every so many steps.
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
        """Refuse what nothing can be trained with.

        Raises:
            ConfigurationError: names the parameter, what it is and what it may be.
        """
        rules = {
            "drawn_speakers": (0 <= self.drawn_speakers <= 1, "a share, 0 to 1"),
            "longest_pause": (
                0 <= self.longest_pause < math.inf,
                "0 or more seconds",
            ),
            "learning_rate": (0 < self.learning_rate < math.inf, "a number above 0"),
            "ctc_weight": (0 <= self.ctc_weight < math.inf, "0 or more"),
            "lengths": (
                bool(self.lengths)
                and all(_SHORTEST_CROP <= one < math.inf for one in self.lengths),
                f"durations of {_SHORTEST_CROP} seconds or more, at least one",
            ),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name in ("accents", "held_out_accents", "held_out_variants"):
            rules[name] = (bool(getattr(self, name)), "at least one")
        for name in (
            "sessions",
            "sentences",
            "vocabulary",
            "batch_size",
            "steps",
            "checkpoint_steps",
        ):
            rules[name] = (getattr(self, name) >= 1, "1 or more")
        for name, (holds, expected) in rules.items():
            if not holds:
                raise ConfigurationError(
                    f"pretraining.{name} cannot be used",
                    found=repr(getattr(self, name)),
                    expected=expected,
                )
