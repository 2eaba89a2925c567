"""The report's figures: what they draw, in which colours, and the same bytes."""

import io

import matplotlib
import pandas as pd
from matplotlib.image import imread

from stages.report import figures
from stages.report.figures import confusion_figure, history_figure, styled
from stages.report.systems import HISTORY_COLUMNS, System


def test_a_confusion_matrix_of_31_intents_fits_its_picture():
    intents = [f"change language|number {i:02d}|washroom" for i in range(31)]
    table = pd.DataFrame(
        {
            "split": "test",
            "intent": intents * 4,
            "predicted": intents * 3 + intents[1:] + intents[:1],
        }
    )
    with styled():
        figure = confusion_figure({"Confusion": (table, intents)})
    picture = imread(io.BytesIO(figure))
    height, width = picture.shape[:2]
    assert 31 * 35 < min(height, width) <= max(height, width) < 2200
    edges = [picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]]
    assert all((edge == 1).all() for edge in edges), "something is cut off"


def test_the_confusion_of_slots_has_a_panel_for_each_and_the_worst_values(monkeypatch):
    values = [f"value {number}" for number in range(9)]
    rows = pd.DataFrame({"intent": values, "predicted": values[:7] + values[8:6:-1]})
    monkeypatch.setattr(figures, "MOST_CONFUSED", 2)
    assert figures._most_confused(rows, values) == values[7:]
    with styled():
        heights = [
            imread(io.BytesIO(confusion_figure(panels))).shape[0]
            for panels in (
                {"one": (rows, values)},
                {"one": (rows, values), "other": (rows, values)},
            )
        ]
    assert heights[1] > 1.9 * heights[0]


def test_pictures_do_not_follow_a_users_settings():
    history = pd.DataFrame(
        [
            (1, 1, 1.0, 1.0, 1.0, 10.0, 20.0, 20.0),
            (1, 2, 0.5, 0.5, 0.5, 30.0, 40.0, 40.0),
        ],
        columns=list(HISTORY_COLUMNS),
    )
    systems = [System("aln-0.5", "aln", 0.5, history, history)]
    with styled():
        plain = history_figure(systems, "accuracy")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 20}), styled():
        assert history_figure(systems, "accuracy") == plain
