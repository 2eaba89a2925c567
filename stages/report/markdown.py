"""Tables and numbers as the report's page shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

_NONE = "–"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column aligned left, the others right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def format_count(value: float | None) -> str:
    """An integer as it is, another number to two places, None as a dash."""
    if value is None:
        return _NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def format_difference(value: float) -> str:
    """A number with its sign."""
    return ("−" if value < 0 else "+") + format_count(abs(value))


def format_percent(value: float | None) -> str:
    """A number to two places; None and NaN as a dash."""
    return _NONE if value is None or pd.isna(value) else f"{value:.2f}"


def format_spread(row: Mapping[str, Any], name: str, *, places: int = 2) -> str:
    """`row[name]` ± its deviation over seeds, if there are several; NaN as a dash."""
    if pd.isna(row[name]):
        return _NONE
    text = f"{row[name]:.{places}f}"
    return text if row["seeds"] == 1 else f"{text} ± {row[f'{name}_std']:.{places}f}"


def format_interval(ends: tuple[float, float] | None) -> str:
    """`77.11 to 81.81`; None as a dash."""
    return "{:.2f} to {:.2f}".format(*ends) if ends else _NONE


def format_gain(row: Mapping[str, Any] | None, name: str = "difference") -> str:
    """A difference and its interval, `+0.22 (−2.31 to +2.63)`; None as a dash."""
    if row is None or row[name] is None:
        return _NONE
    value, low, high = map(format_difference, (row[name], *row[f"{name}_interval"]))
    return f"{value} ({low} to {high})"


def format_p(value: float) -> str:
    """A p-value to three places."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
