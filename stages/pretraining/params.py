"""Parameters of pretraining."""

from dataclasses import dataclass

from stages.core.rules import SEED, between, check_rules, each

REVISION = 3
"""Bump it when the same inputs and parameters give another result."""

_SHORTEST_CROP = 0.16  # seconds: a frame of the encoder
_LONGEST_CROP = 60.0


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
            "sessions": between(1, 1_000_000),
            "sentences": between(1, 10_000),
            "drawn_speakers": between(0, 1),
            "longest_pause": between(0, 60),
            "vocabulary": between(1, 1_000_000),
            "lengths": each(between(_SHORTEST_CROP, _LONGEST_CROP)),
            "batch_size": between(1, 100_000),
            "steps": between(1, 10**9),
            "learning_rate": between(0, 100, above=True),
            "ctc_weight": between(0, 1000),
            "checkpoint_steps": between(1, 10**9),
            "seed": SEED,
        }
        check_rules("pretraining", self, rules)
