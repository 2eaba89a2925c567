"""How figures look: colours, markers, fonts, and labels cut to a length.

Colours have a contrast of at least 3:1 on white and on the page's dark ground, and can
be told apart with each kind of colour blindness.
"""

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style

from stages.report.fonts import BASE
from stages.report.params import MOST_INTENTS
from stages.report.systems import System

INK = "#22272e"
SOFT = "#68717b"
RULE = "#dfe3e8"
GROUND = "#ffffff"
STYLE = {
    "text.parse_math": False,  # labels can have dollar signs
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": GROUND,
    "figure.dpi": 150,
}
KIND_COLOURS = {
    "baseline1_text": "#90909c",
    "baseline1_asr": "#846c60",
    "baseline2": "#546c90",
    "aln_linguistic": "#c03c0c",
    "aln": "#3c84f0",
    "recommended": "#00a848",
}
_KIND_MARKERS = {"baseline2": "o", "aln_linguistic": "s", "aln": "^"}
# From the largest α to the smallest.
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
# The first ones are the easiest to tell apart.
INTENT_COLOURS = (
    "#7884f0",
    "#e46c0c",
    "#00a86c",
    "#fc0c48",
    "#9c84b4",
    "#906078",
    "#a824f0",
    "#48783c",
    "#a85400",
    "#b454c0",
)
assert len(INTENT_COLOURS) == MOST_INTENTS
_LONGEST_LABEL = 40  # columns


@contextmanager
def styled(families: Sequence[str] = (BASE,)) -> Iterator[None]:
    """Draw in our style with these fonts, whatever the user's settings are."""
    style = {**STYLE, "font.family": list(families)}
    with matplotlib.style.context(["default", style]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # `families` warns
        yield


def line_style(system: System, systems: Sequence[System]) -> dict[str, Any]:
    """How the line of a system looks: its kind's colour, dashed by its rank in α."""
    alphas = sorted(s.alpha or 0.0 for s in systems if s.kind == system.kind)
    rank = len(alphas) - 1 - alphas.index(system.alpha or 0.0)
    colour = KIND_COLOURS[system.kind]
    return {
        "color": colour,
        "linestyle": _DASHES[rank % len(_DASHES)],
        "marker": _KIND_MARKERS.get(system.kind, "D"),
        "markerfacecolor": GROUND if rank else colour,
        "label": system.title,
    }


def shown(label: str) -> str:
    """A label as a figure shows it: slots separated, a long one cut."""
    text = " ".join(label.replace("|", " · ").split())
    if columns(text) <= _LONGEST_LABEL:
        return text
    while columns(text) >= _LONGEST_LABEL:
        text = text[:-1]
    return text + "…"


def columns(text: str) -> int:
    """The width of a text: a Chinese character is as wide as two Latin letters."""
    wide = (unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + sum(wide)
