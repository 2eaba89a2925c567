"""The report's pictures, each a PNG as bytes: the same data gives the same bytes.

Drawn on `Figure` objects with matplotlib's defaults and `STYLE`, so that neither a
display nor a user's own settings take part and none are changed.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from stages.report.params import MOST_INTENTS
from stages.report.published import published_accuracy
from stages.report.robustness import CLEAN, Spoilt
from stages.report.systems import System

INK = "#22272e"
FAINT = "#8b939c"
RULE = "#dfe3e8"
STYLE = {
    "font.family": "DejaVu Sans",
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
}
# Distinct to the colour-blind too: Paul Tol's «bright» and four of his «muted».
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
# Rare errors must show: their colour rises fastest at the start.
_RIGHT = LinearSegmentedColormap.from_list("right", ["#ffffff", "#6fa3cc", "#1d4f7c"])
_WRONG = LinearSegmentedColormap.from_list(
    "wrong", [(0.0, "#ffffff"), (0.05, "#faecd9"), (0.4, "#e0a052"), (1.0, "#a85f12")]
)
_LONGEST_LABEL = 40
# A legend on the title's line, right.
_BESIDE_TITLE: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 1),
    "ncols": 3,
    "borderaxespad": 0.4,
    "fontsize": 8,
    "handlelength": 1.0,
    "handleheight": 0.8,
    "columnspacing": 1.2,
}


@dataclass(frozen=True)
class Panel:
    """One t-SNE plane of Figure 2.

    Attributes:
        title: which epoch.
        teacher: where E_lang lies, (n, 2).
        student: where the pooled ê_lang lies, (n, 2).
    """

    title: str
    teacher: np.ndarray
    student: np.ndarray


def confusion_figure(
    predictions: pd.DataFrame, intents: Sequence[str], title: str
) -> bytes:
    """Which intent is taken for which on test, a row's shares in percent."""
    test = predictions[predictions["split"] == "test"]
    counts = pd.crosstab(test["intent"], test["predicted"]).reindex(
        index=list(intents), columns=list(intents), fill_value=0
    )
    counted = counts.to_numpy(dtype=float)
    shares = 100 * counted / np.maximum(counted.sum(axis=1, keepdims=True), 1)
    size = len(intents)
    side = max(0.27 * size, 2.0)
    right = np.eye(size, dtype=bool)
    with matplotlib.style.context(["default", STYLE]):
        figure, axes = _canvas(side, side)
        for hidden, colours in ((~right, _RIGHT), (right, _WRONG)):
            axes.imshow(
                np.ma.masked_array(shares, hidden), cmap=colours, vmin=0, vmax=100
            )
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
        labels = [_label(intent) for intent in intents]
        axes.set_xticks(range(size), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(size), labels, fontsize=7)
        axes.set_xticks(np.arange(0.5, size - 1), minor=True)
        axes.set_yticks(np.arange(0.5, size - 1), minor=True)
        axes.grid(which="minor", linewidth=0.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(True)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        axes.set_title(f"{title}, % of the actual intent")
        return _png(figure)


def projection_figure(
    panels: Sequence[Panel], intents: np.ndarray, shown: Sequence[str]
) -> bytes:
    """Figure 2: teacher and student embeddings, a plane an epoch.

    Args:
        panels: left to right.
        intents: of the points, (n,).
        shown: the distinct intents, in the order of their colours.
    """
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(4.2 * len(panels), 4.2))
        width = 1 / len(panels)
        for place, panel in enumerate(panels):
            axes = figure.add_axes((place * width, 0, 0.95 * width, 1))
            for intent, colour in zip(shown, INTENT_COLOURS, strict=False):
                chosen = intents == intent
                axes.scatter(
                    panel.student[chosen, 0],
                    panel.student[chosen, 1],
                    s=13,
                    marker="o",
                    color=colour,
                    alpha=0.6,
                    linewidths=0,
                )
                axes.scatter(
                    panel.teacher[chosen, 0],
                    panel.teacher[chosen, 1],
                    s=26,
                    marker="^",
                    color=colour,
                    edgecolors="white",
                    linewidths=0.5,
                    zorder=3,
                )
            axes.set_title(panel.title)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.margins(0.06)
            axes.spines[:].set_visible(True)
        axes.legend(
            handles=[
                _dot("^", INK, r"BERT, $E_{\mathrm{lang}}$", size=6),
                _dot("o", FAINT, r"student, $\hat{E}_{\mathrm{lang}}$", size=5),
            ],
            **_BESIDE_TITLE,
        )
        labels = [_label(intent) for intent in shown]
        figure.legend(
            handles=[
                Patch(color=colour, label=label)
                for label, colour in zip(labels, INTENT_COLOURS, strict=False)
            ],
            loc="upper center",
            bbox_to_anchor=(0.5, -0.01),
            ncols=3 if max(map(len, labels)) < 32 else 2,
            fontsize=8,
            handlelength=1.0,
            handleheight=0.8,
        )
        return _png(figure)


