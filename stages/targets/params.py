"""Parameters of the targets stage."""

from dataclasses import dataclass

from stages.core.errors import ConfigurationError

POOLINGS = ("mean", "mean_words", "cls")


@dataclass(frozen=True)
class TargetsParams:
    """Parameters of `cache-targets`.

    `pooling` makes one vector of a text's last hidden states: their `mean` over the
    real tokens, as the paper pools the whole sequence output; `mean_words`, without
    the special tokens such as [CLS] and [SEP]; or `cls`, the first token's.

    Raises:
        ConfigurationError: a value that cannot be used.
    """

    pooling: str = "mean"  # paper, section 2.2

    def __post_init__(self) -> None:
        """Check every value."""
        if self.pooling not in POOLINGS:
            raise ConfigurationError(
                "targets.pooling cannot be used",
                found=repr(self.pooling),
                expected=f"one of {', '.join(POOLINGS)}",
            )
