"""Keys of texts in ATIS: equal for a label and a transcript of the same words."""

import re

from stages.core.text import normalise_text

_HESITATIONS = {"uh", "um", "er", "ah", "eh", "mm", "hm"}
_SMALL = """zero one two three four five six seven eight nine ten eleven twelve
thirteen fourteen fifteen sixteen seventeen eighteen nineteen"""
_TENS = """zero ten twenty thirty forty fifty sixty seventy eighty ninety"""
_NUMBERS = {word: 10 * tens for tens, word in enumerate(_TENS.split())} | {
    word: number for number, word in enumerate(_SMALL.split())
}


def match_key(text: str) -> str:
    """The words of a text without spaces, with all numbers as digits.

    Transcripts spell numbers and letters («eight thirty eight a m», «d c ten»), labels
    mostly do not («838 am», «dc10»). «saint» becomes «st»; hesitations are left out.
    """
    words = [
        "st" if word == "saint" else word
        for word in normalise_text(text).split()
        if word not in _HESITATIONS
    ]
    return re.sub(r"[\W_]", "", "".join(_with_digits(words)))


def transcript_keys(transcript: str) -> tuple[str, ...]:
    """The possible keys of a transcript's label, the most likely first.

    Marks of `.sro` (LDC94S19/sro_spec.html; the EAGLES handbook of 1997, section on
    SpeechDat, on how ATIS differs): `[noise]` and `[uh]`; `fli-`, a word cut off;
    `<word>`, which the speaker corrected and not all text releases have; `*word*`,
    mispronounced; `~`, cut by the recording. `!` and `:`, for stress and length, are
    also removed. Of `.lsn`: the utterance's name at the end.
    """
    lines = [line for line in transcript.splitlines() if not line.startswith(";")]
    text = re.sub(r"\(\s*\w{7,8}\s*\)\s*$", "", " ".join(lines))
    text = re.sub(r"\[[^\]]*\]", " ", text)
    text = re.sub(r"(?<![^\s<])[^\s<>]*-(?=[\s>]|$)", " ", text)
    text = re.sub(r"[*~!:]", "", text)
    keys = [match_key(text), match_key(re.sub(r"<+[^<>]*>+", " ", text))]
    return tuple(dict.fromkeys(key for key in keys if key))


def _with_digits(words: list[str]) -> list[str]:
    """Numbers in words as digits: «eight thirty eight» is 8, 38; «two hundred» 200."""
    words = [_zero_of(words, place) for place in range(len(words))]
    done: list[str] = []
    number: int | None = None
    room = 0  # A smaller number can be added: «thirty» takes «eight», not «ten».

    def finish() -> None:
        nonlocal number, room
        if number is not None:
            done.append(str(number))
        number, room = None, 0

    for place, word in enumerate(words):
        follows = words[place + 1] if place + 1 < len(words) else ""
        if word in _NUMBERS:
            value = _NUMBERS[word]
            if number is not None and 0 < value < room:
                number += value
            else:
                finish()
                number = value
            room = 10 if value >= 20 else 0
        elif word == "hundred":
            if number is None or not 0 < number % 1000 < 100:
                finish()
                number = 1
            number += number % 1000 * 99
            room = 100
        elif word == "thousand":
            if number is None or not 0 < number < 1000:
                finish()
                number = 1
            number *= 1000
            room = 1000
        elif word != "and" or room < 100 or follows not in _NUMBERS:
            finish()
            done.append(word)
    finish()
    return done


def _zero_of(words: list[str], place: int) -> str:
    """«zero» for an «oh» or «o» among numbers, as in «seven oh five»."""
    word = words[place]
    if word not in ("o", "oh"):
        return word
    near = words[place + 1 : place + 2]
    if word == "oh":
        near += words[place - 1 : place]
    return "zero" if any(one in _NUMBERS or one == "oh" for one in near) else word
