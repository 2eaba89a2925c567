"""The most frequent English words."""

import re

import numpy as np

_WORD = re.compile(r"[a-z]+")
_CONTRACTION = re.compile(r"[a-z]+('[a-z]+)?")
_VOWEL = re.compile(r"[aeiouy]")


def frequent_words(
    count: int, *, contractions: bool = False
) -> tuple[list[str], np.ndarray]:
    """The most frequent English words that can be pronounced, abbreviations left out.

    Args:
        count: number of words; fewer if the list is shorter.
        contractions: whether to include words such as `it's`.

    Returns:
        the words, most frequent first, and each word's share of a text, (count,).

    """
    import wordfreq

    words = [
        word
        for word in wordfreq.top_n_list("en", 2 * count, ascii_only=True)
        if (_CONTRACTION if contractions else _WORD).fullmatch(word)
        and _VOWEL.search(word)
        and (len(word) > 1 or word in ("a", "i"))
    ][:count]
    return words, np.array([wordfreq.word_frequency(word, "en") for word in words])
