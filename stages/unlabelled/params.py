"""Parameters of the stage unlabelled."""

from dataclasses import dataclass

from stages.core.rules import SEED, TEXT_OR_NOTHING, between, check_rules

REVISION = 1
"""Bump it when the same inputs and parameters give another result."""

RECOMBINED = "recombined"


@dataclass(frozen=True)
class UnlabelledParams:
    """Which sentences without a label are spoken, and by whom.

    Conditions, silence and synthesisers are those of `corpus`.

    Attributes:
        sentences: nothing, for none; `recombined`, for new sentences from the words of
            the train texts; or a file in the corpus root, with a sentence in each line
            (.txt) or with a column text (.csv or .tsv). The default is none, because
            no student of the paper learns from them.
        count: of recombined sentences.
        utterances: of each sentence, each by another voice.
        voices: drawn voices, where the corpus has none; `phrases` has its train voices.
        seed: of all that is drawn.
    """

    sentences: str = ""
    count: int = 1000
    utterances: int = 1
    voices: int = 40
    seed: int = 1

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: names the parameter, its value and what is expected.
        """
        rules = {
            "sentences": TEXT_OR_NOTHING,
            "count": between(1, 1_000_000),
            "utterances": between(1, 10_000),
            "voices": between(1, 10_000),
            "seed": SEED,
        }
        check_rules("unlabelled", self, rules)
