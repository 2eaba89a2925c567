"""The report's figures: pictures as files, and SVG for the page.

They use `Figure` objects with matplotlib's defaults and our style, so they need no
display and neither follow nor change the user's matplotlib settings. The same data
gives the same bytes; only a picture of labels that matplotlib's own font does not have
depends on the fonts that are installed.
"""

from stages.report import panels
from stages.report.accuracy_figure import accuracy_chart
from stages.report.curves import calibration_chart, history_chart, rejection_chart
from stages.report.findings import Findings
from stages.report.fonts import families
from stages.report.panels import Chart
from stages.report.projection_figure import projection_chart
from stages.report.robustness_figure import robustness_chart
from stages.report.style import shown, styled


def draw(found: Findings) -> dict[str, bytes]:
    """The files of figures, by name."""
    figures = _files(found)
    labels = [found.corpus, *map(shown, found.projection.shown)]
    labels += [scores.degradation for scores in found.robustness]
    with styled(families(labels)):
        files = {f"{name}.png": panels.png(own) for name, own in figures.items()}
    with styled():
        files["figure2.svg"] = panels.svg(figures["figure2"], "figure2")
    return files


def inline(found: Findings) -> dict[str, str]:
    """Each figure for the HTML page, by name."""
    figures = {
        **_files(found),
        "history": history_chart(found.students),
        "calibration": calibration_chart(
            found.students, found.calibration, found.detailed
        ),
    }
    if found.rejection:
        figures["rejection"] = rejection_chart(
            found.students, found.rejection, found.rejection.curves
        )
    with styled():
        return {name: panels.html(own, name) for name, own in figures.items()}


def _files(found: Findings) -> dict[str, Chart]:
    """The figures that are files too."""
    what = "Frame" if found.labels.has_slots else "Intent"
    title = f"{what} accuracy"
    figures = {
        "accuracy": accuracy_chart(title, found.corpus, found.systems, found.rows),
        "figure2": projection_chart(found.projection),
    }
    if found.robustness:
        figures["robustness"] = robustness_chart(
            found.students, found.robustness, found.accuracy
        )
    return figures
