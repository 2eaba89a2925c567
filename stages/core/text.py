"""Normalising text: one function, so that all stages mean the same wording.

What is spoken has neither case nor punctuation, and whoever wrote it down put in some
of his own. References, a recogniser's output and the keys of the teacher's targets all
pass through here, so that two spellings of one wording meet. Words are not touched:
`2` is not `two`, `gonna` not `going to`, `colour` not `color`.
"""

import unicodedata
from collections.abc import Sequence

# What keyboards and editors put for an apostrophe, besides what NFKC unites. NFKC makes
# some of them (of U+0149) and takes one apart (U+00B4), so they are replaced twice.
_APOSTROPHES = dict.fromkeys(map(ord, "`\u00b4\u2018\u2019\u02b9\u02bc\u2032"), "'")


def normalise_text(text: str) -> str:
    """Lower-case letters, marks, digits and inner apostrophes; single spaces.

    Unicode's compatible forms are united (NFKC), apostrophes of all shapes are one,
    characters that nobody sees (soft hyphen, joiners) vanish, everything else
    separates words: `Turn-on the “Kids’ lamp”, it's 5 o'clock!` becomes `turn on the
    kids lamp it's 5 o'clock`. A text so normalised stays as it is.
    """
    text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    # A small letter may unite with a mark that its capital stands beside.
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    kept = "".join(
        char if unicodedata.category(char)[0] in "LMN" or char == "'" else " "
        for char in text
    )
    return " ".join(word for part in kept.split() if (word := part.strip("'")))


def name_some(names: Sequence[str], most: int = 3) -> str:
    """The first `most` of `names` and how many more: `a, b, c and 4 more`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
