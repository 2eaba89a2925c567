"""The report's figures: what they draw, in which colours, and the same bytes."""

import io
import re
from collections import Counter
from itertools import combinations
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from stages.core.labels import Labels
from stages.report import figures
from stages.report.curves import history_chart
from stages.report.panels import Panel, png
from stages.report.projection import Projection
from stages.report.robustness import DegradedScores
from stages.report.style import INK, INTENT_COLOURS, KIND_COLOURS, line_style, styled
from stages.report.systems import HISTORY_COLUMNS, System, parse_name

NAMES = ("baseline2", "aln_linguistic-0.8", "aln-0.5", "aln-0.8", "recommended")
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ("<script>alert(1)</script>", "$x$ #ffffff", "\u202e\u0627\u0628", 300 * "W")


def student(place: int, name: str) -> System:
    """A student with two seeds of three epochs; only ALN has a transfer loss."""
    transfer = 1.0 if name.startswith("aln") else float("nan")
    history = [
        (seed, epoch, 1.0, transfer / epoch, seed / epoch, 1.0, 10 * epoch + seed, 1.0)
        for seed in (1, 3)
        for epoch in (1, 2, 3)
    ]
    table = pd.DataFrame(history, columns=list(HISTORY_COLUMNS))
    return System(name, *parse_name(name), table, table)


@pytest.fixture
def found() -> SimpleNamespace:
    """What the figures need of `Findings`."""
    systems = [student(*one) for one in enumerate(NAMES)]
    places = dict(zip(NAMES, range(len(NAMES)), strict=True))
    bins = [
        {"low": 0.0, "high": 0.5, "utterances": 4.0, "confidence": 40.0, "accuracy": 9},
        {"low": 0.5, "high": 0.8, "utterances": 6.0, "confidence": 70.0, "accuracy": 6},
        {"low": 0.8, "high": 1, "utterances": 0, "confidence": None, "accuracy": None},
    ]
    points = np.random.default_rng(0).normal(size=(2, 8, 2))
    degraded = [
        DegradedScores(
            kind,
            snr,
            {
                name: {"accuracy": 50.0 + place, "accuracy_std": 1.0}
                for name, place in places.items()
            },
        )
        for kind, snr in (
            ("clean", None),
            ("babble", 10),
            ("babble", 0),
            ("room", None),
        )
    ]
    return SimpleNamespace(
        corpus="fsc",
        labels=Labels({"intent": list(HOSTILE)}),
        systems=systems,
        students=systems,
        accuracy="accuracy",
        rows={
            name: {
                "seeds": 2,
                "test_accuracy": 70.0 + place,
                "test_accuracy_std": 1.0,
                "test_interval": (60.0 + place, 80.0 + place),
                "valid_accuracy": 75.0 + place,
            }
            for name, place in places.items()
        },
        projection=Projection(
            {"(a) first epoch": points, "(b) last epoch": points + 1},
            np.array(2 * HOSTILE),
            list(HOSTILE),
            30.0,
            1.0,
        ),
        robustness=degraded,
        detailed=systems[2],
        calibration=dict.fromkeys(NAMES, bins),
        rejection=SimpleNamespace(
            others={"speech": {}, "noise": {}},
            rows={
                name: {
                    "test_rejected": 10.0 + place,
                    "speech_false_accepts": 20.0 + place,
                    "noise_false_accepts": 30.0 + place,
                }
                for name, place in places.items()
            },
            curves={
                name: {
                    kind: [[0, 0], [50, place], [100, 9]]
                    for kind in ("speech", "noise")
                }
                for name, place in places.items()
            },
        ),
    )


def lines(panel: Panel) -> dict[str, list[np.ndarray]]:
    """The points of a panel's lines, (n, 2) each, by colour."""
    axes = Figure().add_subplot()
    with styled():
        panel.draw(axes)
    drawn: dict[str, list[np.ndarray]] = {}
    for line in axes.lines:
        drawn.setdefault(line.get_color(), []).append(np.array(line.get_xydata()))
    return drawn


def test_curves_are_what_was_measured(found):
    charts = figures.charts(found)
    loss, intent, accuracy = charts["history"].panels
    assert set(lines(loss)) == {KIND_COLOURS["aln"], KIND_COLOURS["aln_linguistic"]}
    baseline = KIND_COLOURS["baseline2"]
    assert lines(intent)[baseline][0].tolist() == [[1, 2], [2, 1], [3, 2 / 3]]
    assert lines(accuracy)[baseline][0].tolist() == [[1, 12], [2, 22], [3, 32]]

    (calibration,) = charts["calibration"].panels
    assert lines(calibration)[baseline][0].tolist() == [[70, 6]]

    speech, noise = charts["rejection"].panels
    curve, point = lines(noise)[KIND_COLOURS["recommended"]]
    assert curve.tolist() == [[0, 0], [50, 4], [100, 9]]
    assert point.tolist() == [[100 - 14, 34]]
    assert lines(speech)[KIND_COLOURS["recommended"]][1].tolist() == [[86, 24]]


def test_accuracies_have_their_interval_valid_and_the_papers(found):
    (panel,) = figures.charts(found)["accuracy"].panels
    drawn = lines(panel)
    own = [points.tolist() for points in drawn[KIND_COLOURS["aln"]]]
    assert own[:3] == [[[62, 2], [82, 2]], [[77, 2]], [[72, 2]]]
    paper = [points.tolist() for points in drawn[INK]]
    assert [[98.80, 0]] in paper and [[99.02, 2]] in paper and len(paper) == 4


