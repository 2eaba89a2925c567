"""Parameters of the rejection stage."""

from dataclasses import dataclass

from stages.core.rules import SEED, between, check_rules

REVISION = 2
"""Bump it when the same inputs and parameters give another result."""

SAMPLES = 1
"""Bump it when a recording that is none of the intents gets other samples."""

GENERAL, NONE = "general", "none"
NOISES = ("white", "pink", "speech", "babble")


@dataclass(frozen=True)
class RejectionParams:
    """What is rejected, and by what it is measured.

    Attributes:
        share: of the valid commands that may be rejected; it decides the threshold. 5%
            is the false rejection rate at which keyword spotters are often compared.
        speech: speech that is none of the intents: `general`, sentences of a grammar by
            the demo's synthetic voices; a folder of recordings, each one utterance; or
            `none`. The default is `none`, because synthetic voices say little about
            people and only you have recordings of yours.
        sentences: of `general`, by each voice.
        noises: recordings of each kind of noise and silence, for choosing the score and
            again for measuring it.
        seed: of sentences, noise and silence.
    """

    share: float = 0.05
    speech: str = NONE
    sentences: int = 20
    noises: int = 50
    seed: int = 1

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: names the parameter, its value and what is expected.
        """
        rules = {
            "share": between(0, 1, below=True),
            "sentences": between(1, 100_000),
            "noises": between(1, 100_000),
            "seed": SEED,
        }
        check_rules("rejection", self, rules)
