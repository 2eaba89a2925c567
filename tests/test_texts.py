import pytest

from stages.texts import normalise_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Turn-on the “Kids’ lamp”, it's 5 o'clock!",
            "turn on the kids lamp it's 5 o'clock",
        ),
        ("WHAT`S  UP\t", "what's up"),
        ("what´s up", "what's up"),
        ("ﬁve ２ a_b", "five 2 a b"),
        ("'quoted' ' - '", "quoted"),
        ("soft\u00adhyphen", "softhyphen"),
        ("cafe\u0301", "café"),
        ("नमस्ते, दुनिया!", "नमस्ते दुनिया"),
        ("?!", ""),
    ],
)
def test_spellings_of_one_wording_meet(text, expected):
    assert normalise_text(text) == expected
    assert normalise_text(expected) == expected


def test_words_are_not_touched():
    assert normalise_text("2 gonna colour") == "2 gonna colour"
