"""The report's parameters."""

import math
from dataclasses import dataclass

from stages.core.errors import ConfigurationError

MOST_INTENTS = 10
"""In one scatter plot no more colours than these can be told apart."""


@dataclass(frozen=True)
class ReportParams:
    """What a reader may want to change in the report.

    Attributes:
        tsne_intents: how many intents Figure 2 shows, the most frequent of valid; the
            paper shows 6.
        tsne_perplexity: the effective number of neighbours of t-SNE.
        seed: of t-SNE and of the bootstrap.
    """

    tsne_intents: int = 6
    tsne_perplexity: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ConfigurationError: names the parameter, what it is and what it may be.
        """
        rules = {
            "tsne_intents": (
                1 <= self.tsne_intents <= MOST_INTENTS,
                f"1 to {MOST_INTENTS}, as many as colours can be told",
            ),
            "tsne_perplexity": (
                0 < self.tsne_perplexity < math.inf,
                "a number above 0",
            ),
            "seed": (0 <= self.seed < 2**32, "0 or more, below 2**32"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise ConfigurationError(
                    f"report.{name} cannot be used",
                    found=getattr(self, name),
                    expected=expected,
                )
