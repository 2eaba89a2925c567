"""The names of phonemes, as espeak-ng has them and as the encoder's classes do."""

import re

SPOKEN_SILENCE = "_"


def plain_phoneme(name: str) -> str:
    """An espeak-ng mnemonic without stress and shade; every silence is one."""
    name = name.strip("',%=")
    if name.startswith("_") or not name:
        return SPOKEN_SILENCE
    if name == "a#":
        return "@"
    return re.sub(r"(?<=.)[#\-\[\d]+$", "", name)
