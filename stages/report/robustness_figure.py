"""The students' accuracy by degradation."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from stages.report.panels import Chart, Panel
from stages.report.robustness import CLEAN, DegradedScores
from stages.report.style import line_style, shown
from stages.report.systems import System


def robustness_chart(
    students: Sequence[System], scores: Sequence[DegradedScores], accuracy: str
) -> Chart:
    """Accuracy by signal-to-noise ratio, a panel per noise; then without noise.

    Lines are means over seeds, bands and bars one deviation to either side.

    Args:
        students: in the order to show them.
        scores: by degradation, `clean` among them.
        accuracy: what it is called.
    """
    noises = list(dict.fromkeys(s.degradation for s in scores if s.snr is not None))
    (clean,) = (s for s in scores if s.degradation == CLEAN)
    others = [s for s in scores if s.snr is None and s is not clean]
    ends = [_means(scores, student) for student in students]
    low = min((mean - deviation).min() for mean, deviation in ends)
    high = max((mean + deviation).max() for mean, deviation in ends)
    limits = (max(low - 3, -1), min(high + 3, 101))
    panels = []
    for noise in noises:
        noisy = [s for s in scores if s.degradation == noise]
        title = f"Test {accuracy} (%), {shown(noise)}"
        draw = partial(_noise_lines, students, clean, noisy, limits)
        panels.append(Panel(title, draw, width=3.7))
    if others:
        title = "Without noise" if noises else f"Test {accuracy} (%)"
        draw = partial(_points_without_noise, students, others, limits)
        panels.append(Panel(title, draw, width=1.3 + 1.2 * len(others)))
    styles = [line_style(student, students) for student in students]
    return Chart(panels, styles)


def _noise_lines(
    students: Sequence[System],
    clean: DegradedScores,
    noisy: Sequence[DegradedScores],
    limits: tuple[float, float],
    axes: Axes,
) -> None:
    """Accuracy by signal-to-noise ratio, a line per student."""
    # The loudest noise is on the right; `clean` is one step left of the faintest.
    marks = {-scores.snr: scores for scores in noisy if scores.snr is not None}
    step = max(5.0, (max(marks) - min(marks)) / 4)
    marks[min(marks) - step] = clean
    places = sorted(marks)
    for student in students:
        mean, deviation = _means([marks[place] for place in places], student)
        style = line_style(student, students)
        axes.plot(places[1:], mean[1:], **style)
        # Thin to `clean`, which has no ratio, so its slope has no meaning.
        axes.plot(places[:2], mean[:2], **style | {"linewidth": 0.7})
        axes.fill_between(
            places,
            mean - deviation,
            mean + deviation,
            color=style["color"],
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xticks(places, [CLEAN, *(f"{-place:g}" for place in places[1:])])
    axes.set_xlabel("signal-to-noise ratio (dB)")
    axes.set_ylim(limits)


def _points_without_noise(
    students: Sequence[System],
    scores: Sequence[DegradedScores],
    limits: tuple[float, float],
    axes: Axes,
) -> None:
    """Accuracy for each degradation without a ratio, a point per student."""
    for place, student in enumerate(students):
        mean, deviation = _means(scores, student)
        shift = 0.7 * ((place + 0.5) / len(students) - 0.5)
        axes.errorbar(
            np.arange(len(scores)) + shift,
            mean,
            yerr=deviation,
            elinewidth=1.2,
            **line_style(student, students) | {"linestyle": "none"},
        )
    names = [shown(one.degradation).replace(", ", ",\n") for one in scores]
    axes.set_xticks(range(len(scores)), names)
    axes.set_xlim(-0.5, len(scores) - 0.5)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(limits)


def _means(
    scores: Sequence[DegradedScores], student: System
) -> tuple[np.ndarray, np.ndarray]:
    """A student's accuracy and its deviation for each degradation."""
    rows = [one.rows[student.name] for one in scores]
    return (
        np.array([row["accuracy"] for row in rows]),
        np.array([row["accuracy_std"] for row in rows]),
    )
