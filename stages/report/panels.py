"""Charts of one or more panels, as a picture, an SVG file, or for the HTML page.

On the page, panels are SVG elements that wrap like words; their text is in the page's
fonts, and text, rules and ground have the colours of its CSS variables --ink, --soft,
--line and --card.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.report.style import GROUND, INK, RULE, SOFT, columns

WIDTH = 4.2
"""Of every panel on the page, in inches of its text's size."""
_TOP = 0.4  # inches, for the title
_RIGHT = 0.15  # inches
_LINE = 0.23  # inches from one entry of a legend to the next
_VARIABLES = {INK: "--ink", SOFT: "--soft", RULE: "--line", GROUND: "--card"}
_SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title: shown above it, and read by screen readers.
        draw: draws into the axes.
        width: in inches, of all.
        height: in inches, of all.
        left: room for the labels of the y-axis, in inches.
        bottom: room for the labels of the x-axis, in inches.
    """

    title: str
    draw: Callable[[Axes], None]
    width: float = WIDTH
    height: float = 3.1
    left: float = 0.45
    bottom: float = 0.5


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        panels: next to each other in a picture, wrapped on the page.
        keys: for all panels, the styles of lines with their labels.
    """

    panels: Sequence[Panel]
    keys: Sequence[Mapping[str, Any]] = ()


def png(chart: Chart) -> bytes:
    """The figure as a picture, without matplotlib's version in the metadata."""
    stream = io.BytesIO()
    _row(chart).savefig(
        stream,
        format="png",
        bbox_inches="tight",
        pad_inches=0.12,
        metadata={"Software": None},
    )
    return stream.getvalue()


def svg(chart: Chart, name: str) -> bytes:
    """The figure as an SVG file, whose text is text in the reader's fonts."""
    root = _svg_root(_row(chart), name)
    root.set("font-family", "sans-serif")
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def html(chart: Chart, name: str) -> str:
    """The figure for a page: its panels, as wide as their places, and its keys.

    Args:
        chart: the figure.
        name: tells its ids from those of the page's other figures.
    """
    panels = "\n".join(
        _element(_row(Chart([replace(panel, width=WIDTH)])), f"{name} {number}", panel)
        for number, panel in enumerate(chart.panels)
    )
    keys = [
        f"<span>{_element(_sample(style), f'{name} key {number}')} "
        f"<bdi>{escape(style['label'])}</bdi></span>"
        for number, style in enumerate(chart.keys)
    ]
    found = f'<div class="panels">\n{panels}\n</div>'
    return f'{found}\n<p class="keys">{" ".join(keys)}</p>' if keys else found


def _row(chart: Chart) -> Figure:
    """Its panels next to each other, and the keys on the right."""
    panels = [*chart.panels, *([_legend(chart.keys)] if chart.keys else [])]
    width = sum(panel.width for panel in panels)
    height = max(panel.height for panel in panels)
    figure = Figure(figsize=(width, height))
    x = 0.0
    for panel in panels:
        wide = panel.width - panel.left - _RIGHT
        high = panel.height - panel.bottom - _TOP
        low = height - _TOP - high
        axes = figure.add_axes(
            ((x + panel.left) / width, low / height, wide / width, high / height)
        )
        panel.draw(axes)
        axes.set_title(panel.title, x=(0.05 - panel.left) / wide)
        x += panel.width
    return figure


def _legend(keys: Sequence[Mapping[str, Any]]) -> Panel:
    """The labels below one another, each with a sample of its line."""
    labels = [style["label"] for style in keys]
    width = 0.9 + 0.068 * max(map(columns, labels))
    height = _TOP + _LINE * len(keys) + 0.05

    def draw(axes: Axes) -> None:
        axes.set_xlim(0, width - 0.1 - _RIGHT)
        axes.set_ylim(height - 0.05 - _TOP, 0)
        axes.set_axis_off()
        for place, style in enumerate(keys):
            y = _LINE * (place + 0.5)
            axes.plot([0.03, 0.2, 0.37], 3 * [y], markevery=[1], **style)
            axes.text(0.47, y, style["label"], va="center_baseline", fontsize=8.5)

    return Panel("", draw, width, height, left=0.1, bottom=0.05)


def _sample(style: Mapping[str, Any]) -> Figure:
    """A piece of a line."""
    figure = Figure(figsize=(0.4, 0.16))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.plot([-1, 0, 1], [0, 0, 0], markevery=[1], **style)
    axes.set_axis_off()
    return figure


def _element(figure: Figure, salt: str, panel: Panel | None = None) -> str:
    """The figure as an SVG element for a page, in the page's fonts and colours."""
    figure.patch.set_visible(False)
    root = _svg_root(figure, salt)
    if panel:
        del root.attrib["width"], root.attrib["height"]
        root.attrib |= {"role": "img", "aria-label": panel.title}
    else:
        root.set("aria-hidden", "true")
    for one in root.iter():
        style = one.get("style", "")
        for colour, variable in _VARIABLES.items():
            style = style.replace(colour, f"var({variable})")
        if style:
            one.set("style", style)
    return ElementTree.tostring(root, encoding="unicode")


def _svg_root(figure: Figure, salt: str) -> ElementTree.Element:
    """The figure as SVG without date, style sheet, fonts, and ids nothing refers to.

    Ids follow from the contents and `salt`.
    """
    stream = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", metadata=metadata)
    root = ElementTree.fromstring(stream.getvalue())
    # The style sheet would apply to the whole page.
    root.remove(root[0])
    root.set("style", "stroke-linejoin: round")
    for group in root.iter(f"{_SVG}g"):
        group.attrib.pop("id", None)
    for text in root.iter(f"{_SVG}text"):
        text.set("style", re.sub(r"font-family: [^;]*; ", "", text.attrib["style"]))
    return root


ElementTree.register_namespace("", _SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