def test_a_figure_that_was_not_measured_is_absent(found):
    assert {"rejection", "robustness"} <= set(figures.inline(found))
    found.rejection, found.robustness = None, []
    assert not {"rejection", "robustness"} & set(figures.inline(found))
    assert set(figures.draw(found)) == {"accuracy.png", "figure2.png", "figure2.svg"}


def test_the_page_gets_svg_in_its_own_fonts_and_colours(found):
    parts = figures.inline(found)
    page = "".join(parts.values())
    assert not re.search(r"<\?xml|<!DOCTYPE|<style|<script|font-family|<metadata", page)
    ids = Counter(re.findall(r'\bid="([^"]+)"', page))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
    assert set(ids.values()) == {1} and {a or b for a, b in used} == set(ids)
    root = ElementTree.fromstring(f"<x>{page}</x>")
    panels = [one for one in root.iter(f"{SVG}svg") if "aria-hidden" not in one.attrib]
    assert len(panels) == 1 + 2 + 2 + 3 + 1 + 2
    for one in panels:
        assert one.get("role") == "img" and one.get("aria-label")
        assert "width" not in one.attrib and one.get("viewBox")
    styles = [one.get("style", "") for one in root.iter()]
    assert "fill: var(--card)" not in styles, "a ground of its own"
    drawn = " ".join(styles)
    ours = {*KIND_COLOURS.values(), *INTENT_COLOURS}
    assert set(re.findall(r"#[0-9a-f]{6}", drawn)) <= ours
    assert set(re.findall(r"var\((.*?)\)", drawn)) == {
        *("--ink", "--soft", "--line", "--card"),
    }
    keys = [one.text for one in root.findall("p/span/bdi")]
    assert {*HOSTILE[:3], 39 * "W" + "…"} <= set(keys)
    texts = [one.text for one in root.iter(f"{SVG}text")]
    assert "Baseline-2, acoustic embeddings" in texts


def test_pictures_have_every_label_whole_and_svg_has_it_as_text(found):
    files = figures.draw(found)
    for name in ("accuracy.png", "figure2.png", "robustness.png"):
        picture = imread(io.BytesIO(files[name]))
        assert max(picture.shape) < 2200
        edges = [picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]]
        assert all((edge == 1).all() for edge in edges), f"{name} is cut off"
    texts = [one.text for one in ElementTree.fromstring(files["figure2.svg"]).iter()]
    assert {*HOSTILE[:3], "teacher (BERT)"} <= set(texts)
    assert b"var(" not in files["figure2.svg"]


def test_figures_follow_the_data_alone_not_a_users_settings(found):
    plain = figures.draw(found), figures.inline(found)
    user = {"axes.linewidth": 5, "font.size": 20, "svg.fonttype": "path"}
    with matplotlib.rc_context(user | {"font.family": "monospace"}):
        assert (figures.draw(found), figures.inline(found)) == plain


def test_one_epoch_is_a_dot():
    one = student(0, "baseline2")
    one = System(*(one.name, one.kind, None, one.predictions, one.history[:1]))
    with styled():
        drawn = imread(io.BytesIO(png(history_chart([one]))))
    wanted = np.array(to_rgb(KIND_COLOURS["baseline2"]))
    assert (np.abs(drawn[..., :3] - wanted) < 0.02).all(axis=-1).sum() > 3 * 20


# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Of sRGB, IEC 61966-2-1.
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colour: str) -> np.ndarray:
    """Linear RGB."""
    value = np.array(to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def cielab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB, white D65."""
    share = TO_XYZ @ rgb / TO_XYZ.sum(axis=1)
    x, y, z = np.where(
        share > (6 / 29) ** 3, np.cbrt(share), share / 3 / (6 / 29) ** 2 + 4 / 29
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(
    ("colours", "least"),
    [(KIND_COLOURS.values(), 20), (INTENT_COLOURS, 14), (INTENT_COLOURS[:6], 20)],
)
def test_colours_can_be_told_apart_by_the_colour_blind(colours, least, vision):
    matrix = np.array(VISIONS[vision])
    seen = [cielab(np.clip(matrix @ linear(one), 0, 1)) for one in colours]
    for first, second in combinations(seen, 2):
        assert np.linalg.norm(first - second) > least


@pytest.mark.parametrize("ground", ["#ffffff", "#1b1f24"])
def test_colours_stand_out_on_a_light_and_a_dark_page(ground):
    def luminance(colour: str) -> float:
        return float((TO_XYZ @ linear(colour))[1]) + 0.05

    for colour in (*KIND_COLOURS.values(), *INTENT_COLOURS):
        pair = sorted((luminance(colour), luminance(ground)))
        assert pair[1] / pair[0] >= 3, colour  # WCAG 2.2, 1.4.11


def test_lines_differ_not_only_by_colour():
    names = ["baseline2", "recommended"]
    names += [f"{kind}-0.{n}" for kind in ("aln", "aln_linguistic") for n in (2, 5, 8)]
    systems = [student(0, name) for name in names]
    looks = {
        (one["marker"], str(one["linestyle"]))
        for one in (line_style(system, systems) for system in systems)
    }
    assert len(looks) == len(systems)
