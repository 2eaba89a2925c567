"""Names of phonemes: espeak-ng's mnemonics and the encoder's classes."""

import re

SPOKEN_SILENCE = "_"


def plain_phoneme(name: str) -> str:
    """An espeak-ng mnemonic without stress and variant marks; one name for silence."""
    name = name.strip("',%=")
    if name.startswith("_") or not name:
        return SPOKEN_SILENCE
    if name == "a#":
        return "@"
    return re.sub(r"(?<=.)[#\-\[\d]+$", "", name)
