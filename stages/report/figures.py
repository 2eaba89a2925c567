"""The report's figures as PNG bytes: the same data gives the same bytes.

They use `Figure` objects with matplotlib's defaults and `STYLE`, so they need no
display and neither follow nor change the user's matplotlib settings.
"""

import io
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from stages.core.labels import INTENT
from stages.report.findings import Findings
from stages.report.fonts import BASE, families
from stages.report.params import MOST_CONFUSED, MOST_INTENTS
from stages.report.projection import Projection
from stages.report.published import published_accuracy
from stages.report.robustness import CLEAN, DegradedScores
from stages.report.scores import by_slot
from stages.report.systems import System

INK = "#22272e"
FAINT = "#8b939c"
RULE = "#dfe3e8"
STYLE = {
    "font.family": BASE,
    "text.parse_math": False,  # labels can have dollar signs
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "figure.dpi": 150,
}
KIND_COLOURS = {
    "baseline1_text": "#c3c8ce",
    "baseline1_asr": "#98a1ab",
    "baseline2": "#5f6b78",
    "aln_linguistic": "#d08a2e",
    "aln": "#23659b",
    "recommended": "#3f8f5f",
}
# Distinct for colour-blind readers too: Paul Tol's «bright» and four of his «muted».
INTENT_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#332288",
    "#999933",
    "#882255",
    "#777777",
)
assert len(INTENT_COLOURS) == MOST_INTENTS
# Rare errors must be visible, so their colour rises fastest at the start.
_RIGHT = LinearSegmentedColormap.from_list("right", ["#ffffff", "#6fa3cc", "#1d4f7c"])
_WRONG = LinearSegmentedColormap.from_list(
    "wrong", [(0.0, "#ffffff"), (0.05, "#faecd9"), (0.4, "#e0a052"), (1.0, "#a85f12")]
)
_LONGEST_LABEL = 40  # columns
_LONGEST_SIDE = 60.0  # inches
# A legend on the right of the title's line.
_NEXT_TO_TITLE: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "ncols": 3,
    "borderaxespad": 0.4,
    "fontsize": 8,
    "handlelength": 1.0,
    "handleheight": 0.8,
    "columnspacing": 1.2,
}


def draw(found: Findings) -> dict[str, bytes]:
    """Every figure of the report, by file name."""
    students = found.students
    panels = _confusion_panels(found)
    values = [_label(value) for _, shown in panels.values() for value in shown]
    degradations = [scores.degradation for scores in found.robustness]
    with styled(found.corpus, *panels, *values, *degradations):
        files = {
            "accuracy.png": accuracy_figure(found),
            "confusion.png": confusion_figure(panels),
            "figure2.png": projection_figure(found.projection),
            "history.png": history_figure(students, found.accuracy),
        }
        if found.robustness:
            files["robustness.png"] = robustness_figure(
                students, found.robustness, found.corpus, found.accuracy
            )
    return files


