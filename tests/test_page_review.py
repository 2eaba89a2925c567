"""The report's page: contrast, names that are long, sorting, and stale pages."""

import re
import shutil
from itertools import product
from pathlib import Path

import pytest
from reports import ERRORS, PERFECT, build, report

from stages.report.params import EMBEDDED, ReportParams

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu"]
CSS = Path("stages/report/templates/page.css").read_text("utf-8")
# What is written on which grounds; cells of a matrix have theirs from none to full.
CONTRASTS = [
    *product(("ink", "soft", "accent"), ("page", "card")),
    ("wrong", "card"),
    *product(("ink",), ("mid", "warm")),
]


def luminance(colour: str) -> float:
    """Of sRGB, as WCAG defines it."""
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values
    ]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("place", [0, 1], ids=["light", "dark"])
def test_text_can_be_read(place):
    colours = dict(
        re.findall(r"--(\w+): (#\w{6})", re.findall(r":root {.*?}", CSS, re.S)[place])
    )
    for text, ground in CONTRASTS:
        dark, bright = sorted(luminance(colours[one]) for one in (text, ground))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_a_page_of_other_results_is_written_again(tmp_path):
    given = build(tmp_path / "given")
    output = tmp_path / "report"
    assert not report(given, output).up_to_date
    assert report(given, output).up_to_date
    own = (output / "index.html").read_bytes()
    # As after `git checkout` of another revision's report: git does not have the page.
    other = build(tmp_path / "other", errors=PERFECT)
    report(other, tmp_path / "others")
    shutil.copy(tmp_path / "others" / "index.html", output)
    assert not report(given, output).up_to_date
    assert (output / "index.html").read_bytes() == own


def test_without_errors_the_page_does_not_blame_a_parameter(tmp_path):
    given = build(tmp_path / "given", errors=PERFECT, recordings=True)
    report(given, tmp_path / "report", ReportParams(audio=EMBEDDED))
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "There are no recordings on this page" not in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_long_names_fit_a_phone_and_tables_sort_by_number_or_text(tmp_path):
    from playwright.sync_api import sync_playwright

    speakers = ["9 b", "10 a", "W" * 300]
    given = build(
        tmp_path / "given",
        # Behind and ahead of Baseline-2.
        errors={**ERRORS, "aln-0.5": {"valid": (9, 9), "test": (9, 9)}},
        change=lambda table: table.assign(
            speaker=[speakers[place % 3] for place in range(len(table))]
        ),
    )
    report(given, tmp_path / "report")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 360, "height": 800})
        page.goto((tmp_path / "report" / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 360

        def column(place: int) -> list[str]:
            rows = "rows => rows.map(row => row.cells[%d].textContent.trim())"
            return table.locator("tbody tr").evaluate_all(rows % place)

        table = page.locator("#systems table").first
        gains = [one.split(" ")[0].replace("−", "-") for one in column(4)]
        numbers = sorted(float(one) for one in gains if one != "–")
        header = table.locator("th").nth(4)
        assert numbers[0] < 0 < numbers[-1]  # of both signs
        for order, expected in (
            ("descending", [*(f"{one:+.2f}" for one in numbers[::-1]), "–"]),
            ("ascending", ["–", *(f"{one:+.2f}" for one in numbers)]),
        ):
            header.locator("button").press("Enter")
            assert header.get_attribute("aria-sort") == order
            shown = [one.split(" ")[0].replace("−", "-") for one in column(4)]
            assert shown == expected
        table = page.locator("#groups table").last
        table.locator("thead button").first.press("Space")
        assert column(0) == speakers
        browser.close()
