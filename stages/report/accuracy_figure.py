"""Accuracy by system: the first picture of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from stages.report.panels import Chart, Panel
from stages.report.published import published_accuracy
from stages.report.style import GROUND, INK, KIND_COLOURS, RULE, SOFT, shown
from stages.report.systems import System

_PAPER: dict[str, Any] = {
    "color": INK,
    "marker": "D",
    "markersize": 5,
    "markerfacecolor": GROUND,
    "linestyle": "none",
    "label": "the paper, test",
    "clip_on": False,
}


def accuracy_chart(
    title: str,
    corpus: str,
    systems: Sequence[System],
    rows: Mapping[str, Mapping[str, Any]],
) -> Chart:
    """Test accuracy with its interval, valid, and the paper's, one line per system.

    The numbers are test's, with the deviation over seeds.

    Args:
        title: of the figure.
        corpus: its name.
        systems: in the order to show them.
        rows: `evaluate` of each, by name.
    """

    def draw(axes: Axes) -> None:
        marked = False
        values = []
        for place, system in enumerate(systems):
            row = rows[system.name]
            values += [*row["test_interval"], row["valid_accuracy"]]
            _draw_system(axes, place, system, row)
            published = published_accuracy(system.kind, system.alpha).get(corpus)
            if published is not None:
                marked = True
                values.append(published)
                axes.plot(published, place, zorder=4, **_PAPER)
        axes.set_ylim(len(systems) - 0.5, -1.1)
        axes.set_yticks([])
        axes.set_xlim(max(0, 5 * ((min(values) - 2) // 5)), 100)
        axes.grid(visible=False)
        ticks = axes.get_xticks()
        for place in range(len(systems)):  # a ruler for each
            ruler: dict[str, Any] = {
                "color": RULE,
                "linewidth": 0.8,
                "zorder": 1,
                "clip_on": False,
            }
            axes.plot(ticks, len(ticks) * [place], "|-", **ruler)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xlabel("accuracy (%)")
        axes.legend(
            handles=_samples(marked),
            loc="upper left",
            bbox_to_anchor=(-0.02, 1.04),
            ncols=3,
            columnspacing=1.4,
        )

    panel = Panel(
        f"{title}, {shown(corpus)}",
        draw,
        height=1.2 + 0.42 * len(systems),
        left=0.12,
    )
    return Chart([panel])


def _draw_system(
    axes: Axes, place: int, system: System, row: Mapping[str, Any]
) -> None:
    """A system's title and number, below them its dots and interval."""
    colour = KIND_COLOURS[system.kind]
    axes.plot(
        row["test_interval"],
        [place, place],
        color=colour,
        linewidth=2.4,
        solid_capstyle="round",
        clip_on=False,
    )
    axes.plot(
        row["valid_accuracy"],
        place,
        "o",
        color=colour,
        markersize=5,
        markerfacecolor=GROUND,
        clip_on=False,
    )
    axes.plot(
        row["test_accuracy"],
        place,
        "o",
        color=colour,
        markersize=7.5,
        markeredgecolor=GROUND,
        clip_on=False,
    )
    number = f"{row['test_accuracy']:.1f}"
    if row["seeds"] > 1:
        number += f" ± {row['test_accuracy_std']:.1f}"
    above: dict[str, Any] = {
        "xycoords": axes.get_yaxis_transform(),
        "textcoords": "offset points",
    }
    axes.annotate(system.title, (0, place), (0, 7), **above)
    axes.annotate(number, (1, place), (0, 7), ha="right", fontweight="bold", **above)


def _samples(marked: bool) -> list[Line2D]:
    styles: list[dict[str, Any]] = [
        {"label": "test, 95% interval", "marker": "o", "markersize": 7, "color": SOFT},
        {
            "label": "valid",
            "marker": "o",
            "markersize": 5,
            "markerfacecolor": GROUND,
            "color": SOFT,
            "linestyle": "none",
        },
    ]
    return [Line2D([], [], **style) for style in styles + [_PAPER] * marked]
