"""The page on reliability states how many faults there were."""

import re
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_page_states_the_counts(counts: Counter[str]) -> None:
    page = Path("docs/reliability.md").read_text("utf-8")
    rows = re.findall(r"^\| ([a-z ]+) \| ([\d,]+) \|", page, re.MULTILINE)
    stated = {name: int(number.replace(",", "")) for name, number in rows}
    if not stated.keys() <= counts.keys():
        pytest.skip("some faults were not tried")
    # Rounded down: another fsync in the code is another kill.
    for name, number in stated.items():
        assert number <= counts[name] <= 1.1 * number, name