def accuracy_figure(
    systems: Sequence[System],
    rows: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, tuple[float, float]],
    corpus: str,
) -> bytes:
    """Test and valid accuracy of each system.

    The figures have the deviation over seeds, test's bars the interval over utterances.
    The paper's accuracies stand beside only where the corpus is one of the paper's.
    """
    with matplotlib.style.context(["default", STYLE]):
        figure, axes = _canvas(5.0, 0.7 * len(systems))
        known = False
        for place, system in enumerate(systems):
            row, colour = rows[system.name], KIND_COLOURS[system.kind]
            for split, shift, tone in (
                ("test", -0.19, 0.0),
                ("valid", 0.19, 0.55),
            ):
                mean = row[f"{split}_accuracy"]
                deviation = row[f"{split}_accuracy_std"]
                axes.barh(place + shift, mean, 0.34, color=_paler(colour, tone))
                label = f"{mean:.1f}"
                if row["seeds"] > 1:
                    label += f" ± {deviation:.1f}"
                axes.text(
                    103,
                    place + shift,
                    label,
                    va="center",
                    fontsize=7.5,
                    color=INK if split == "test" else FAINT,
                )
            low, high = intervals[system.name]
            mean = row["test_accuracy"]
            axes.errorbar(
                mean,
                place - 0.19,
                # The percentiles of a resample may miss the mean itself by rounding.
                xerr=[[max(mean - low, 0)], [max(high - mean, 0)]],
                color=INK,
                elinewidth=0.8,
                capsize=2,
            )
            published = published_accuracy(system.kind, system.alpha).get(corpus)
            if published is not None:
                known = True
                axes.plot(
                    published,
                    place - 0.19,
                    marker="D",
                    markersize=4.5,
                    color="white",
                    markeredgecolor=INK,
                    zorder=4,
                )
        axes.set_yticks(range(len(systems)), [system.title for system in systems])
        axes.invert_yaxis()
        axes.set_xlim(0, 118)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("accuracy (%)")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_title(f"Intent accuracy, {corpus}")
        handles: list[Patch | Line2D] = [
            Patch(color=INK, label="test"),
            Patch(color=_paler(INK, 0.55), label="valid"),
            _dot("_", INK, "95% interval", size=9, edge=INK),
        ]
        if known:
            handles.append(_dot("D", "white", "the paper, test", size=4.5, edge=INK))
        axes.legend(handles=handles, **_BESIDE_TITLE)
        return _png(figure)


def history_figure(systems: Sequence[System]) -> bytes:
    """Accuracy on valid by epoch, the mean over seeds, a line a student."""
    with matplotlib.style.context(["default", STYLE]):
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
        axes.set_ylabel("valid accuracy (%)")
        axes.grid()
        axes.tick_params(length=0)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set_title("Training")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=1.4)
        return _png(figure)


