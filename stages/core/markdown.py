"""Text of a corpus in Markdown: it is shown as it is, whatever it contains."""

import re

# What starts emphasis, code, a link, HTML, an entity, a formula or a cell.
# An underscore between letters is one.
_MARKUP = re.compile(r"([\\`*\[\]<>&|~$]|(?<![^\W_])_|_(?![^\W_]))")


def escape(text: str) -> str:
    """Text for a paragraph or a table's cell."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text for a table's cell, in a fixed-width font; a dash if there is none."""
    shown = " ".join(text.split())
    if not shown:
        return "–"
    # A fence of more backticks than there are within.
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if "`" in shown[0] + shown[-1] else ""
    bars = shown.replace("|", r"\|")  # they end a cell even within code
    return f"{fence}{space}{bars}{space}{fence}"
