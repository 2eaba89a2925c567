"""Labels of a corpus on paper: Markdown and fonts."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables._g_l_y_f import Glyph
from markdown_it import MarkdownIt
from matplotlib import font_manager

from stages.core.markdown import code, escape
from stages.export.card import model_card
from stages.report.fonts import BASE, families

LABELS = [
    *("$x$", "a`b", "``", "` `", "`|`", "<script>", "&lt;", "[x](y)", "![x](y)"),
    *("|", "a|b", r"a\|b", r"a\\|", "**", "*a*", "_a_", "__a__", "a_b", "~~a~~"),
    *("\\", "back\\", r"\*a\*", "# a", "- a", "1. a", "> a", "---", "<http://a.b>"),
    *("\u202eright to left\u200f", "😀", "你好", 300 * "x", "two\nlines"),
]


def texts(markdown: str) -> list[list[tuple[str, str]]]:
    """Kind and content of what each paragraph or cell contains."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    blocks = [one.children for one in parser.parse(markdown) if one.type == "inline"]
    found = []
    for block in blocks:
        parts: list[tuple[str, str]] = []
        for one in block or []:
            if parts and one.type == parts[-1][0] == "text":
                parts[-1] = ("text", parts[-1][1] + one.content)
            else:
                parts.append((one.type, one.content))
        found.append(parts)
    return found


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_shown_as_it_is(label):
    shown = " ".join(label.split())
    table = f"| a | b | c |\n|---|---|---|\n| {code(label)} | {escape(label)} | end |"
    cells = texts(table)[3:]
    assert cells == [[("code_inline", shown)], [("text", shown)], [("text", "end")]]
    assert texts(f"A word, {escape(label)}.") == [[("text", f"A word, {shown}.")]]


def test_a_dollar_starts_no_formula_on_github():
    assert escape("$x$") == r"\$x\$"


def test_a_label_without_text_is_a_dash():
    assert code(" ") == code("") == "–"


def test_a_model_card_shows_the_name_of_an_encoder_as_it_is(tmp_path):
    encoder = "<b>x</b> *y* [z](http://a.b) $q$"
    about = {
        "trained_on": {
            "corpus": "mine",
            "encoder": encoder,
            "utterances": {"train": 1},
            "speakers": {"train": 1},
        },
        "seeds": [1],
        "student": "baseline2",
        "intents": [],
        "frame_step": 160,
        "sample_rate": 16_000,
        "accuracy": {"valid": 1.0, "test": 1.0, "test_with_rejection": 1.0},
        "weights": "float32",
        "temperature": 1.0,
        "rejection": {"score": "energy", "quietest": 0.1, "share": 0.05},
    }
    measured = dict.fromkeys(("test_ece", "test_ece_calibrated", "test_rejected"), 1.0)
    (tmp_path / "results.json").write_text('{"systems": {}}')
    card = model_card(about, {**measured, "others": {}}, tmp_path)
    (shown,) = [
        part for parts in texts(card) for part in parts if "Speech encoder" in part[1]
    ]
    assert shown == ("text", f"Speech encoder, frozen: {encoder}.")


def write_font(path: Path, family: str, characters: str) -> None:
    """A font that draws all `characters` as nothing."""
    names = [f"one{place}" for place in range(len(characters))]
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", *names])
    font.setupCharacterMap(dict(zip(map(ord, characters), names, strict=True)))
    font.setupGlyf({name: Glyph() for name in (".notdef", *names)})
    font.setupHorizontalMetrics({name: (500, 0) for name in (".notdef", *names)})
    font.setupHorizontalHeader()
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    font.save(path)


def test_fonts_are_added_for_the_characters_that_need_them(
    tmp_path, monkeypatch, caplog
):
    search = font_manager.findSystemFonts
    monkeypatch.setattr(
        font_manager,
        "findSystemFonts",
        lambda folders=None, fontext="ttf": search(folders or [tmp_path], fontext),
    )
    listed = font_manager.fontManager.ttflist
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    with caplog.at_level(logging.WARNING):
        assert families(["lights on", "größer\u200b", "€"]) == [BASE]
    assert font_manager.fontManager.ttflist is listed
    assert not caplog.records
    assert families(["你好", "नमस्ते"]) == [BASE]
    (line,) = caplog.messages
    assert "CJK, DEVANAGARI" in line and "你" in line
    assert "apt install fonts-noto-cjk fonts-noto-core" in line
    caplog.clear()
    for family, characters in (
        ("B Few", "你"),
        ("C Most", "你好"),
        ("D Most", "你好"),
        ("Last Resort High", "你好नमस्ते"),
        ("E Other", "नमस्ते"),
        (BASE, "你好नमस्ते"),
    ):
        write_font(tmp_path / f"{family}.ttf", family, characters)
    assert families(["你好", "नमस्ते"]) == [BASE, "E Other", "C Most"]
    assert Path(font_manager.findfont(BASE)).parent != tmp_path
    assert not caplog.records


DRAWN = """
import sys, warnings
import matplotlib
from matplotlib.figure import Figure
from stages.report.fonts import families

label = "你好नमस्ते𠀀"
warnings.simplefilter("error")  # such as of a missing glyph
matplotlib.rcParams["font.family"] = families([label])
figure = Figure()
figure.text(0, 0, label)
figure.savefig(sys.argv[1])
print(*matplotlib.rcParams["font.family"], sep=", ")
"""


def test_fonts_are_those_installed_now_not_those_that_matplotlib_listed(tmp_path):
    fonts, label = tmp_path / "data" / "fonts", "你好नमस्ते𠀀"
    for name in ("Removed", "Broken"):
        write_font(fonts / f"{name}.ttf", f"A {name}", label)
    environment = os.environ | {
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
    }

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.check_output(command, env=environment, text=True)

    python("-c", "import matplotlib.font_manager")
    (kept,) = (tmp_path / "matplotlib").glob("fontlist*.json")
    before = kept.read_bytes()
    assert b"Removed.ttf" in before and b"Broken.ttf" in before

    (fonts / "Removed.ttf").unlink()
    (fonts / "Broken.ttf").write_bytes(b"no font")
    write_font(fonts / "New.ttf", "Z New", label)
    size = TTFont(fonts / "New.ttf").reader.tables["name"].offset
    truncated = (fonts / "New.ttf").read_bytes()[:size]
    (fonts / "Truncated.ttf").write_bytes(truncated)
    assert python("-c", DRAWN, str(tmp_path / "x.png")) == f"{BASE}, Z New\n"
    assert kept.read_bytes() == before
