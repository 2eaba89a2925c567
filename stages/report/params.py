"""The report's parameters."""

from dataclasses import dataclass

from stages.core.rules import SEED, among, between, check_rules

# Bump it when the same inputs and parameters give another result.
REVISION = 5
EMBEDDED, LINKED, NONE = "embedded", "linked", "none"
AUDIO = (EMBEDDED, LINKED, NONE)
MOST_INTENTS = 10
"""As many colours as a reader can distinguish in one scatter plot."""
MOST_CONFUSED = 40
"""The values of a slot that one confusion matrix shows."""


@dataclass(frozen=True)
class ReportParams:
    """Parameters of the page and of Figure 2.

    Attributes:
        audio: how the page has the recordings of errors: `embedded` in it, `linked` as
            files in `audio/`, or `none`.
        tsne_intents: how many intents Figure 2 shows, the most frequent ones of valid;
            the paper shows 6.
        tsne_perplexity: the effective number of neighbours of t-SNE.
        seed: of t-SNE.
    """

    audio: str = EMBEDDED
    tsne_intents: int = 6
    tsne_perplexity: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the parameter, its value and what is allowed.
        """
        rules = {
            "audio": among(AUDIO),
            "tsne_intents": between(1, MOST_INTENTS),
            "tsne_perplexity": between(0, 10_000, above=True),
            "seed": SEED,
        }
        check_rules("report", self, rules)
