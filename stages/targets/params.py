"""Parameters of the targets stage."""

from dataclasses import dataclass

from stages.core.rules import among, check_rules

REVISION = 1
"""Bump it when the same inputs and parameters give another result."""

POOLINGS = ("mean", "mean_words", "cls")


@dataclass(frozen=True)
class TargetsParams:
    """Parameters of `cache-targets`.

    `pooling` makes one vector of a text's last hidden states: `mean`, over the real
    tokens, as the paper pools the whole sequence output; `mean_words`, without special
    tokens such as [CLS] and [SEP]; or `cls`, the first token's.

    Raises:
        ConfigurationError: a value that cannot be used.
    """

    pooling: str = "mean"  # paper, section 2.2

    def __post_init__(self) -> None:
        """Check every value."""
        check_rules("targets", self, {"pooling": among(POOLINGS)})
