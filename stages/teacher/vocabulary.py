"""A WordPiece vocabulary of a small corpus: its characters, then its words.

The trainer of the tokenizers library orders pieces by a hash that differs between
processes, so the same texts get other token numbers each time. This one depends only on
the texts.
"""

from collections import Counter
from collections.abc import Iterable

from transformers import BertTokenizer

from stages.core.errors import ConfigurationError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_vocabulary(texts: Iterable[str], size: int) -> dict[str, int]:
    """Piece -> number: special tokens, characters, then words, the frequent first.

    Every character is there as the start of a word and inside one (`##`), so a word
    that is not in `texts` is spelled. Words of equal frequency are in alphabetical
    order.

    Args:
        texts: normalised texts, each as often as it occurs.
        size: the most pieces.

    Raises:
        ConfigurationError: `size` is too small for the characters.
    """
    backend = BertTokenizer().backend_tokenizer
    counts = Counter(
        word
        for text in texts
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(
            backend.normalizer.normalize_str(text)
        )
    )
    characters = sorted({character for word in counts for character in word})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    if len(pieces) > size:
        raise ConfigurationError(
            "teacher.scratch_vocabulary_size is too small for the train texts",
            found=size,
            expected=f"at least {len(pieces)}",
        )
    words = sorted(
        (word for word in counts if len(word) > 1),
        key=lambda word: (-counts[word], word),
    )
    pieces += words[: size - len(pieces)]
    return {piece: number for number, piece in enumerate(pieces)}
