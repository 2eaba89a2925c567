"""The report's figures: what they draw, in which colours, and the same bytes."""

import matplotlib
import pandas as pd
import pytest

from stages.report import scores
from stages.report.curves import history_chart
from stages.report.panels import html, png, svg
from stages.report.scores import most_confused
from stages.report.style import styled
from stages.report.systems import HISTORY_COLUMNS, System


@pytest.fixture
def students() -> list[System]:
    """Two students with two epochs, one of them without a transfer loss."""
    found = []
    for name, transfer in (("baseline2", float("nan")), ("aln-0.5", 1.0)):
        history = pd.DataFrame(
            [
                (1, 1, 1.0, transfer, 1.0, 10.0, 20.0, 20.0),
                (1, 2, 0.5, transfer / 2, 0.5, 30.0, 40.0, 40.0),
            ],
            columns=list(HISTORY_COLUMNS),
        )
        kind = name.partition("-")[0]
        found.append(System(name, kind, None, history, history))
    return found


def test_the_most_confused_values_are_those_in_the_most_errors(monkeypatch):
    values = [f"value {number}" for number in range(9)]
    rows = pd.DataFrame({"intent": values, "predicted": values[:7] + values[8:6:-1]})
    monkeypatch.setattr(scores, "MOST_CONFUSED", 2)
    assert most_confused(rows, values) == values[7:]


@pytest.mark.parametrize(
    "form", [png, lambda one: svg(one, "x"), lambda x: html(x, "x")]
)
def test_figures_do_not_follow_a_users_settings(students, form):
    with styled():
        plain = form(history_chart(students))
    user = {"axes.facecolor": "red", "font.size": 20, "svg.fonttype": "path"}
    with matplotlib.rc_context(user), styled():
        assert form(history_chart(students)) == plain
