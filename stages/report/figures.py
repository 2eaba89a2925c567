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

_FILES = ("accuracy", "figure2", "robustness")


def draw(found: Findings) -> dict[str, bytes]:
    """The files of figures, by name."""
    figures = charts(found)
    labels = [found.corpus, *map(shown, found.projection.shown)]
    labels += [scores.degradation for scores in found.robustness]
    with styled(families(labels)):
        files = {
            f"{name}.png": panels.png(figures[name])
            for name in _FILES
            if name in figures
        }
    with styled():
        files["figure2.svg"] = panels.svg(figures["figure2"], "figure2")
    return files


def inline(found: Findings) -> dict[str, str]:
    """Every figure for the HTML page, by name."""
    with styled():
        return {name: panels.html(one, name) for name, one in charts(found).items()}


def charts(found: Findings) -> dict[str, Chart]:
    """Every figure, by name; without those that were not measured."""
    title = f"{'Frame' if found.labels.has_slots else 'Intent'} accuracy"
    students = found.students
    figures = {
        "accuracy": accuracy_chart(title, found.corpus, found.systems, found.rows),
        "history": history_chart(students),
        "figure2": projection_chart(found.projection),
        "calibration": calibration_chart(students, found.calibration, found.detailed),
    }
    if found.rejection:
        figures["rejection"] = rejection_chart(students, found.rejection)
    if found.robustness:
        figures["robustness"] = robustness_chart(
            students, found.robustness, found.accuracy
        )
    return figures
