"""Fonts for labels in scripts that matplotlib's own font does not have."""

import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib import font_manager

log = logging.getLogger(__name__)

BASE = "DejaVu Sans"  # comes with matplotlib
_OWN = Path(matplotlib.get_data_path(), "fonts", "ttf")
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")
# Boxes; bitmaps; what matplotlib calls a truncated file.
_UNUSABLE = ("Last Resort", "Noto Color Emoji", "UNAVAILABLE")


def families(texts: Iterable[str]) -> list[str]:
    """The font families to draw `texts` with, the first for most of them.

    Only as many as needed, so labels in Latin letters look the same on every machine.
    Warns if no installed font has some characters.
    """
    missing = {ord(one) for text in texts for one in text if _is_drawn(one)}
    missing -= _characters(_OWN / "DejaVuSans.ttf")
    found = [BASE]
    if missing:
        has = {name: missing & _characters(file) for name, file in _installed().items()}
        while missing:
            # Of equals, one without serifs, then the first by name.
            best = max(has, key=lambda name: (len(has[name] & missing), "Sans" in name))
            if not has[best] & missing:
                break
            found.append(best)
            missing -= has[best]
    if missing:
        _warn("".join(map(chr, sorted(missing))))
    return found


def _installed() -> dict[str, str]:
    """The families that are installed now, and the file of each one's regular font.

    Replaces matplotlib's list, which comes from its cache and can be out of date. Of
    fonts of the same name, matplotlib takes the first: its own, then by path.
    """
    fonts = font_manager.FontManager().ttflist  # without files that cannot be opened
    fonts.sort(key=lambda font: (Path(font.fname).parent != _OWN, font.fname))
    font_manager.fontManager.ttflist = fonts
    files = {
        font.name: font.fname
        for font in reversed(fonts)
        if font.weight == 400
        and font.style == font.stretch == "normal"
        and not font.name.startswith(_UNUSABLE)
    }
    return dict(sorted(files.items()))


def _is_drawn(character: str) -> bool:
    """Whether it needs a glyph: it is no space, control or format character."""
    return unicodedata.category(character)[0] not in "CZ"


def _characters(file: str | Path) -> set[int]:
    """The code points that a font has glyphs for."""
    return set(font_manager.get_font(file).get_charmap())


def _warn(characters: str) -> None:
    """Name the scripts of `characters`, and what to install."""
    scripts = {
        "symbols"
        if unicodedata.category(one).startswith("S")
        else unicodedata.name(one, "unknown").split()[0]
        for one in characters
    }
    packages = {
        "fonts-noto-cjk"
        if script in _CJK
        else "fonts-symbola"
        if script == "symbols"
        else "fonts-noto-core"
        for script in scripts
    }
    log.warning(
        "no installed font has %d characters of the figures' labels (%s: %s); pictures "
        "show boxes (index.html and figure2.svg show them in the reader's fonts); "
        "fix: apt install %s, then aln-pipeline report --force",
        len(characters),
        ", ".join(sorted(scripts)),
        characters[:20],
        " ".join(sorted(packages)),
    )
