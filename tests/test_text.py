"""Spellings of one wording have the same normalised form."""

import random
import sys
import unicodedata

import pytest

from stages.core.text import name_some, normalise_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Turn-on the “Kids’ lamp”, it's 5 o'clock!",
            "turn on the kids lamp it's 5 o'clock",
        ),
        ("WHAT`S  UP\t", "what's up"),
        ("what´s up", "what's up"),
        ("what\uff40s up", "what's up"),
        ("Rus\u02b9 \u0149 d\u02bcart", "rus n d'art"),
        ("a\u0149b", "a'nb"),
        ("J\u030c e\u00ad\u0301", "ǰ é"),
        ("ﬁve ２ a_b", "five 2 a b"),
        ("'quoted' ' - '", "quoted"),
        ("soft\u00adhyphen", "softhyphen"),
        ("cafe\u0301", "café"),
        ("नमस्ते, दुनिया!", "नमस्ते दुनिया"),
        ("?!", ""),
        ("2 gonna colour", "2 gonna colour"),
    ],
)
def test_normalised_text(text, expected):
    assert normalise_text(text) == expected
    assert normalise_text(expected) == expected


def test_normalising_twice_changes_nothing():
    characters = [
        char
        for char in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(char) not in ("Cn", "Co", "Cs")
    ]
    assert len(characters) > 100_000
    once = normalise_text(" ".join(f"{char} a{char}b" for char in characters)).split()
    assert normalise_text(" ".join(once)).split() == once
    generator = random.Random(0)
    marks = [c for c in characters if unicodedata.category(c) in ("Mn", "Cf")]
    for _ in range(10_000):
        pools = generator.choices([characters, marks, "aJTIΣ'’"], k=6)
        text = normalise_text("".join(map(generator.choice, pools)))
        assert normalise_text(text) == text, ascii(text)


def test_the_first_names_and_the_number_of_the_others():
    assert name_some(["a", "b", "c"]) == "a, b, c"
    assert name_some(["a", "b", "c", "d"]) == "a, b, c and 1 more"
