"""Tables and sizes as plain text."""

from collections.abc import Sequence


def format_size(size: float) -> str:
    """A size in bytes with the unit that fits: `17 B`, `8.4 MB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )
