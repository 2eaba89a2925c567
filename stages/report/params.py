"""The report's parameters."""

from dataclasses import dataclass


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
