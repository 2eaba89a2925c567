"""Figure 2: the embeddings of teacher and student on a plane."""

from functools import partial

from matplotlib.axes import Axes

from stages.report.panels import Chart, Panel
from stages.report.projection import Projection
from stages.report.style import GROUND, INTENT_COLOURS, SOFT, shown


def projection_chart(projection: Projection) -> Chart:
    """A panel per epoch: triangles are the teacher's, dots the student's."""
    points = {
        "teacher (BERT)": {"marker": "^", "markersize": 6, "color": SOFT},
        "student": {"marker": "o", "markersize": 4.5, "color": SOFT},
    }
    intents = {
        shown(intent): {"marker": "s", "markersize": 7, "color": colour}
        for intent, colour in zip(projection.shown, INTENT_COLOURS, strict=False)
    }
    panels = [
        Panel(
            title,
            partial(_scatter, projection, title),
            width=3.7,
            height=3.9,
            left=0.1,
            bottom=0.1,
        )
        for title in projection.panels
    ]
    keys = [
        {**style, "label": label, "linestyle": "none"}
        for label, style in [*points.items(), *intents.items()]
    ]
    return Chart(panels, keys)


def _scatter(projection: Projection, title: str, axes: Axes) -> None:
    """The points of one epoch, coloured by intent."""
    teacher, student = projection.panels[title]
    for intent, colour in zip(projection.shown, INTENT_COLOURS, strict=False):
        chosen = projection.intents == intent
        for points, marker, size, order in (
            (student, "o", 3.8, 2),
            (teacher, "^", 6.0, 3),
        ):
            axes.plot(
                *points[chosen].T,
                marker,
                color=colour,
                markersize=size,
                markeredgecolor=GROUND,
                markeredgewidth=0.4,
                zorder=order,
            )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.06)
    axes.spines[:].set_visible(True)