@contextmanager
def styled(*labels: str) -> Iterator[None]:
    """Draw in our style, with fonts that have the characters of `labels`."""
    style = {**STYLE, "font.family": families(labels)}
    with matplotlib.style.context(["default", style]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # `families` warns
        yield


def _confusion_panels(found: Findings) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    """By title, what `confusion_figure` draws: one panel, or one for each slot."""
    title = f"{found.chosen.title}, % of the actual"
    tables, slots = by_slot(found.labels, found.chosen.test), found.labels.slots
    if not found.labels.has_slots:
        return {f"Confusion on test, {title} intent": (tables[INTENT], slots[INTENT])}
    panels = {}
    for slot, values in slots.items():
        shown = _most_confused(tables[slot], values)
        what = _label(slot)
        if len(shown) < len(values):
            what += f", {len(shown)} of {len(values)} values"
        panels[f"{what}: {title} value"] = (tables[slot], shown)
    return panels


def _most_confused(rows: pd.DataFrame, values: Sequence[str]) -> list[str]:
    """The `MOST_CONFUSED` values that are in the most errors, in their order."""
    wrong = rows[rows["intent"] != rows["predicted"]]
    errors = Counter([*wrong["intent"], *wrong["predicted"]])
    worst = sorted(values, key=lambda value: -errors[value])[:MOST_CONFUSED]
    return sorted(worst, key=list(values).index)


def confusion_figure(
    panels: Mapping[str, tuple[pd.DataFrame, Sequence[str]]],
) -> bytes:
    """Actual against predicted intents or values, panels one below another.

    Args:
        panels: by title, predictions and the values shown. Each row is in percent of
            its actual value, with predictions that are not shown.
    """
    sides = [
        min(max(0.27 * len(shown), 2.0), _LONGEST_SIDE) for _, shown in panels.values()
    ]
    unit, bottom = sides[0], sides[0]
    figure = Figure(figsize=(unit, unit))
    for (title, (rows, shown)), side in zip(panels.items(), sides, strict=True):
        bottom -= side
        place = (0, bottom / unit, side / unit, side / unit)
        _draw_confusion(figure.add_axes(place), rows, shown, title)
        # Room for the labels below, and the next title.
        bottom -= 1.0 + 0.06 * max(_columns(_label(value)) for value in shown)
    return _png(figure)


def _draw_confusion(
    axes: Axes, rows: pd.DataFrame, shown: Sequence[str], title: str
) -> None:
    """One matrix."""
    table = pd.crosstab(rows["intent"], rows["predicted"])
    table = (
        (100 * table)
        .div(table.sum(axis=1), axis=0)
        .reindex(index=list(shown), columns=list(shown), fill_value=0)
    )
    labels = [_label(value) for value in shown]
    shares = table.to_numpy(dtype=float)
    size = len(shown)
    right = np.eye(size, dtype=bool)
    for hidden, colours in ((~right, _RIGHT), (right, _WRONG)):
        axes.imshow(np.ma.masked_array(shares, hidden), cmap=colours, vmin=0, vmax=100)
    for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
        axes.text(
            column,
            row,
            f"{shares[row, column]:.0f}",
            ha="center",
            va="center",
            fontsize=6,
            color="white" if shares[row, column] > 50 else INK,
        )
    axes.set_xticks(range(size), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(size), labels, fontsize=7)
    axes.set_xticks(np.arange(0.5, size - 1), minor=True)
    axes.set_yticks(np.arange(0.5, size - 1), minor=True)
    axes.grid(which="minor", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(True)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title(title)


def projection_figure(projection: Projection) -> bytes:
    """Figure 2: the embeddings of teacher and student, one plot per epoch."""
    panels = projection.panels
    labels = [_label(intent) for intent in projection.shown]
    figure = Figure(figsize=(4.2 * len(panels), 4.2))
    width = 1 / len(panels)
    for place, (title, points) in enumerate(panels.items()):
        axes = figure.add_axes((place * width, 0, 0.95 * width, 1))
        axes.set_title(title)
        _scatter(axes, *points, projection)
    marks = axes.legend(
        handles=[
            _dot("^", INK, r"BERT, $E_{\mathrm{lang}}$", size=6),
            _dot("o", FAINT, r"student, $\hat{E}_{\mathrm{lang}}$", size=5),
        ],
        **_NEXT_TO_TITLE,
    )
    for text in marks.get_texts():
        text.set_parse_math(True)
    figure.legend(
        handles=[
            Patch(color=colour, label=label)
            for label, colour in zip(labels, INTENT_COLOURS, strict=False)
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.01),
        ncols=3 if max(map(_columns, labels)) < 32 else 2,
        fontsize=8,
        handlelength=1.0,
        handleheight=0.8,
    )
    return _png(figure)


def _scatter(
    axes: Axes, teacher: np.ndarray, student: np.ndarray, projection: Projection
) -> None:
    """The points of one epoch, coloured by intent."""
    for intent, colour in zip(projection.shown, INTENT_COLOURS, strict=False):
        chosen = projection.intents == intent
        axes.scatter(
            student[chosen, 0],
            student[chosen, 1],
            s=13,
            marker="o",
            color=colour,
            alpha=0.6,
            linewidths=0,
        )
        axes.scatter(
            teacher[chosen, 0],
            teacher[chosen, 1],
            s=26,
            marker="^",
            color=colour,
            edgecolors="white",
            linewidths=0.5,
            zorder=3,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.06)
    axes.spines[:].set_visible(True)


def accuracy_figure(found: Findings) -> bytes:
    """Test and valid accuracy of each system, next to the paper's on the same corpus.

    Numbers have the deviation over seeds, test's bars the interval.
    """
    systems = found.systems
    figure, axes = _canvas(5.0, 0.7 * len(systems))
    for place, system in enumerate(systems):
        _accuracy_bars(axes, place, system, found.rows[system.name])
        low, high = found.rows[system.name]["test_interval"]
        mean = found.rows[system.name]["test_accuracy"]
        axes.errorbar(
            mean,
            place - 0.19,
            # Rounding can put the mean just outside the resamples' percentiles.
            xerr=[[max(mean - low, 0)], [max(high - mean, 0)]],
            color=INK,
            elinewidth=0.8,
            capsize=2,
        )
    handles: list[Patch | Line2D] = [
        Patch(color=INK, label="test"),
        Patch(color=_paler(INK, 0.55), label="valid"),
        _dot("_", INK, "95% interval", size=9, edge=INK),
    ]
    if _mark_published(axes, systems, found.corpus):
        handles.append(_dot("D", "white", "the paper, test", size=4.5, edge=INK))
    axes.set_yticks(range(len(systems)), [system.title for system in systems])
    axes.invert_yaxis()
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(f"{found.accuracy} (%)")
    axes.grid(axis="x")
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    what = "Frame" if found.labels.has_slots else "Intent"
    axes.set_title(f"{what} accuracy, {found.corpus}")
    axes.legend(handles=handles, **_NEXT_TO_TITLE)
    return _png(figure)


def _accuracy_bars(
    axes: Axes, place: int, system: System, row: Mapping[str, float]
) -> None:
    """A system's bar for test, above it the one for valid, and their numbers."""
    colour = KIND_COLOURS[system.kind]
    for split, shift, tone in (("test", -0.19, 0.0), ("valid", 0.19, 0.55)):
        mean = row[f"{split}_accuracy"]
        axes.barh(place + shift, mean, 0.34, color=_paler(colour, tone))
        label = f"{mean:.1f}"
        if row["seeds"] > 1:
            label += f" ± {row[f'{split}_accuracy_std']:.1f}"
        axes.text(
            103,
            place + shift,
            label,
            va="center",
            fontsize=7.5,
            color=INK if split == "test" else FAINT,
        )


def _mark_published(axes: Axes, systems: Sequence[System], corpus: str) -> bool:
    """Mark the paper's test accuracies on this corpus; whether there are any."""
    marked = False
    for place, system in enumerate(systems):
        published = published_accuracy(system.kind, system.alpha).get(corpus)
        if published is not None:
            marked = True
            axes.plot(
                published,
                place - 0.19,
                marker="D",
                markersize=4.5,
                color="white",
                markeredgecolor=INK,
                zorder=4,
            )
    return marked


def history_figure(systems: Sequence[System], accuracy: str) -> bytes:
    """Valid accuracy by epoch, mean over seeds, one line per student."""
    figure, axes = _canvas(4.6, 3.2)
    for system in systems:
        curve = system.history.groupby("epoch")["valid_accuracy"].mean()
        axes.plot(
            curve.index,
            curve,
            color=_system_colour(system, systems),
            linewidth=1.5,
            marker="o" if len(curve) == 1 else None,
            label=system.title,
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"valid {accuracy} (%)")
    axes.grid()
    axes.tick_params(length=0)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_title("Training")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=1.4)
    return _png(figure)


def robustness_figure(
    students: Sequence[System],
    scores: Sequence[DegradedScores],
    corpus: str,
    accuracy: str,
) -> bytes:
    """Accuracy against the signal-to-noise ratio, a plot per noise; then without noise.

    Lines are means over seeds, bands and bars one deviation to either side.
    """
    noises = list(dict.fromkeys(s.degradation for s in scores if s.snr is not None))
    (clean,) = (s for s in scores if s.degradation == CLEAN)
    others = [s for s in scores if s.snr is None and s is not clean]
    widths = [3.4] * len(noises) + [0.9] * len(others)
    figure = Figure(figsize=(1, 1))
    first = figure.add_axes((0, 0, widths[0], 3.2))
    panels, left = [first], 0.0
    for before, width in pairwise(widths):
        left += before + 0.2
        panels.append(figure.add_axes((left, 0, width, 3.2), sharey=first))
    for noise, axes in zip(noises, panels, strict=False):
        noisy = [s for s in scores if s.degradation == noise]
        _noise_lines(axes, students, clean, noisy)
    for other, axes in zip(others, panels[len(noises) :], strict=True):
        _points_without_noise(axes, students, other)
    for axes in panels:
        axes.grid(axis="y")
        axes.tick_params(length=0, labelleft=axes is first)
    first.set_ylabel(f"test {accuracy} (%)")
    first.set_title(f"Robustness, {corpus}")
    panels[-1].legend(
        handles=[
            Line2D(
                [],
                [],
                color=_system_colour(student, students),
                marker="o",
                markersize=3.5,
                label=student.title,
            )
            for student in students
        ],
        loc="center left",
        bbox_to_anchor=(1.05, 0.5),
        handlelength=1.4,
    )
    return _png(figure)


def _noise_lines(
    axes: Axes,
    students: Sequence[System],
    clean: DegradedScores,
    noisy: Sequence[DegradedScores],
) -> None:
    """Accuracy by signal-to-noise ratio, a line per student."""
    # The loudest noise is on the right; `clean` is one step left of the faintest.
    marks = {-scores.snr: scores for scores in noisy if scores.snr is not None}
    step = max(5.0, (max(marks) - min(marks)) / 4)
    marks[min(marks) - step] = clean
    places = sorted(marks)
    for student in students:
        mean, deviation = _means([marks[place] for place in places], student)
        colour = _system_colour(student, students)
        # Dotted to `clean`, which has no ratio, so its slope has no meaning.
        for part, style in ((slice(0, 2), ":"), (slice(1, None), "-")):
            axes.plot(
                places[part],
                mean[part],
                style,
                color=colour,
                marker="o",
                markersize=3.5,
                linewidth=1.5,
            )
        axes.fill_between(
            places,
            mean - deviation,
            mean + deviation,
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
    axes.set_xticks(places, [CLEAN, *(f"{-place:g}" for place in places[1:])])
    axes.set_xlabel(f"{noisy[0].degradation}, signal-to-noise ratio (dB)")


def _points_without_noise(
    axes: Axes, students: Sequence[System], scores: DegradedScores
) -> None:
    """Accuracy for one degradation, a point per student."""
    for place, student in enumerate(students):
        mean, deviation = _means([scores], student)
        axes.errorbar(
            place,
            mean[0],
            yerr=deviation[0],
            color=_system_colour(student, students),
            marker="o",
            markersize=4.5,
            elinewidth=1.2,
        )
    axes.set_xticks([])
    axes.margins(x=0.2)
    axes.set_xlabel(scores.degradation.replace(", ", ",\n"))


def _means(
    scores: Sequence[DegradedScores], student: System
) -> tuple[np.ndarray, np.ndarray]:
    """A student's accuracy and its deviation for each degradation."""
    rows = [one.rows[student.name] for one in scores]
    return (
        np.array([row["accuracy"] for row in rows]),
        np.array([row["accuracy_std"] for row in rows]),
    )


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes of that size in inches; `_png` adds room for labels and legends."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes((0, 0, 1, 1))


def _png(figure: Figure) -> bytes:
    """The figure as PNG, without matplotlib's version in the metadata."""
    stream = io.BytesIO()
    figure.savefig(
        stream,
        format="png",
        bbox_inches="tight",
        pad_inches=0.12,
        metadata={"Software": None},
    )
    return stream.getvalue()


def _dot(
    marker: str, colour: str, label: str, *, size: float, edge: str = "none"
) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        markersize=size,
        markerfacecolor=colour,
        markeredgecolor=edge,
        label=label,
    )


def _system_colour(
    system: System, systems: Sequence[System]
) -> tuple[float, float, float]:
    """The colour of its kind, paler for a smaller α."""
    alphas = sorted(s.alpha or 0.0 for s in systems if s.kind == system.kind)
    above = len(alphas) - 1 - alphas.index(system.alpha or 0.0)
    return _paler(KIND_COLOURS[system.kind], 0.55 * above / max(len(alphas) - 1, 1))


def _paler(colour: str, share: float) -> tuple[float, float, float]:
    """`colour` with that share of white."""
    red, green, blue = (part + (1 - part) * share for part in to_rgb(colour))
    return red, green, blue


def _label(intent: str) -> str:
    """An intent as a figure shows it: slots separated, long names cut."""
    text = " ".join(intent.replace("|", " · ").split())
    if _columns(text) <= _LONGEST_LABEL:
        return text
    while _columns(text) >= _LONGEST_LABEL:
        text = text[:-1]
    return text + "…"


def _columns(text: str) -> int:
    """The width of a text: a Chinese character is as wide as two Latin letters."""
    wide = (unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + sum(wide)
