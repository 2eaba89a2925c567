"""The report's parameters."""

import math
from dataclasses import dataclass

from stages.core.errors import ConfigurationError

# Bump it when the same inputs and parameters give another result.
REVISION = 2
MOST_INTENTS = 10
"""As many colours as a reader can distinguish in one scatter plot."""


@dataclass(frozen=True)
class ReportParams:
    """Parameters of Figure 2 and of the bootstrap.

    Attributes:
        tsne_intents: how many intents Figure 2 shows, the most frequent ones of valid;
            the paper shows 6.
        tsne_perplexity: the effective number of neighbours of t-SNE.
        seed: of t-SNE and of the bootstrap.
    """

    tsne_intents: int = 6
    tsne_perplexity: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: names the parameter, its value and what is allowed.
        """
        rules = {
            "tsne_intents": (
                1 <= self.tsne_intents <= MOST_INTENTS,
                f"1 to {MOST_INTENTS}, as many as colours can be distinguished",
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