def robustness_figure(
    systems: Sequence[System], conditions: Sequence[Spoilt], corpus: str
) -> bytes:
    """Accuracy against the signal-to-noise ratio, a plane a noise; then without noise.

    Lines are means over seeds, bands and bars one deviation to either side.
    """
    noises = list(dict.fromkeys(c.kind for c in conditions if c.snr is not None))
    (clean,) = (c for c in conditions if c.kind == CLEAN)
    others = [c for c in conditions if c.snr is None and c.kind != CLEAN]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(1, 1))
        left, first = 0.0, None
        for noise in noises:
            # The loudest noise right; `clean` a step beyond the faintest, left.
            marks = {
                -c.snr: c for c in conditions if c.snr is not None and c.kind == noise
            }
            step = max(5.0, (max(marks) - min(marks)) / 4)
            marks[min(marks) - step] = clean
            places = sorted(marks)
            axes = figure.add_axes((left, 0, 3.4, 3.2), sharey=first)
            first = first or axes
            for system in systems:
                mean, deviation = _means([marks[place] for place in places], system)
                colour = _system_colour(system, systems)
                # Dotted where the slope says nothing, `clean` having no ratio.
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
            axes.set_xlabel(f"{noise}, signal-to-noise ratio (dB)")
            left += 3.4 + 0.2
        for condition in others:
            assert first is not None
            axes = figure.add_axes((left, 0, 0.9, 3.2), sharey=first)
            for place, system in enumerate(systems):
                mean, deviation = _means([condition], system)
                axes.errorbar(
                    place,
                    mean[0],
                    yerr=deviation[0],
                    color=_system_colour(system, systems),
                    marker="o",
                    markersize=4.5,
                    elinewidth=1.2,
                )
            axes.set_xticks([])
            axes.margins(x=0.2)
            axes.set_xlabel(condition.kind.replace(", ", ",\n"))
            left += 0.9 + 0.2
        for axes in figure.axes:
            axes.grid(axis="y")
            axes.tick_params(length=0, labelleft=axes is first)
        assert first is not None
        first.set_ylabel("test accuracy (%)")
        first.set_title(f"Robustness, {corpus}")
        figure.axes[-1].legend(
            handles=[
                Line2D(
                    [],
                    [],
                    color=_system_colour(system, systems),
                    marker="o",
                    markersize=3.5,
                    label=system.title,
                )
                for system in systems
            ],
            loc="center left",
            bbox_to_anchor=(1.05, 0.5),
            handlelength=1.4,
        )
        return _png(figure)


def _means(
    conditions: Sequence[Spoilt], system: System
) -> tuple[np.ndarray, np.ndarray]:
    """A student's accuracy and its deviation under each condition, (conditions,)."""
    rows = [condition.rows[system.name] for condition in conditions]
    return (
        np.array([row["accuracy"] for row in rows]),
        np.array([row["accuracy_std"] for row in rows]),
    )


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes of that size in inches; `_png` makes room for what stands around them."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_axes((0, 0, 1, 1))


def _png(figure: Figure) -> bytes:
    """All that was drawn, without the version that matplotlib would add."""
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
    """The hue of its kind, paler the smaller α is among those of its kind."""
    alphas = sorted(s.alpha or 0.0 for s in systems if s.kind == system.kind)
    above = len(alphas) - 1 - alphas.index(system.alpha or 0.0)
    return _paler(KIND_COLOURS[system.kind], 0.55 * above / max(len(alphas) - 1, 1))


def _paler(colour: str, share: float) -> tuple[float, float, float]:
    """`colour` with that share of white."""
    red, green, blue = (part + (1 - part) * share for part in to_rgb(colour))
    return red, green, blue


def _label(intent: str) -> str:
    """An intent as a picture shows it, slots apart and of bearable length."""
    text = intent.replace("|", " · ")
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
