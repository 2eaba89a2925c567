"""Normalise text, and list names in messages.

All stages compare texts in one normalised form: references, the output of recognisers
and the keys of the teacher's targets. Case and punctuation are removed, because speech
has neither. Words do not change: `2` does not become `two`, `gonna` not `going to`,
`colour` not `color`.
"""

import unicodedata
from collections.abc import Sequence

from stages.core.hashing import hash_bytes

# Characters used as apostrophes that NFKC does not unify. NFKC produces some of them
# (from U+0149) and decomposes one (U+00B4), so they are replaced before and after it.
_APOSTROPHES = dict.fromkeys(map(ord, "`\u00b4\u2018\u2019\u02b9\u02bc\u2032"), "'")


def normalise_text(text: str) -> str:
    """Lower-case letters, marks, digits and inner apostrophes, with single spaces.

    Unicode is normalised with NFKC, all kinds of apostrophes become `'`, invisible
    characters (soft hyphens, joiners) are removed, and all others separate words:
    `Turn-on the “Kids’ lamp”, it's 5 o'clock!` becomes `turn on the kids lamp it's 5
    o'clock`. Normalising twice gives the same text as normalising once.
    """
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    # A lower-case letter can combine with a mark where its capital does not.
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    kept = "".join(
        char if unicodedata.category(char)[0] in "LMN" or char == "'" else " "
        for char in text
    )
    return " ".join(word for part in kept.split() if (word := part.strip("'")))


def name_some(names: Sequence[str], most: int = 3) -> str:
    """The first names and the number of the others: `a, b, c and 4 more`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def text_key(text: str) -> str:
    """The key of a text's target: the hash of the normalised text."""
    return hash_bytes(normalise_text(text).encode())
