"""Curves of the students: losses and accuracy by epoch, calibration, rejection."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from stages.report.panels import Chart, Panel
from stages.report.rejection import Rejection
from stages.report.style import GROUND, RULE, SOFT, line_style
from stages.report.systems import System

_HISTORY = {
    "transfer_loss": "Transfer loss on train",
    "intent_loss": "Intent loss on train",
    "valid_accuracy": "Accuracy on valid (%)",
}
_FEWEST = 5  # utterances of a bin that is shown
_PERFECT: dict[str, Any] = {
    "label": "confidence = accuracy",
    "color": SOFT,
    "linewidth": 0.9,
    "linestyle": (0, (4, 3)),
}


def history_chart(students: Sequence[System]) -> Chart:
    """Both losses and valid accuracy by epoch, means over seeds, a line per student."""
    styles = {one.name: line_style(one, students) for one in students}
    panels = []
    for column, title in _HISTORY.items():
        curves = {
            one.name: one.history.groupby("epoch")[column].mean().dropna()
            for one in students
        }
        curves = {name: curve for name, curve in curves.items() if len(curve)}
        if curves:
            panels.append(Panel(title, partial(_draw_history, curves, styles)))
    return Chart(panels, list(styles.values()))


def _draw_history(
    curves: Mapping[str, Any], styles: Mapping[str, dict[str, Any]], axes: Axes
) -> None:
    for place, (name, curve) in enumerate(curves.items()):
        # Markers of different lines on different epochs.
        step = max(1, len(curve) // 5)
        axes.plot(
            curve.index, curve, markevery=(place % 6 * step // 6, step), **styles[name]
        )
    if "loss" in str(curve.name) and all((one > 0).all() for one in curves.values()):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("epoch")
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def calibration_chart(
    students: Sequence[System],
    calibration: Mapping[str, Sequence[Mapping[str, Any]]],
    detailed: System,
) -> Chart:
    """Accuracy by confidence on test: one student in detail, the others thin.

    Args:
        students: in the order to show them.
        calibration: `calibration_bins` of each, by name.
        detailed: of the students, the one with a line in full, and bars at the bottom:
            its utterances in each bin.
    """
    thin = {"linewidth": 0.9, "marker": None}
    styles = {
        one.name: line_style(one, students)
        | (thin if one.name != detailed.name else {})
        for one in students
    }

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], **_PERFECT)
        bins = calibration[detailed.name]
        most = max(one["utterances"] for one in bins)
        axes.bar(
            [100 * one["low"] for one in bins],
            [15 * one["utterances"] / most for one in bins],
            [100 * (one["high"] - one["low"]) for one in bins],
            align="edge",
            color=RULE,
            edgecolor=GROUND,
            linewidth=0.8,
        )
        for one in sorted(students, key=lambda one: one.name == detailed.name):
            points = [
                (each["confidence"], each["accuracy"])
                for each in calibration[one.name]
                if each["utterances"] >= _FEWEST
            ]
            axes.plot(*np.reshape(points, (-1, 2)).T, **styles[one.name])
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 101)
        axes.set_xlabel(f"confidence (%), where at least {_FEWEST} utterances have it")

    bars = {"label": f"utterances, {detailed.title}", "color": RULE, "linewidth": 7}
    panel = Panel("Accuracy on test (%) by confidence", draw, height=3.6)
    return Chart([panel], [*styles.values(), _PERFECT, bars])


def rejection_chart(students: Sequence[System], rejection: Rejection) -> Chart:
    """False accepts against the accepted commands of test, a panel for each kind.

    Args:
        students: in the order to show them.
        rejection: with the operating points, which are marked.
    """
    styles = {one.name: line_style(one, students) for one in students}
    accepted = {name: 100 - rejection.rows[name]["test_rejected"] for name in styles}

    def draw(kind: str, axes: Axes) -> None:
        for name, style in styles.items():
            curve = rejection.curves[name][kind]
            axes.plot(*zip(*curve, strict=True), **style | {"marker": None})
            axes.plot(
                accepted[name],
                rejection.rows[name][f"{kind}_false_accepts"],
                **style | {"markersize": 7},
            )
        axes.set_xlim(min(50, *accepted.values()) - 0.5, 100.5)
        axes.set_ylim(-1, 101)
        axes.set_xlabel("accepted commands (%)")

    panels = [
        Panel(f"False accepts (%): {kind}", partial(draw, kind))
        for kind in rejection.others
    ]
    return Chart(panels, list(styles.values()))
