"""Normalising transcripts: one function, so that all stages mean the same text."""

import re
import unicodedata

_NOT_WORD = re.compile(r"[^\w' ]+")


def normalise_text(text: str) -> str:
    """Lower-case, NFKC, punctuation but apostrophes to spaces, single spaces."""
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    return " ".join(_NOT_WORD.sub(" ", text).replace("_", " ").split())
