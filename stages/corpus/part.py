"""Parts of a corpus: what train, valid and test are called where it comes from."""

from stages.core.errors import ConfigurationError
from stages.core.manifest import SPLITS
from stages.corpus.params import CorpusParams


def split_of_parts(params: CorpusParams) -> dict[str, str]:
    """The split of each part of `params.parts`; empty where splits are made.

    Raises:
        ConfigurationError: there are too few parts, or one stands twice.
    """
    parts = params.parts
    given = params.splits == "given"
    if len(set(parts)) < len(parts) or not parts or (given and len(parts) != 3):
        raise ConfigurationError(
            "corpus.parts cannot be used",
            found=", ".join(parts) or "none",
            expected="what train, valid and test are called, in this order"
            if given
            else "one part or more, each once",
            fix="set corpus.splits to make splits from other parts" if given else None,
        )
    return dict(zip(parts, SPLITS if given else [""] * len(parts), strict=True))
